"""Time limits of the jobs that run: one timer, for the limit that ends first, instead of one for each job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.running.run import Run

#: The event loop's timers may be early by their resolution, seconds.
EARLY = 0.001


class Deadlines:
    """Watches the time limits of an executor's runs.

    A job that ends in time costs two entries in a dict. When the timer fires, all that run are looked at, which is
    seldom: it was set for the limit of a job that has ended since, or for one that is over.

    Args:
        expired: called once with a run whose time is over.
    """

    def __init__(self, expired: Callable[[Run], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._expired = expired
        self._watched: dict[Run, float] = {}
        self._next = inf
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, run: Run) -> None:
        """Begin with a run; its limit counts from now."""
        deadline = self._loop.time() + run.timeout
        self._watched[run] = deadline
        if deadline < self._next:
            self._set(deadline)

    def forget(self, run: Run) -> None:
        """The run has ended."""
        self._watched.pop(run, None)

    def _set(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = deadline
        self._timer = self._loop.call_at(deadline, self._look)

    def _look(self) -> None:
        self._timer, self._next = None, inf
        now, nearest = self._loop.time() + EARLY, inf
        for run, deadline in list(self._watched.items()):
            if deadline <= now:
                del self._watched[run]
                self._expired(run)
            elif deadline < nearest:
                nearest = deadline
        if nearest < inf:
            self._set(nearest)

    def close(self) -> None:
        """Stop the timer. The next run that is watched sets it again."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._next = None, inf
