"""Metrics as an operator's module registers them: orders, from a formula that tests can repeat."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from daemon.context import JobContext
from handlers.reports.metrics import Figures, metric
from handlers.reports.periods import Period

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def orders_at(at: datetime) -> int:
    """How many orders there are in the step that begins then."""
    return (int((at - BEGIN).total_seconds()) // 3600 * 37) % 101 + 5


@metric("orders", labels={"en": "Orders", "fr": "Commandes"}, better="more")
async def orders(ctx: JobContext, period: Period) -> Figures:
    series = [float(orders_at(at)) for at in period.steps]
    return Figures(series, parts={"web": sum(series) - 10, "=shop": 10.0, "＝café": 1.0})


@metric("nothing", labels={"en": "Nothing"})
async def nothing(ctx: JobContext, period: Period) -> Figures:
    return Figures([0.0] * len(period.steps))


@metric("short")
async def short(ctx: JobContext, period: Period) -> Figures:
    return Figures([1.0])


@metric("revenue", unit="EUR")
async def revenue(ctx: JobContext, period: Period) -> Figures:
    return Figures([Decimal("19.99")] * len(period.steps), parts={"web": Decimal("1.5")})


@metric("endless")
async def endless(ctx: JobContext, period: Period) -> Figures:
    return Figures([float("inf")] * len(period.steps))
