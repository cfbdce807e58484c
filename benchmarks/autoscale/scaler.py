"""What KEDA and the horizontal pod autoscaler make of a figure, as their documentation says.

KEDA asks each ``polling`` seconds whether there is anything at all: it takes the first replica up at once, and the last
one down ``cooldown`` seconds after there was something. In between the HPA decides each 15 s: the figure by its target,
nothing within a tolerance of a tenth; up at most to double or by four pods at a time; down only to what was wanted most
in the last ``window`` seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

HPA_SECONDS, TOLERANCE = 15, 0.1


@dataclass(frozen=True, slots=True)
class Figures:
    """What can be asked of a queue: `drain_seconds` is None while nobody works it."""

    zcard: int
    backlog: int
    active: int
    drain_seconds: float | None

    @property
    def load(self) -> int:
        """What runs and what could."""
        return self.backlog + self.active


@dataclass(frozen=True, slots=True)
class Trigger:
    """A figure with its target: one per replica (``average``), or one for all (``value``)."""

    figure: Callable[[Figures], float | None]
    target: float
    kind: Literal["average", "value"] = "average"


@dataclass(slots=True)
class Scaler:
    """Decides the number of replicas; call `decide` each second.

    Attributes:
        triggers: the HPA takes the one that wants most.
        most: replicas at most; at least it is none.
    """

    triggers: Sequence[Trigger]
    most: int = 10
    polling: int = 5
    cooldown: int = 120
    window: int = 120
    _seen: float = -math.inf
    _wanted: deque[tuple[int, int]] = field(default_factory=deque)

    def decide(self, second: int, replicas: int, figures: Figures) -> int:
        """Give the replicas from now on."""
        if second % self.polling == 0:
            if any((trigger.figure(figures) or 0) > 0 for trigger in self.triggers):
                self._seen = second
                replicas = max(replicas, 1)
            elif replicas and second - self._seen >= self.cooldown:
                return 0
        return self._hpa(second, replicas, figures) if replicas and second % HPA_SECONDS == 0 else replicas

    def _hpa(self, second: int, replicas: int, figures: Figures) -> int:
        wanted = max(1, min(self.most, max(self._by(trigger, replicas, figures) for trigger in self.triggers)))
        self._wanted.append((second, wanted))
        while self._wanted[0][0] <= second - self.window:
            self._wanted.popleft()
        if wanted > replicas:
            return min(wanted, max(2 * replicas, replicas + 4))
        return min(replicas, max(each for _, each in self._wanted))

    @staticmethod
    def _by(trigger: Trigger, replicas: int, figures: Figures) -> int:
        figure = trigger.figure(figures)
        if figure is None:
            return replicas
        ratio = figure / trigger.target / (1 if trigger.kind == "value" else replicas)
        return replicas if abs(ratio - 1) <= TOLERANCE else math.ceil(ratio * replicas)
