"""The probe's HTTP interface: /livez /readyz /startupz /metrics /backlog /backlog/{family}."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol, TypeVar

import redis.exceptions
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from daemon.connecting.connections import translate
from daemon.errors import RedisError
from daemon.inspecting.answers import Answers
from daemon.inspecting.server_info import ServerInfo
from daemon.probe import exposition, health

logger = logging.getLogger(__name__)

T = TypeVar("T")

_Figures = tuple[dict[str, exposition.QueueFigures], Sequence[ServerInfo]]
_CANNOT = (RedisError, redis.exceptions.RedisError, OSError)
_ADDED_UP = ("backlog", "active", "delayed", "load", "workers", "slots")
_WORST = ("oldest_age_seconds", "drain_seconds")


class BacklogSource(Protocol):
    """Where the figures of a queue come from; `daemon.inspector.Inspector` is one.

    What waits for Redis raises an error of ``daemon.errors`` or of redis-py when it cannot be asked.
    """

    @property
    def families(self) -> Collection[str]:
        """Give the names of the families it knows."""
        ...

    def server(self, family: str) -> str:
        """Name the server a family is on, without asking it."""
        ...

    async def ask(
        self, question: Callable[[BacklogSource], Awaitable[T]], *, within: float | None = None
    ) -> Answers[T]:
        """Ask each server of the families, given a source of those that are on it."""
        ...

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
        redis_timeout: seconds after which a request that needs Redis gives up, or passes one of several servers.
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
        self._away: set[str] = set()

    async def livez(self, _: Request) -> Response:
        return _health(health.live(self._read()))

    async def readyz(self, _: Request) -> Response:
        return _health(health.ready(self._read(), self._limits))

    async def startupz(self, _: Request) -> Response:
        return _health(health.started(self._read()))

    async def metrics(self, request: Request) -> Response:
        workers = [reading.document for reading in self._read() if reading.document and not reading.problem]
        text, content_type = exposition.render(workers, await self._look(), request.headers.get("accept", ""))
        return Response(text, media_type=content_type, headers=_NO_STORE)

    async def _look(self) -> exposition.Seen:
        """Ask for the figures of all families; those whose server is away are not in them."""

        async def figures(part: BacklogSource) -> _Figures:
            # Where there is one server nobody else limits its time.
            async with asyncio.timeout(self._redis_timeout):
                # One after the other: together they would take a connection each.
                queues = {name: await part.queue(name) for name in self._families if name in part.families}
                return queues, await part.servers()

        where = {name: self._source.server(name) for name in self._families}
        try:
            answers = await self._source.ask(figures, within=self._redis_timeout)
        except _CANNOT as error:
            self._note(self._families, self._problem(error))
            return exposition.Seen({}, (), where)
        queues = {name: found for part, _ in answers.told for name, found in part.items()}
        self._note(queues, None)
        for name, why in answers.away.items():
            self._note([name], str(why))
        # Families of a cluster are in many places, and these on a few nodes.
        servers = {server.name: server for _, part in answers.told for server in part}
        return exposition.Seen(queues, list(servers.values()), where)

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
        except _CANNOT as error:
            problem = self._problem(error)
            self._note(families, problem)
            # Never zeros: an autoscaler would take the last worker away.
            raise HTTPException(503, problem) from None
        self._note(families, None)
        return answers

    def _problem(self, error: Exception) -> str:
        if isinstance(error, RedisError):
            return str(error)
        if isinstance(error, TimeoutError):
            return f"Redis did not answer within {self._redis_timeout:g} s"
        return str(translate(error))

    def _note(self, families: Iterable[str], problem: str | None) -> None:
        """Log that families cannot be asked, or can be asked again, once."""
        changed = sorted(set(families) & self._away if problem is None else set(families) - self._away)
        if not changed:
            return
        self._away ^= set(changed)
        if problem is None:
            logger.info("Redis answers again: %s", ", ".join(changed))
        else:
            logger.warning("no queue figures of %s: %s", ", ".join(changed), problem)


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
