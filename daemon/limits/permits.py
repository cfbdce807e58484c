"""A worker's permits under the limits its family shares with others.

Before a claim it takes a portion of permits of each (`Permits.take`), and claims no more jobs than it got. What it does
not use, and places of jobs that have ended, it gives back a moment later, with what it asks next or by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from daemon.connecting.connections import LOST
from daemon.limits.shared import LimitBroker

if TYPE_CHECKING:
    from daemon.worker import Worker

logger = logging.getLogger("arqd.permits")

#: Seconds after which is given back what nobody here needs. Permits are good for no longer.
GIVE_BACK = 0.1
AGAIN_MS = 1000


class _Lease:
    """What a worker holds of one limit.

    ``balance`` of the last portion is not used yet, ``counted`` is how many jobs the limit counts for this worker, and
    ``waits`` is the time after which it asks again.
    """

    def __init__(self, broker: LimitBroker) -> None:
        self.broker = broker
        self.balance = self.used = self.counted = 0
        self.good_until = 0.0
        self.late = self.in_line = self.by_jobs = False
        self.waits: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> int:
        """Permits it may claim jobs with now."""
        return self.balance if time.monotonic() < self.good_until else 0

    def unsettled(self, running: int) -> bool:
        """Whether it holds what it does not need, or has to tell that permits were used late."""
        return self.late or self.balance > 0 or self.counted > running or (self.in_line and self.waits is None)

    async def ask(self, running: int, wanted: int) -> int:
        """Tell what was used, and take permits; gives the ms to wait when there are none."""
        # What is granted is good from when the server grants it on, which is not before now.
        sent = time.monotonic()
        # If no reply comes, the call may have been done all the same.
        self.balance, self.counted = 0, running + max(wanted, 0)
        grant = await self.broker.ask(running, self.used, self.late, wanted)
        self.balance, self.counted = grant.permits, running + grant.permits
        self.good_until = sent + grant.good_us / 1_000_000
        self.used, self.late = 0, False
        self.in_line, self.by_jobs = grant.wait > 0, grant.by_jobs
        return grant.wait

    def use(self, count: int) -> None:
        """Note that jobs were claimed with its permits."""
        if count:
            self.used += count
            self.balance = max(0, self.balance - count)
            self.late = self.late or time.monotonic() > self.good_until


class Permits:
    """What one worker may claim under the shared limits of its family.

    Args:
        worker: whose they are; its family has shared limits.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        holder = f"{worker.keys.family}:{worker.supervisor.session}"
        self._leases = [
            _Lease(LimitBroker(worker.broker.redis, limit, holder, worker.lease_ms))
            for limit in worker.family.values.shared_limits
        ]
        self._timer: asyncio.TimerHandle | None = None
        #: Whether something is to be asked or given back now: time for a round.
        self.due = False

    @property
    def held_up(self) -> bool:
        """Whether a limit has no permits for this worker now."""
        return any(lease.waits is not None for lease in self._leases)

    @property
    def awaited(self) -> list[str]:
        """Wake-up marks that tell of permits it waits for."""
        return [self._mark(lease) for lease in self._leases if lease.waits is not None]

    @property
    def marks(self) -> list[str]:
        """Every mark that may tell of permits."""
        return [self._mark(lease) for lease in self._leases]

    def freed(self, mark: str) -> None:
        """One of the marks was taken: ask again."""
        for lease in self._leases:
            if lease.waits is not None and self._mark(lease) == mark:
                self._ask_again(lease)

    def _mark(self, lease: _Lease) -> str:
        return lease.broker.keys.key("wake", lease.broker.holder)

    # ------------------------------------------------------------------ around a claim

    async def take(self, wanted: int) -> int:
        """Give how many jobs may be claimed, at most ``wanted``; asks Redis only for what it does not hold."""
        due, self.due = self.due, False
        for lease in self._leases:
            if wanted > 0 and lease.usable > 0:
                wanted = min(wanted, lease.usable)
            elif lease.waits is None and (wanted > 0 or (due and lease.unsettled(len(self._worker.running)))):
                wanted = min(wanted, await self._ask(lease, wanted))
        return wanted

    async def _ask(self, lease: _Lease, wanted: int) -> int:
        # What was claimed before has to run by now: it is counted.
        self._worker.start_claimed()
        try:
            wait = await lease.ask(len(self._worker.running), wanted)
        except (*LOST, RedisError) as error:
            level = logging.DEBUG if isinstance(error, LOST) else logging.ERROR
            logger.log(level, "no permits of %s, again in 1 s: %s", lease.broker.keys.name, error)
            wait = AGAIN_MS
        if wait:
            self._wait(lease, wait)
        return lease.balance

    def used(self, count: int) -> None:
        """Jobs were claimed (at most so many as `take` gave)."""
        running = len(self._worker.running) + count
        for lease in self._leases:
            lease.use(count)
            if lease.late or (lease.waits is not None and lease.by_jobs and lease.counted > running):
                self._ask_again(lease)
        self._watch()

    def _watch(self) -> None:
        """Look again soon, as long as a limit counts anything for this worker."""
        if self._timer is None and any(lease.counted or lease.in_line for lease in self._leases):
            self._timer = self._worker.loop.call_later(GIVE_BACK, self._settle)

    def _settle(self) -> None:
        self._timer = None
        for lease in self._leases:
            if lease.unsettled(len(self._worker.running)):
                self._ask_again(lease)
        self._watch()

    def _wait(self, lease: _Lease, ms: int) -> None:
        lease.waits = self._worker.loop.call_later(ms / 1000, self._ask_again, lease)
        self._worker.supervisor.listen()

    def _ask_again(self, lease: _Lease) -> None:
        """Let the next round ask: for permits if there is work, else only to give back."""
        if lease.waits is not None:
            lease.waits.cancel()
            lease.waits = None
        self.due = True
        self._worker.nudge()

    # ------------------------------------------------------------------ session

    async def register(self, *, leave: bool = False) -> None:
        """Tell what runs here, as the session has begun or come back, or give all back for good."""
        for lease in self._leases:
            await lease.ask(len(self._worker.running), -1 if leave else 0)
            if lease.waits is not None:
                lease.waits.cancel()
                lease.waits = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watch()

    def renewals(self) -> list[tuple[Any, ...]]:
        """Give the commands that renew its leases, for the thread that does it."""
        return [lease.broker.renewal() for lease in self._leases]

    def lapsed(self) -> None:
        """A lease has ended, and others may have its permits: what runs has to be counted again."""
        for lease in self._leases:
            lease.counted += 1
            self._ask_again(lease)
