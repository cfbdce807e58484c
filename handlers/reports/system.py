"""The system's own figures: what the queues have done, from their statistics (kept for two weeks)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from daemon.context import JobContext
from daemon.inspector import Inspector
from daemon.statistics import FamilyStatistics
from daemon.statistics import Figures as Counts
from handlers.reports.metrics import Figures, metric
from handlers.reports.periods import Period

#: Beginnings of steps to the counts of their hours, by family.
Hours = dict[str, dict[datetime, list[Counts]]]


async def statistics(ctx: JobContext, period: Period) -> Hours:
    """Read what each family did, hour by hour, sorted into the period's steps."""
    families: list[str] = ctx["reports"].families
    # Of this try alone: several metrics ask for the same.
    read: dict[Period, Hours] = ctx.setdefault("report_hours", {})
    if period not in read:
        inspector = Inspector(ctx.producer.redis, families)
        found: Hours = {}
        for family in families:
            until = min(period.until, datetime.now(UTC))
            told = await inspector.stats(family, since=period.since, until=until, step="hour")
            found[family] = _by_step(told, period)
        read[period] = found
    return read[period]


def _by_step(told: FamilyStatistics, period: Period) -> dict[datetime, list[Counts]]:
    steps: dict[datetime, list[Counts]] = {step: [] for step in period.steps}
    begin = period.since
    for point in told.series:
        steps[begin + (point.at - begin) // period.step * period.step].append(point.figures)
    return steps


async def _summed(ctx: JobContext, period: Period, count: Callable[[Counts], int]) -> Figures:
    hours = await statistics(ctx, period)
    now = datetime.now(UTC)
    series: list[float | None] = []
    for step in period.steps:
        counts = [each for family in hours.values() for each in family[step]]
        # Hours that are no longer kept are not known, which is not nothing.
        known = len(counts) >= len(hours) * _past_hours(period, step, now)
        series.append(float(sum(map(count, counts))) if known and step <= now else None)
    parts = {
        family: float(sum(count(each) for counts in steps.values() for each in counts))
        for family, steps in hours.items()
    }
    return Figures(series, parts={name: value for name, value in parts.items() if value})


def _past_hours(period: Period, step: datetime, now: datetime) -> int:
    hours = int(period.step.total_seconds() // 3600)
    return max(0, min(hours, int((now - step).total_seconds() // 3600)))


@metric("jobs_completed", labels={"en": "Completed jobs", "fr": "Tâches terminées"}, better="more")
async def jobs_completed(ctx: JobContext, period: Period) -> Figures:
    """Count the jobs that completed."""
    return await _summed(ctx, period, lambda counts: counts.completed)


@metric("jobs_failed", labels={"en": "Failed jobs", "fr": "Tâches en échec"}, better="less")
async def jobs_failed(ctx: JobContext, period: Period) -> Figures:
    """Count the jobs that became dead letters."""
    return await _summed(ctx, period, lambda counts: counts.failed)


@metric("jobs_retried", labels={"en": "Retries", "fr": "Nouvelles tentatives"}, better="less")
async def jobs_retried(ctx: JobContext, period: Period) -> Figures:
    """Count the tries that failed and were followed by another one."""
    return await _summed(ctx, period, lambda counts: counts.retried)


@metric("jobs_failure_rate", labels={"en": "Failure rate", "fr": "Taux d'échec"}, unit="%", better="less")
async def jobs_failure_rate(ctx: JobContext, period: Period) -> Figures:
    """Give the share of failed jobs among those that ended."""
    failed = await _summed(ctx, period, lambda counts: counts.failed)
    ended = await _summed(ctx, period, lambda counts: counts.failed + counts.completed)
    series = [
        None if not all_ended else (few or 0) / all_ended
        for few, all_ended in zip(failed.series, ended.series, strict=True)
    ]
    parts = {name: failed.parts.get(name, 0) / count for name, count in ended.parts.items() if count}
    whole = ended.whole
    return Figures(series, total=(failed.whole or 0) / whole if whole else None, parts=parts)
