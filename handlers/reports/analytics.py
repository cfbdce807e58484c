"""Figures of the analytics family's events, where its table is there."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from sqlalchemy import column, distinct, func, inspect, select, table

from daemon.context import JobContext
from handlers.integrations.database import Utc
from handlers.reports.metrics import Figures, metric
from handlers.reports.periods import Period

if TYPE_CHECKING:
    from handlers.integrations.database import Database

# By name: families do not import each other.
EVENTS = table("arqd_analytics_events", column("name"), column("at", Utc), column("user_id"))


async def has_events(database: Database) -> bool:
    """Whether the table is there."""
    async with database.read() as connection:
        return await connection.run_sync(lambda plain: inspect(plain).has_table(EVENTS.name))


def register() -> None:
    """Register the metrics."""
    metric("events", labels={"en": "Events", "fr": "Événements"}, better="more")(events)
    metric("visitors", labels={"en": "Visitors", "fr": "Visiteurs"}, better="more")(visitors)


async def events(ctx: JobContext, period: Period) -> Figures:
    """Count the events, by name."""
    parts: Counter[str] = Counter()
    series: list[float | None] = []
    async with ctx["reports"].database.read() as connection:
        for step in period.steps:
            query = select(EVENTS.c.name, func.count()).where(*_within(step, period)).group_by(EVENTS.c.name)
            counts = {str(name): int(count) for name, count in (await connection.execute(query)).all()}
            parts.update(counts)
            series.append(float(sum(counts.values())))
    return Figures(series, parts={name: float(count) for name, count in parts.most_common(10)})


async def visitors(ctx: JobContext, period: Period) -> Figures:
    """Count the different users; those of several steps count once in the total."""
    query = select(func.count(distinct(EVENTS.c.user_id)))
    async with ctx["reports"].database.read() as connection:
        series = [
            float((await connection.execute(query.where(*_within(step, period)))).scalar_one()) for step in period.steps
        ]
        whole = query.where(EVENTS.c.at >= period.since, EVENTS.c.at < period.until)
        total = float((await connection.execute(whole)).scalar_one())
    return Figures(series, total=total)


def _within(step: Any, period: Period) -> tuple[Any, Any]:
    return EVENTS.c.at >= step, EVENTS.c.at < step + period.step
