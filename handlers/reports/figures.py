"""The figures of a report: each metric in the period and in the one before. All formats are written from these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from daemon.context import JobContext
from daemon.errors import PermanentError
from handlers.reports.metrics import About, Figures, Metric
from handlers.reports.periods import Kind, Period


class WrongFigures(PermanentError):
    """A metric's function gives a series that does not fit the period, or something that is no number."""


@dataclass(frozen=True, slots=True)
class Part:
    """A line of a metric's table."""

    name: str
    value: float
    before: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric in the period, and in the one before."""

    about: About
    now: Figures
    before: Figures

    @property
    def change(self) -> float | None:
        """By which share the total has changed; None where nothing can be told."""
        return change(self.now.whole, self.before.whole)

    @property
    def parts(self) -> list[Part]:
        """What the total is made of, the largest first."""
        names = dict.fromkeys([*self.now.parts, *self.before.parts])
        found = [Part(name, self.now.parts.get(name, 0.0), self.before.parts.get(name)) for name in names]
        return sorted(found, key=lambda part: (-part.value, part.name))


@dataclass(frozen=True, slots=True)
class Report:
    """What is written."""

    kind: Kind
    period: Period
    made_at: datetime
    measured: Sequence[Measured]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell of the period."""
        return all(each.now.is_empty for each in self.measured)


def change(now: float | None, before: float | None) -> float | None:
    """By which share a number has changed; None where nothing can be told, since one is not known or was nothing."""
    return (now - before) / before if now is not None and before else None


async def gather(ctx: JobContext, kind: Kind, period: Period, made_at: datetime, metrics: Sequence[Metric]) -> Report:
    """Ask every metric.

    Raises:
        WrongFigures: see there.
    """
    measured = []
    for each in metrics:
        both = [_plain(each.about.name, await each.measure(ctx, when)) for when in (period, period.before)]
        for figures in both:
            if len(figures.series) != len(period.steps):
                raise WrongFigures(
                    f"{each.about.name} gives {len(figures.series)} numbers for {len(period.steps)} steps"
                )
        measured.append(Measured(each.about, both[0], both[1]))
    return Report(kind, period, made_at, measured)


def _plain(name: str, given: Figures) -> Figures:
    """Give figures that every format can write: databases add money up as decimals."""

    def plain(value: Any) -> Any:
        if value is None or (isinstance(value, int | float | Decimal) and math.isfinite(value)):
            return float(value) if isinstance(value, Decimal) else value
        raise WrongFigures(f"{name} gives {str(value)[:40]!r}, which is no number")

    parts = {part: plain(value) for part, value in given.parts.items()}
    return Figures([plain(value) for value in given.series], plain(given.total), parts)
