"""Which workers of a process call Redis now: a few at a time, in the order in which they asked.

They share an event loop, and mostly a server that answers one call after the other. Were the calls of fourteen families
under way at once, all that these bring would wait in memory for its turn in the loop, more than a processor's cache
holds: a third more of it for each job. Who waits for its turn collects outcomes and free slots meanwhile, and
claims no job ahead: the others keep the loop busy.
"""

from __future__ import annotations

import asyncio

#: So many calls at once keep the server and the loop busy.
AT_ONCE = 4
#: A turn ends after so many seconds, reply or not: where the way to the server is long, more calls are under way.
LONGEST = 0.02


class Turns:
    """The turns of one process.

    Args:
        callers: how many take turns.
    """

    def __init__(self, callers: int) -> None:
        self._free = asyncio.Semaphore(AT_ONCE)
        self._longest = LONGEST if callers > AT_ONCE else None

    @property
    def all_taken(self) -> bool:
        """Whether the next has to wait."""
        return self._free.locked()

    async def take(self) -> Turn:
        """Wait for a turn."""
        await self._free.acquire()
        return Turn(self._free, self._longest)


class Turn:
    """A turn that was taken; `end` it with the reply.

    Args:
        longest: after so many seconds it ends by itself; None where nobody can be waiting for it.
    """

    def __init__(self, free: asyncio.Semaphore, longest: float | None) -> None:
        self._free = free
        self._ended = False
        self._timer = None if longest is None else asyncio.get_running_loop().call_later(longest, self.end)

    def end(self) -> None:
        """Let the next one call, if it may not already."""
        if not self._ended:
            self._ended = True
            if self._timer is not None:
                self._timer.cancel()
            self._free.release()
