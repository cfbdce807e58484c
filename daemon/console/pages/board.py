"""The numbers of all queues that most pages show, read at most a few times a second however many browsers look.

Minutes that are over do not change, so of them each family's statistics are read once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from daemon.errors import RedisError
from daemon.inspector import Inspector, QueueStats
from daemon.statistics import Figures, Point, Step

#: So old may the numbers be that are shown, seconds: browsers ask again 0.4 s after something happened.
FRESH_SECONDS = 0.3
STEPS: dict[str, tuple[Step, int]] = {"1h": ("minute", 60), "24h": ("hour", 24), "14d": ("hour", 336)}
_LENGTH = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1)}


@dataclass(slots=True)
class Board:
    """All queues at a moment, by name; ``away`` are those that cannot be asked, and why."""

    queues: list[QueueStats] = field(default_factory=list)
    away: dict[str, RedisError] = field(default_factory=dict)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def total(self, name: str) -> int:
        """Give the sum of a count of `QueueStats` over all queues."""
        return sum(getattr(queue, name) for queue in self.queues)

    @property
    def oldest(self) -> float | None:
        """Age in seconds of the oldest job that could run."""
        return max((q.oldest_age_seconds for q in self.queues if q.oldest_age_seconds is not None), default=None)


class BoardReader:
    """Reads boards and series, and keeps them for a moment.

    Args:
        inspector: of the families that are shown.
    """

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self._lock = asyncio.Lock()
        self._board: Board | None = None
        self._read_at = float("-inf")
        self._series: dict[tuple[str, str], deque[Point]] = {}

    def forget(self) -> None:
        """Read anew when asked next: something was changed here."""
        self._board = None

    async def board(self) -> Board:
        """Give all queues as they are, or were `FRESH_SECONDS` ago.

        Raises:
            RedisUnavailable, RedisRefused: when no server can tell.
        """
        async with self._lock:
            if self._board is None or time.monotonic() - self._read_at > FRESH_SECONDS:
                began = time.monotonic()
                answers = await self._inspector.ask(Inspector.queues)
                told = sorted((each for part in answers.some() for each in part), key=lambda each: each.family)
                self._board = Board(told, answers.away)
                self._read_at = began
            return self._board

    async def series(self, family: str, span: str) -> list[Point]:
        """Give a family's minutes or hours up to now, oldest first; ``span`` is one of `STEPS`.

        Raises: as `board`.
        """
        step, count = STEPS[span]
        kept = self._series.setdefault((family, span), deque(maxlen=count - 1))
        since = kept[-1].at + _LENGTH[step] if kept else None
        last, now = count * _LENGTH[step], datetime.now(UTC)
        # Nobody has looked for long, or Redis's clock is ahead of this one's.
        if since is not None and not now - last < since < now:
            kept.clear()
            since = None
        found = await self._inspector.stats(family, last=last.total_seconds(), since=since, step=step)
        # Who looked at the same time may have added what was found here, too.
        points = [*(point for point in kept if since is not None and point.at < since), *found.series][-count:]
        # The last minute but one may be written to a moment longer, by a script that began in it.
        kept.clear()
        kept.extend(points[:-2])
        return points

    async def together(self, families: Sequence[str], span: str) -> tuple[dict[str, list[Point]], list[Point]]:
        """Give the series of each family, and of all of them."""
        each = {family: await self.series(family, span) for family in families}
        sums: dict[datetime, Figures] = {}
        for points in each.values():
            for point in points:
                total = sums.setdefault(point.at, Figures())
                total.completed += point.figures.completed
                total.failed += point.figures.failed
                total.retried += point.figures.retried
        return each, [Point(at, sums[at]) for at in sorted(sums)][-STEPS[span][1] :]
