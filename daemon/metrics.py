"""What a worker counts while it works: outcomes, run times and waits of one family.

Plain lists and dicts, because a worker calls `FamilyMetrics.observe` for every job that ends. The heartbeat file
carries `FamilyMetrics.snapshot`; the probe turns it into Prometheus text, so a worker needs no metrics library.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

#: How a try can end; ``expired``, ``released`` and ``parked`` jobs did not run.
OUTCOMES = ("completed", "retried", "failed", "aborted", "expired", "released", "parked")
#: Which of them an outcome of the broker is, by its kind (``lua/tick.lua``).
OUTCOME_OF_KIND = {
    "c": "completed",
    "r": "retried",
    "b": "failed",
    "a": "aborted",
    "e": "expired",
    "l": "released",
    "w": "released",
    "p": "parked",
}

#: Upper bounds of the histograms' buckets, seconds; one more bucket takes what is above the last.
DURATION_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
WAIT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400)

#: Names beyond this many share the label ``other``: a queue may hold whatever names a producer invents.
MAX_FUNCTIONS = 200
OTHER = "other"

_NOT_RUN = frozenset(("expired", "released", "parked"))
_MEAN_WEIGHT = 0.1
#: How many tries' times are put into the histograms together.
_TOGETHER = 256
_RATE_WINDOW = 60.0


class _Series:
    """Counts of one function; a histogram is a list of per-bucket (not cumulative) counts and a sum."""

    __slots__ = ("duration_sum", "durations", "outcomes", "unsorted", "wait_sum", "waits")

    def __init__(self) -> None:
        #: Wait and run time of tries that are not in the histograms yet.
        self.unsorted: list[tuple[float, float]] = []
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.durations = [0] * (len(DURATION_BOUNDS) + 1)
        self.duration_sum = 0.0
        self.waits = [0] * (len(WAIT_BOUNDS) + 1)
        self.wait_sum = 0.0

    def sort(self) -> None:
        """Put the times of the last tries into the histograms: many at once take less time than one after the other."""
        times, self.unsorted = self.unsorted, []
        for wait, duration in times:
            self.durations[bisect_left(DURATION_BOUNDS, duration)] += 1
            self.waits[bisect_left(WAIT_BOUNDS, wait)] += 1
            self.duration_sum += duration
            self.wait_sum += wait


class FamilyMetrics:
    """Counters and histograms of one family in one process. Use it from the event loop's thread only.

    Args:
        functions: names to show from the start, at zero, so that the first job is seen as an increase.
        clock: gives seconds and never goes back.
    """

    __slots__ = ("_clock", "_mean", "_samples", "_series")

    def __init__(self, functions: Iterable[str] = (), *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._series: dict[str, _Series] = {name: _Series() for name in functions}
        self._mean: float | None = None
        # Rate is taken from totals sampled when someone looks, which costs the jobs nothing.
        self._samples: deque[tuple[float, int]] = deque([(clock(), 0)])

    def observe(self, function: str, outcome: str, wait_s: float, duration_s: float) -> None:
        """Count a try that ended.

        Args:
            function: the function's name.
            outcome: one of `OUTCOMES`. Times of those that did not run are not counted.
            wait_s: seconds from when it could run (enqueued or due) to its start.
            duration_s: seconds it ran.

        Raises:
            KeyError: for an unknown outcome.
        """
        series = self._series.get(function) or self._add(function)
        series.outcomes[outcome] += 1
        if outcome not in _NOT_RUN:
            series.unsorted.append((wait_s, duration_s))
            if len(series.unsorted) >= _TOGETHER:
                series.sort()
            mean = self._mean
            self._mean = duration_s if mean is None else mean + _MEAN_WEIGHT * (duration_s - mean)

    def mean_seconds(self) -> float | None:
        """Give the mean run time in seconds, recent tries weighing most (one in ten); None before the first."""
        return self._mean

    def rate(self) -> float:
        """Give the tries that ran and ended per second, over about the last minute (or since the start)."""
        now = self._clock()
        total = sum(sum(series.durations) + len(series.unsorted) for series in self._series.values())
        samples = self._samples
        while len(samples) > 1 and samples[1][0] <= now - _RATE_WINDOW:
            samples.popleft()
        since, before = samples[0]
        if now - samples[-1][0] >= 1:
            samples.append((now, total))
        return (total - before) / (now - since) if now > since else 0.0

    def snapshot(self) -> dict[str, Any]:
        """Give everything as JSON-able data.

        Returns:
            ``{"functions": {name: {"outcomes": {outcome: count}, "duration": histogram, "wait": histogram}},
            "mean_seconds", "rate"}`` with histogram = ``{"counts": [per bucket], "sum": seconds}``.
        """
        for series in self._series.values():
            series.sort()
        return {
            "functions": {
                name: {
                    "outcomes": dict(series.outcomes),
                    "duration": {"counts": list(series.durations), "sum": series.duration_sum},
                    "wait": {"counts": list(series.waits), "sum": series.wait_sum},
                }
                for name, series in self._series.items()
            },
            "mean_seconds": self._mean,
            "rate": self.rate(),
        }

    def _add(self, function: str) -> _Series:
        if len(self._series) >= MAX_FUNCTIONS or not function.isprintable():
            function = OTHER
        return self._series.setdefault(function, _Series())
