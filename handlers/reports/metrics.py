"""Where figures come from: functions that an operator's modules register by name.

    # shop/metrics.py, named by ARQD_REPORTS__METRICS
    from handlers.reports.metrics import Figures, metric

    @metric("revenue", labels={"en": "Revenue", "fr": "Chiffre d'affaires"}, unit="EUR")
    async def revenue(ctx: JobContext, period: Period) -> Figures:
        return Figures(series=[… one number for each of period.steps …])

It is asked twice for each report: for the period, and for the one before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from daemon.context import JobContext
from daemon.errors import ConfigurationError, PermanentError
from handlers.reports.periods import Period


class UnknownMetric(PermanentError):
    """There is no metric of this name."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a metric was in a period.

    Attributes:
        series: a number for each of the period's steps; None where nothing is known.
        total: of the whole period; default the sum of the series, None when a part of it is not known.
        parts: what the total is made of, by name, for a table.
    """

    series: Sequence[float | None]
    total: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def whole(self) -> float | None:
        """The total."""
        if self.total is not None:
            return self.total
        known = [value for value in self.series if value is not None]
        return sum(known) if known and len(known) == len(self.series) else None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not self.whole and not any(self.series) and not any(self.parts.values())


Measure = Callable[[JobContext, Period], Awaitable[Figures]]


@dataclass(frozen=True, slots=True)
class About:
    """What a figure is.

    Attributes:
        labels: what it is called, by language; ``en`` at least.
        unit: ``""`` for a count, ``%`` (numbers are fractions), ``s`` (seconds), or what stands behind the number.
        better: whether more of it is ``more`` good or ``less``; None: neither.
    """

    name: str
    labels: Mapping[str, str]
    unit: str
    better: str | None

    def label(self, lang: str) -> str:
        """What it is called in a language."""
        return self.labels.get(lang) or self.labels.get("en") or self.name


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure by name, and the function that gives it."""

    about: About
    measure: Measure


_metrics: dict[str, Metric] = {}


def metric(
    name: str, *, labels: Mapping[str, str] | None = None, unit: str = "", better: str | None = None
) -> Callable[[Measure], Measure]:
    """Register a coroutine function that gives the `Figures` of a period; see `About`.

    Raises:
        ConfigurationError: there is another metric of this name.
    """

    def register(measure: Measure) -> Measure:
        known = _metrics.setdefault(name, Metric(About(name, labels or {}, unit, better), measure))
        if known.measure is not measure:
            raise ConfigurationError(f"two metrics are called {name!r}")
        return measure

    return register


def wanted(names: Sequence[str] | None) -> list[Metric]:
    """Give metrics by name, all of them without names.

    Raises:
        UnknownMetric: naming what there is.
    """
    for name in names or ():
        if name not in _metrics:
            known = ", ".join(sorted(_metrics))
            raise UnknownMetric(f"there is no metric {name!r}: there are {known} (ARQD_REPORTS__METRICS)")
    return [_metrics[name] for name in names or _metrics]
