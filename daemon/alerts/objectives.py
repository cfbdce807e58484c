"""Service level objectives: how soon jobs of a queue or group are to start, and how fast the allowance is used up.

"95 % of email start within 30 s" allows 5 % to be late. The burn rate is the share that is late divided by that: at 1
the allowance lasts just as long as the objective is meant for. An alert needs a high rate in a long window, so that it
matters, and in a short one, so that it still goes on.

The share is the larger of two. Of the jobs that started in the window, those that had waited too long. And, since
nothing starts when everything stands still: of the window, the time for which the oldest job that waits has been late.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daemon.errors import InvalidJob
from daemon.job import seconds

#: Pairs of windows, seconds, and the rate that is too high in both: a fiftieth of a month's allowance in an hour is
#: critical, a twentieth in six hours a warning.
FAST, SLOW = (3600, 300, 14.4), (21_600, 1800, 6.0)
#: Where much is allowed, such rates cannot be: then it is too much when half of all is late.
HALF = 0.5
#: How far back starts are read, minutes.
MINUTES = SLOW[0] // 60
_OBJECTIVE = re.compile(r"([a-z0-9_-]+)(?:/(\S+))?\s+([\d.]+)\s*%\s+(\w+)")


@dataclass(frozen=True, slots=True)
class Objective:
    """At least ``share`` of the jobs of a family, or of one group in it, start within ``limit`` seconds."""

    family: str
    group: str | None
    share: float
    limit: float

    @property
    def name(self) -> str:
        """The queue, or queue and group, as it was written."""
        return self.family if self.group is None else f"{self.family}/{self.group}"

    def __str__(self) -> str:
        return f"{self.name} {self.share * 100:g}% {self.limit:g}s"


@dataclass(frozen=True, slots=True)
class Starts:
    """What was seen of an objective.

    Attributes:
        minutes: of each of the last `MINUTES`, the newest last: how many started, and how many of them late.
        oldest_age: of the oldest job that waits, seconds; None without any.
    """

    minutes: Sequence[tuple[int, int]]
    oldest_age: float | None


@dataclass(frozen=True, slots=True)
class Burn:
    """An objective whose allowance is used up too fast."""

    objective: Objective
    fast: bool
    rate: float
    window: int


def objectives_of(text: Any) -> Any:
    """Read ``email 95% 30s, email/acme 99% 2m``."""
    if not isinstance(text, str):
        return text
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _OBJECTIVE.fullmatch(part)
        try:
            if match is None:
                raise InvalidJob(part)
            family, group, percent, limit = match.groups()
            objective = Objective(family, group, float(percent) / 100, seconds(limit))
            if not 0 < objective.share < 1 or objective.limit <= 0:
                raise InvalidJob(part)
        except (InvalidJob, ValueError):
            raise ValueError(f"{part!r}: write family or family/group, percent and time, e.g. email 95% 30s") from None
        found.append(objective)
    return tuple(found)


def burning(objective: Objective, starts: Starts) -> Burn | None:
    """Tell whether an objective's allowance is used up too fast, and how badly; None where it is not."""
    allowed = 1 - objective.share
    for fast, (long, short, factor) in ((True, FAST), (False, SLOW)):
        rates = [late_share(objective, starts, window) / allowed for window in (long, short)]
        if min(rates) >= min(factor, HALF / allowed) * (1 - 1e-9):
            return Burn(objective, fast, rates[0], long)
    return None


def late_share(objective: Objective, starts: Starts, window: int) -> float:
    """Give which share was late in the last ``window`` seconds, 0 to 1."""
    minutes = starts.minutes[-(window // 60) :]
    started, late = sum(each[0] for each in minutes), sum(each[1] for each in minutes)
    overdue = max(0.0, (starts.oldest_age or 0.0) - objective.limit)
    return max(late / started if started else 0.0, min(1.0, overdue / window))
