"""Queues as the console shows them: counts, figures of the last minute and hour, health; and what acts on them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from daemon.console.services import Services
from daemon.errors import RedisError
from daemon.inspector import QueueStats, WorkerInfo
from daemon.statistics import Figures

#: How long an answer to somebody without login may be old, seconds.
CACHE_SECONDS = 2.0
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


class Status(StrEnum):
    """``degraded``: it works, but somebody should look (docs/api.md has the rules); ``down``: Redis cannot be used."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"


@dataclass(slots=True)
class QueueHealth:
    """Whether a queue is as it should be, and why not."""

    family: str
    status: Status
    reasons: list[str]
    waiting: int
    active: int
    delayed: int
    failed: int
    workers: int
    oldest_age_seconds: float | None


@dataclass(slots=True)
class Health:
    """The system at a glance: counts over all queues, and each queue that is not ``ok`` with its reasons."""

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


async def views(services: Services, families: Iterable[str] | None = None) -> list[QueueView]:
    """Give queues by name, all of them unless some are named."""
    names = services.families if families is None else list(families)
    # The counts of all take as many round trips as those of one.
    stats = {found.family: found for found in await services.inspector.queues()}
    figures = await services.inspector.figures(names)
    return [QueueView(stats[name], *each) for name, each in zip(names, figures, strict=True)]


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
    try:
        queues, workers = await services.inspector.queues(), await services.inspector.workers()
        figures = await services.inspector.figures([stats.family for stats in queues])
        judged = [
            judge(stats, [worker for worker in workers if worker.family == stats.family], hour)
            for stats, (_, hour) in zip(queues, figures, strict=True)
        ]
    except RedisError as error:
        return Health(Status.DOWN, error=type(error).__doc__)
    found = Health(Status.OK)
    for name in ("waiting", "active", "delayed", "parked", "blocked", "completed", "failed", "paused", "workers"):
        setattr(found, name, sum(getattr(stats, name) for stats in queues))
    found.details = [each for each in judged if each.status is not Status.OK]
    if found.details:
        found.status = Status.DEGRADED
    return found


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
