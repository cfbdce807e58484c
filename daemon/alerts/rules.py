"""What is wrong: findings from what was read, by thresholds; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from daemon.alerts.objectives import Objective, Starts, burning
from daemon.inspecting.queue_stats import QueueStats
from daemon.statistics import Figures

if TYPE_CHECKING:
    from daemon.alerts.settings import AlertSettings, Threshold

#: What an alert is of that concerns no queue.
REDIS = "redis"


class Severity(StrEnum):
    """``warning``: somebody should look today; ``critical``: now."""

    WARNING = "warning"
    CRITICAL = "critical"


#: Every alert, how bad it is, and what it means.
ALERTS: dict[str, tuple[Severity, str]] = {
    "failed_jobs": (Severity.WARNING, "many jobs became dead letters in the last hour"),
    "error_rate": (Severity.WARNING, "a large share of the jobs that ended in the last hour failed"),
    "backlog": (Severity.WARNING, "many jobs wait"),
    "many_delayed": (Severity.WARNING, "many jobs are delayed or wait for a retry"),
    "many_active": (Severity.WARNING, "many jobs are active"),
    "dead_letter": (Severity.WARNING, "jobs became dead letters since the last look"),
    "parked": (Severity.WARNING, "no live worker knows the function or payload of some jobs"),
    "redis_memory": (Severity.WARNING, "Redis nears its memory limit"),
    "slo_slow": (Severity.WARNING, "an objective's allowance is used up too fast"),
    "slo_fast": (Severity.CRITICAL, "an objective's allowance is used up very fast"),
    "paused": (Severity.CRITICAL, "the queue is paused"),
    "worker_lost": (Severity.CRITICAL, "a worker died or cannot reach Redis: its lease ended"),
    "no_worker": (Severity.CRITICAL, "work waits and no worker is there"),
    "queue_error": (Severity.CRITICAL, "Redis cannot be reached, or refuses"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong now.

    Attributes:
        alert: one of `ALERTS`.
        subject: the queue (or objective) it is wrong with, or ``redis``.
        text: what is wrong, with numbers.
    """

    alert: str
    subject: str
    text: str

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return ALERTS[self.alert][0]

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return f"{self.alert}:{self.subject}"


@dataclass(frozen=True, slots=True)
class Server:
    """A Redis server: bytes in use, its limit (0: none) and why it refuses to write, "" when it does not."""

    name: str
    used: int
    limit: int
    refuses: str = ""


@dataclass(slots=True)
class Reading:
    """What was read at one time. ``lost`` counts workers by family whose lease has ended and that still stand there."""

    queues: list[QueueStats] = field(default_factory=list)
    hours: dict[str, Figures] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    servers: list[Server] = field(default_factory=list)
    starts: dict[Objective, Starts] = field(default_factory=dict)


def counts_of(reading: Reading) -> dict[str, int]:
    """Give the counts that the next look is compared with."""
    return {
        f"{queue.family} {name}": queue.totals.get(name, 0) for queue in reading.queues for name in ("failed", "lost")
    }


def judge(reading: Reading, settings: AlertSettings, before: Mapping[str, int]) -> list[Finding]:
    """Give what is wrong.

    Args:
        before: `counts_of` the look before; where it lacks a queue nothing was added to that.
    """
    found: list[Finding] = []
    for queue in reading.queues:
        found += _queue(queue, reading, settings)
        found += _added(queue, reading.lost.get(queue.family, 0), before)
    for server in reading.servers:
        found += _server(server, settings)
    for objective, starts in reading.starts.items():
        found += _objective(objective, starts)
    return [finding for finding in found if finding.alert not in settings.off]


def _queue(queue: QueueStats, reading: Reading, settings: AlertSettings) -> Iterator[Finding]:
    name, hour = queue.family, reading.hours.get(queue.family, Figures())
    if queue.paused:
        yield Finding("paused", name, f"paused, {queue.waiting} jobs wait")
    can_run = queue.waiting - queue.limited
    if can_run and not queue.workers:
        yield Finding("no_worker", name, f"{can_run} jobs wait and no worker is there")
    if queue.parked:
        yield Finding("parked", name, f"{queue.parked} jobs are parked: no live worker knows their function or payload")
    levels: Iterable[tuple[str, Threshold, int, str]] = (
        ("failed_jobs", settings.failed, hour.failed, "dead letters in the last hour"),
        ("backlog", settings.waiting, queue.waiting, "jobs wait"),
        ("many_delayed", settings.delayed, queue.delayed, "jobs are delayed"),
        ("many_active", settings.active, queue.active, "jobs are active"),
    )
    for alert, threshold, value, words in levels:
        limit = threshold.of(name)
        if limit is not None and value > limit:
            yield Finding(alert, name, f"{value} {words} (more than {limit})")
    percent, ended = settings.error_rate.of(name), hour.completed + hour.failed
    if percent is not None and ended >= settings.error_rate_of and hour.failed * 100 > percent * ended:
        share = hour.failed / ended
        yield Finding(
            "error_rate", name, f"{share:.0%} of {ended} jobs failed in the last hour (more than {percent} %)"
        )


def _added(queue: QueueStats, lost: int, before: Mapping[str, int]) -> Iterator[Finding]:
    name = queue.family
    failed = _difference(queue, "failed", before)
    if failed:
        yield Finding("dead_letter", name, f"{failed} jobs became dead letters since the last look")
    if lost := lost + _difference(queue, "lost", before):
        yield Finding("worker_lost", name, f"{lost} workers lost: their leases ended, their jobs run again")


def _difference(queue: QueueStats, what: str, before: Mapping[str, int]) -> int:
    total = queue.totals.get(what, 0)
    return max(0, total - before.get(f"{queue.family} {what}", total))


def _server(server: Server, settings: AlertSettings) -> Iterator[Finding]:
    subject = f"{REDIS} {server.name}" if server.name else REDIS
    if server.refuses:
        yield Finding("queue_error", subject, server.refuses)
    if server.limit and server.used * 100 > settings.memory * server.limit:
        share, megabytes = server.used / server.limit, server.limit // 1_000_000
        yield Finding("redis_memory", subject, f"{share:.0%} of {megabytes} MB used (more than {settings.memory} %)")


def _objective(objective: Objective, starts: Starts) -> Iterator[Finding]:
    burn = burning(objective, starts)
    if burn is not None:
        hours = burn.window // 3600
        text = f"{objective.share:.3%}".rstrip("0%").rstrip(".") + f" % within {objective.limit:g} s: "
        text += f"its allowance is used up {burn.rate:.1f} times too fast (last {hours} h)"
        if starts.oldest_age is not None and starts.oldest_age > objective.limit:
            text += f", the oldest job waits for {starts.oldest_age:.0f} s"
        yield Finding("slo_fast" if burn.fast else "slo_slow", objective.name, text)
