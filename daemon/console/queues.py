"""Queues as the console shows them: counts, figures of the last minute and hour, health; and what acts on them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum

from daemon.console.services import Services
from daemon.errors import RedisError, RedisUnavailable
from daemon.inspector import Inspector, QueueStats, WorkerInfo
from daemon.job import JobInfo, JobState
from daemon.statistics import Figures

#: How long an answer to somebody without login may be old, seconds.
CACHE_SECONDS = 2.0
#: Running jobs of a family that are looked at.
LOOKED_AT = 200
#: A queue is failing when of this many jobs that ended in the last hour more than this share failed.
FAILING_OF, FAILING_SHARE = 50, 0.1
#: A budget is nearly used up from this share on.
NEARLY_FULL = 0.95


@dataclass(slots=True)
class QueueView:
    """A queue with what it did in the last minute and hour (docs/statistics.md)."""

    stats: QueueStats
    minute: Figures
    hour: Figures


@dataclass(slots=True)
class QueueAway:
    """A queue whose server, one of several, cannot be asked: nothing is known of its jobs and workers."""

    family: str
    error: str


@dataclass(slots=True)
class WorkerView(WorkerInfo):
    """A process that works a queue, with ids of jobs that it runs."""

    jobs: list[str] = field(default_factory=list)


class Status(StrEnum):
    """``degraded``: it works, but somebody should look (docs/api.md has the rules); ``down``: Redis cannot be used."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"


@dataclass(slots=True)
class QueueHealth:
    """Whether a queue is as it should be, and why not; nothing is counted of one that is ``down``."""

    family: str
    status: Status
    reasons: list[str]
    waiting: int | None = None
    active: int | None = None
    delayed: int | None = None
    failed: int | None = None
    workers: int | None = None
    oldest_age_seconds: float | None = None


@dataclass(slots=True)
class Health:
    """The system at a glance: counts over all queues but those that are ``down``, and each queue that is not ``ok``
    with its reasons."""

    status: Status
    waiting: int = 0
    active: int = 0
    delayed: int = 0
    parked: int = 0
    blocked: int = 0
    completed: int = 0
    failed: int = 0
    paused: int = 0
    workers: int = 0
    details: list[QueueHealth] = field(default_factory=list)
    error: str | None = None


async def views(services: Services) -> list[QueueView | QueueAway]:
    """Give the queues by name, and behind them those that cannot be asked."""

    async def look(part: Inspector) -> list[QueueView]:
        stats = await part.queues()
        figures = await part.figures([each.family for each in stats])
        return [QueueView(found, *each) for found, each in zip(stats, figures, strict=True)]

    answers = await services.inspector.ask(look)
    told = sorted((each for part in answers.some() for each in part), key=lambda each: each.stats.family)
    return [*told, *away_of(answers.away)]


async def workers(services: Services) -> list[WorkerView | QueueAway]:
    """Give the processes that work the queues, by queue, and behind them the queues that cannot be asked."""

    async def look(part: Inspector) -> list[WorkerView]:
        found = await part.workers()
        running = await running_jobs(part, {worker.family for worker in found if worker.holds})
        return [
            WorkerView(
                **{each.name: getattr(worker, each.name) for each in fields(worker)},
                jobs=[job.id for job in running.get((worker.family, worker.session), [])],
            )
            for worker in found
        ]

    answers = await services.inspector.ask(look)
    told = sorted((each for part in answers.some() for each in part), key=lambda each: each.family)
    return [*told, *away_of(answers.away)]


async def running_jobs(inspector: Inspector, families: set[str]) -> dict[tuple[str, str], list[JobInfo]]:
    """Give running jobs by family and session of their worker, `LOOKED_AT` of a family at most."""
    found: dict[tuple[str, str], list[JobInfo]] = {}
    for family in sorted(families):
        for job in await inspector.jobs(family, JobState.ACTIVE, limit=LOOKED_AT):
            found.setdefault((family, job.worker or ""), []).append(job)
    return found


def away_of(away: Mapping[str, RedisError]) -> list[QueueAway]:
    """Give the queues that cannot be asked."""
    return [QueueAway(family, reason(error)) for family, error in sorted(away.items())]


def reason(error: RedisError, queue: str = "it") -> str:
    """Give why a queue cannot be asked; the error's own text names its server's address."""
    does = "does not answer" if isinstance(error, RedisUnavailable) else "refuses"
    return f"{queue} cannot be asked: its server {does}"


async def view(services: Services, family: str) -> QueueView:
    """Give one queue."""
    stats = await services.inspector.queue(family)
    return QueueView(stats, *(await services.inspector.figures([family]))[0])


async def queue_health(services: Services, family: str) -> QueueHealth:
    """Tell whether one queue is as it should be."""
    stats, workers = await services.inspector.queue(family), await services.inspector.workers(family)
    ((_, hour),) = await services.inspector.figures([family])
    return judge(stats, workers, hour)


async def health(services: Services) -> Health:
    """Tell how the system is; that Redis cannot be used is an answer, too."""

    async def look(part: Inspector) -> tuple[list[QueueStats], list[QueueHealth]]:
        queues, workers = await part.queues(), await part.workers()
        figures = await part.figures([stats.family for stats in queues])
        return queues, [
            judge(stats, [worker for worker in workers if worker.family == stats.family], hour)
            for stats, (_, hour) in zip(queues, figures, strict=True)
        ]

    try:
        answers = await services.inspector.ask(look)
        told = answers.some()
    except RedisError as error:
        return Health(Status.DOWN, error=type(error).__doc__)
    found = Health(Status.OK)
    for name in ("waiting", "active", "delayed", "parked", "blocked", "completed", "failed", "paused", "workers"):
        setattr(found, name, sum(getattr(stats, name) for queues, _ in told for stats in queues))
    judged = [each for _, part in told for each in part if each.status is not Status.OK]
    found.details = sorted([*judged, *down(answers.away)], key=lambda each: each.family)
    if found.details:
        found.status = Status.DEGRADED
    return found


def down(away: Mapping[str, RedisError]) -> list[QueueHealth]:
    """Judge the queues that cannot be asked."""
    return [QueueHealth(family, Status.DOWN, [reason(error)]) for family, error in away.items()]


class BareStatus:
    """The status for those who are not logged in: asked of Redis every `CACHE_SECONDS` at most, however many ask."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._asking = asyncio.Lock()
        self._at, self._status = -CACHE_SECONDS, Status.OK

    async def get(self) -> Status:
        """Give it."""
        async with self._asking:
            if time.monotonic() - self._at >= CACHE_SECONDS:
                self._status = (await health(self._services)).status
                self._at = time.monotonic()
            return self._status


def judge(stats: QueueStats, workers: list[WorkerInfo], hour: Figures) -> QueueHealth:
    """Tell whether a queue is as it should be, by its counts, its workers, and what ended in the last hour."""
    reasons = []
    if stats.paused:
        reasons.append("it is paused")
    can_run = stats.waiting - stats.limited
    if can_run and not stats.workers:
        reasons.append(f"{can_run} jobs wait and no worker is there")
    lost = [worker for worker in workers if worker.lease_seconds <= 0]
    if lost:
        reasons.append(f"{len(lost)} workers are lost: {', '.join(f'{each.host}:{each.pid}' for each in lost[:3])}")
    if stats.parked:
        reasons.append(f"{stats.parked} jobs are parked: no worker knows their functions")
    ended = hour.completed + hour.failed
    if ended >= FAILING_OF and hour.failed > FAILING_SHARE * ended:
        reasons.append(f"{hour.failed} of the {ended} jobs that ended in the last hour failed")
    if stats.max_bytes and (stats.bytes or 0) >= NEARLY_FULL * stats.max_bytes:
        reasons.append("its budget of bytes is nearly used up")
    status = Status.DEGRADED if reasons else Status.OK
    return QueueHealth(
        stats.family, status, reasons, stats.waiting, stats.active, stats.delayed, stats.failed, stats.workers,
        stats.oldest_age_seconds,
    )  # fmt: skip
