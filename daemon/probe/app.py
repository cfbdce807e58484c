"""The probe's HTTP interface: /livez /readyz /startupz /metrics /backlog /backlog/{family}."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol, TypeVar

import redis.exceptions
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from daemon.connections import translate
from daemon.errors import RedisError
from daemon.probe import exposition, health
from daemon.server_info import ServerInfo

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ADDED_UP = ("backlog", "active", "delayed", "load", "workers", "slots")
_WORST = ("oldest_age_seconds", "drain_seconds")


class BacklogSource(Protocol):
    """Where the figures of a queue come from; `daemon.inspector.Inspector` is one.

    Either method raises an error of ``daemon.errors`` or of redis-py when Redis cannot be asked.
    """

    async def backlog(self, family: str) -> dict[str, Any]:
        """Give ``{"family", "backlog", "active", "delayed", "load", "oldest_age_seconds", "drain_seconds",
        "workers", "slots"}``."""
        ...

    async def queue(self, family: str) -> exposition.QueueFigures:
        """Give the queue's statistics."""
        ...

    async def servers(self) -> Sequence[ServerInfo]:
        """Give the servers, as far as they may be asked."""
        ...


def create_app(
    source: BacklogSource,
    *,
    families: Sequence[str],
    heartbeats: Sequence[Path] | Callable[[], Sequence[Path]] = (),
    limits: health.Limits | None = None,
    redis_timeout: float = 2.0,
    clock: Callable[[], float] = time.time,
) -> Starlette:
    """Build the probe.

    Args:
        source: queue figures, e.g. an ``Inspector``. The health endpoints never ask it.
        families: the families it answers for.
        heartbeats: heartbeat files of the worker processes beside it, or what gives them; none for a probe that only
            tells the backlog.
        limits: when a worker counts as dead or stuck.
        redis_timeout: seconds after which a request that needs Redis gives up.
        clock: gives Unix seconds.
    """
    probe = _Probe(source, families, heartbeats, limits or health.Limits(), redis_timeout, clock)
    return Starlette(
        routes=[
            Route("/livez", probe.livez),
            Route("/readyz", probe.readyz),
            Route("/startupz", probe.startupz),
            Route("/metrics", probe.metrics),
            Route("/backlog", probe.backlogs),
            Route("/backlog/{family}", probe.backlog),
        ],
        exception_handlers={HTTPException: _http_problem, Exception: _server_problem},
    )


class _Probe:
    def __init__(
        self,
        source: BacklogSource,
        families: Sequence[str],
        heartbeats: Sequence[Path] | Callable[[], Sequence[Path]],
        limits: health.Limits,
        redis_timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._families = families
        self._heartbeats = heartbeats
        self._limits = limits
        self._redis_timeout = redis_timeout
        self._clock = clock
        self._redis_away = False

    async def livez(self, _: Request) -> Response:
        return _health(health.live(self._read()))

    async def readyz(self, _: Request) -> Response:
        return _health(health.ready(self._read(), self._limits))

    async def startupz(self, _: Request) -> Response:
        return _health(health.started(self._read()))

    async def metrics(self, request: Request) -> Response:
        workers = [reading.document for reading in self._read() if reading.document and not reading.problem]
        try:
            queues = dict(zip(self._families, await self._ask(self._source.queue, self._families), strict=True))
            [servers] = await self._ask(lambda _: self._source.servers(), [""])
        except HTTPException:
            queues, servers = None, ()
        text, content_type = exposition.render(workers, queues, servers, request.headers.get("accept", ""))
        return Response(text, media_type=content_type, headers=_NO_STORE)

    async def backlog(self, request: Request) -> Response:
        family = request.path_params["family"]
        if family not in self._families:
            raise HTTPException(404, f"no family {family!r} here; there are {', '.join(self._families)}")
        [figures] = await self._ask(self._source.backlog, [family])
        return _json(figures)

    async def backlogs(self, _: Request) -> Response:
        figures = await self._ask(self._source.backlog, self._families)
        return _json({**_total(figures), "families": figures})

    def _read(self) -> list[health.Reading]:
        paths = self._heartbeats() if callable(self._heartbeats) else self._heartbeats
        return health.read_workers(paths, self._clock(), self._limits)

    async def _ask(self, question: Callable[[str], Awaitable[T]], families: Sequence[str]) -> list[T]:
        """Ask about each family.

        Raises:
            HTTPException: 503 when Redis is away or too slow.
        """
        try:
            # One after the other: together they would take a connection each.
            async with asyncio.timeout(self._redis_timeout):
                answers = [await question(family) for family in families]
        except TimeoutError:
            problem = f"Redis did not answer within {self._redis_timeout:g} s"
        except RedisError as error:
            problem = str(error)
        except (redis.exceptions.RedisError, OSError) as error:
            problem = str(translate(error))
        else:
            if self._redis_away:
                logger.info("Redis answers again")
            self._redis_away = False
            return answers
        if not self._redis_away:
            logger.warning("no queue figures: %s", problem)
        self._redis_away = True
        # Never zeros: an autoscaler would take the last worker away.
        raise HTTPException(503, problem)


def _total(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up families; times are the worst of them, None when no family knows."""
    total: dict[str, Any] = {"family": "*"}
    for name in _ADDED_UP:
        total[name] = sum(one[name] for one in figures)
    for name in _WORST:
        total[name] = max((one[name] for one in figures if one[name] is not None), default=None)
    return total


_NO_STORE = {"cache-control": "no-store"}


def _json(data: Any, status: int = 200, media_type: str = "application/json") -> Response:
    return Response(json.dumps(data), status, media_type=media_type, headers=_NO_STORE)


def _health(checks: health.Checks) -> Response:
    passed = health.passed(checks)
    document = {"status": "pass" if passed else "fail", "checks": checks}
    return _json(document, 200 if passed else 503, "application/health+json")


def _problem(status: int, detail: str) -> Response:
    document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return _json(document, status, "application/problem+json")


async def _http_problem(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    response = _problem(error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response


async def _server_problem(_: Request, error: Exception) -> Response:
    return _problem(500, f"the probe failed: {type(error).__name__}")
