"""What the probe's tests share: heartbeat documents, a queue source on a real Valkey, a client."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
from prometheus_client import parser
from redis.asyncio import Redis
from starlette.types import ASGIApp

from daemon.inspecting.answers import Answers
from daemon.inspecting.server_info import ServerInfo, read_servers
from daemon.keys import FamilyKeys
from daemon.metrics import FamilyMetrics

T = TypeVar("T")

NOW = 1_800_000_000.0


def document(**changes: Any) -> dict[str, Any]:
    """Give a healthy worker's heartbeat of one family, email."""
    return {
        "version": "0.1.0",
        "pid": 12,
        "session": "ab",
        "time": NOW - 1,
        "started": NOW - 500,
        "state": "running",
        "loop_lag_seconds": 0.002,
        "redis_up": True,
        "families": {"email": facts()},
    } | changes


def facts(metrics: FamilyMetrics | None = None, **changes: Any) -> dict[str, Any]:
    """Give what a heartbeat says of one family."""
    metrics = metrics or FamilyMetrics(["send_email"])
    figures = {"slots": 10, "running": 3, "claimable_since": None, "last_claim": NOW - 400}
    return figures | {"metrics": metrics.snapshot()} | changes


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


@dataclass
class Figures:
    waiting: int = 0
    active: int = 0
    delayed: int = 0
    blocked: int = 0
    parked: int = 0
    completed: int = 0
    failed: int = 0
    aborted: int = 0
    expired: int = 0
    oldest_age_seconds: float | None = None
    bytes: int | None = None
    max_bytes: int | None = None
    paused: bool = False
    workers: int = 0
    slots: int = 0
    totals: dict[str, int] = field(default_factory=dict)


class ValkeySource:
    """Queue figures from lists of a real Valkey, ``waiting:<family>`` and ``active:<family>``."""

    def __init__(self, redis: Redis, *families: str) -> None:
        self.redis, self.families = redis, families

    def server(self, family: str) -> str:
        return "valkey"

    async def ask(self, question: Callable[[ValkeySource], Awaitable[T]], *, within: float | None = None) -> Answers[T]:
        return Answers([await question(self)], {})

    async def queue(self, family: str) -> Figures:
        waiting, active = [await self.redis.llen(f"{state}:{family}") for state in ("waiting", "active")]
        budget = {"bytes": 700, "max_bytes": 1000} if waiting else {}
        return Figures(waiting, active, oldest_age_seconds=7.5 if waiting else None, **budget)

    async def servers(self) -> list[ServerInfo]:
        return await read_servers(self.redis, [FamilyKeys.of("email")])

    async def backlog(self, family: str) -> dict[str, Any]:
        queue = await self.queue(family)
        return {
            "family": family,
            "backlog": queue.waiting,
            "active": queue.active,
            "delayed": 0,
            "load": queue.waiting + queue.active,
            "oldest_age_seconds": queue.oldest_age_seconds,
            "drain_seconds": queue.waiting / 2 if queue.waiting else 0.0,
            "workers": 1,
            "slots": 10,
        }


class NeverAsked:
    """A source for endpoints that must do without Redis."""

    families = ("email",)

    def server(self, family: str) -> str:
        raise AssertionError("Redis was asked")

    async def ask(self, question: Callable[[NeverAsked], Awaitable[T]], *, within: float | None = None) -> Answers[T]:
        raise AssertionError("Redis was asked")

    async def servers(self) -> list[ServerInfo]:
        raise AssertionError("Redis was asked")

    async def queue(self, family: str) -> Figures:
        raise AssertionError("Redis was asked")

    async def backlog(self, family: str) -> dict[str, Any]:
        raise AssertionError("Redis was asked")


async def get(app: ASGIApp, path: str, **headers: str) -> httpx.Response:
    """Send one GET to the application."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://probe") as client:
        return await client.get(path, headers=headers)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Give the value of each sample by its name and label values."""
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for metric in parser.text_string_to_metric_families(text)
        for sample in metric.samples
    }
