"""Who makes the due ticks of every family: one process at a time, the holder of a lease.

The lease only saves work. That a tick is made once is the script's doing (``lua/schedule.lua``), so two leaders for a
moment, after a pause or a failover, do no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import random
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any

from redis.exceptions import RedisError

from daemon.connecting.connections import LOST, connect, translate
from daemon.connecting.routed import Routed, by_place
from daemon.flows import courier
from daemon.lua import SCRIPTS
from daemon.noted import Noted
from daemon.scheduling.ticks import Ticks, ticks_of
from daemon.search import indexer
from daemon.servers import RedisUrl

logger = logging.getLogger("arqd.scheduler")

#: The leader's lease; a sorted set that wakes the leader for the families named in it; one that wakes a successor; the
#: families that have, or had, schedules.
LEASE, WAKE, FREE, FAMILIES = "arqd:scheduler", "arqd:scheduler:wake", "arqd:scheduler:free", "arqd:scheduler:families"

LEASE_SECONDS, RENEW_SECONDS = 5.0, 3.5
#: How often the leader looks at all families: a wake-up is sent after a change, so it may be lost.
LOOK_SECONDS = 10.0
#: How long pops block; that of wake-ups only hurries the next look.
BLOCK_SECONDS, BLOCK_WAKE_SECONDS = 5.0, 10.0
AGAIN_SECONDS = 1.0
#: All that it waits for ends sooner, a server that hangs included: who has not turned for so long hangs.
STILL_SECONDS = 60.0
#: How long it waits for its process's workers before it leads.
START_SECONDS = 10.0

Call = Callable[[], Awaitable[None]]


async def announce(redis: Any, family: str) -> None:
    """Make the leader know a family; before its first schedule is written."""
    await redis.sadd(FAMILIES, family)


async def wake(redis: Any, family: str) -> None:
    """Tell the leader that a family's schedules have changed; where that fails it finds out by itself."""
    with contextlib.suppress(*LOST, RedisError):
        await redis.zadd(WAKE, {family: 0})


class Scheduler:
    """Leads when no other process does, until it is cancelled; then another may at once.

    Args:
        url: Redis.

    Attributes:
        leading: whether it does.
        turned: when it last went on, by the monotonic clock.
    """

    def __init__(self, url: RedisUrl) -> None:
        self.leading = False
        self.turned = time.monotonic()
        self._waiting = False
        # Who looks at the lease sees which process leads.
        self._id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._client = connect(url, timeout=BLOCK_SECONDS + 2)
        self._wakes = connect(url, timeout=BLOCK_WAKE_SECONDS + 2)
        #: The families that what is called here works for; read anew with each look.
        self.noted = Noted(self._client, FAMILIES, indexer.FAMILIES, courier.FAMILIES, seconds=LOOK_SECONDS + 2)
        self._periodic: list[tuple[float, Call]] = []
        self._away: list[Callable[[Exception | None], Awaitable[None]]] = []
        self._ticks: dict[str, Ticks] = {}
        self._next: dict[str, float] = {}
        #: What makes ticks just now, by server.
        self._making: dict[Hashable, asyncio.Task[None]] = {}
        self._popping: asyncio.Task[Any] | None = None
        self.every(indexer.LOOK_SECONDS, indexer.Indexer(self._client, self.noted).catch_up)

    def every(self, seconds: float, call: Call) -> None:
        """Have something called now and then while this process leads.

        Args:
            seconds: from the end of one call to the next; the first comes when it begins to lead.
            call: what it raises is logged; it is cancelled when another process leads. Two processes may run it at once
                for a moment.
        """
        self._periodic.append((seconds, call))

    def on_away(self, call: Callable[[Exception | None], Awaitable[None]]) -> None:
        """Have something called when Redis goes away while this process leads, and when it is back (with None)."""
        self._away.append(call)

    @property
    def turns(self) -> bool:
        """Whether it goes on: it leads, waits to, or waits for Redis."""
        return time.monotonic() - self.turned < STILL_SECONDS

    def snapshot(self) -> dict[str, Any]:
        """What the heartbeat file of a process that does nothing else tells (see `daemon.process.heartbeat`)."""
        return {"pid": os.getpid(), "state": "running", "leading": self.leading}

    async def run(self, ready: Callable[[], bool] = lambda: True) -> None:
        """Wait for the lease and lead, again and again; Redis may come and go.

        Args:
            ready: whether this process's own workers have started. They are waited for, a while: who leads looks for
                queues without a worker at once, and is not to find its own.
        """
        away = led = False
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_SECONDS):
                    while not ready():  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
            while True:
                self.turned = time.monotonic()
                try:
                    left = await self._hold()
                    if away:
                        away = False
                        logger.info("scheduler: Redis is back")
                        await self._tell_away(None, led)
                    led = left is None
                    if left is None:
                        await self._lead()
                    else:
                        await self._client.bzpopmin(FREE, min(left + random.uniform(0.05, 0.3), BLOCK_SECONDS))  # noqa: S311
                except (*LOST, RedisError) as error:
                    # The lease may have been taken all the same.
                    self._waiting = False
                    if not away:
                        away = True
                        logger.warning("scheduler: Redis cannot be used, trying again: %s", error)
                        await self._tell_away(translate(error), led)
                    await asyncio.sleep(AGAIN_SECONDS)
        finally:
            try:
                with contextlib.suppress(*LOST, RedisError):
                    async with asyncio.timeout(1):
                        await self._tell_away(None, away and led)
                        await self._give_up()
            finally:
                await self._client.aclose()
                await self._wakes.aclose()

    async def _tell_away(self, error: Exception | None, led: bool) -> None:
        for call in self._away if led else ():
            await call(error)

    # ------------------------------------------------------------------ lease

    async def _hold(self) -> float | None:
        """Take or renew the lease; None when it is held, else for how many seconds another still has it."""
        ms = round(LEASE_SECONDS * 1000)
        # That of another is prolonged once by it, and then this process leads no more.
        if self.leading and await self._client.getex(LEASE, px=ms) == self._id.encode():
            return None
        left = await self._client.pttl(LEASE) if self._waiting else -1
        if left <= 0:
            left = await self._client.eval(SCRIPTS["lead"].text, 1, LEASE, self._id, ms)
        self._waiting = left >= 0
        return left / 1000 if self._waiting else None

    async def _give_up(self) -> None:
        if await self._client.get(LEASE) == self._id.encode():
            async with self._client.pipeline(transaction=False) as pipe:
                # Who waits gets it at once; where nobody does it must not stay.
                pipe.delete(LEASE).zadd(FREE, {"1": 0}).pexpire(FREE, 1000)
                await pipe.execute()

    # ------------------------------------------------------------------ lead

    async def _lead(self) -> None:
        """Make due ticks until the lease is lost."""
        logger.info("scheduler: this process leads")
        self.leading = True
        periodic = [asyncio.create_task(_repeat(*each)) for each in self._periodic]
        renew = look = 0.0
        try:
            while True:
                self.turned = now = time.monotonic()
                if now >= renew:
                    if await self._hold() is not None:
                        logger.info("scheduler: another process leads")
                        return
                    renew = now + RENEW_SECONDS
                if now >= look:
                    await self._look()
                    look = now + LOOK_SECONDS
                self._begin(now)
                # Those still due are of servers that are being asked: when that has ended it goes on with them.
                await self._sleep(min(renew, look, *(at for at in self._next.values() if at > now)))
        finally:
            self.leading = False
            tasks = [*periodic, *self._making.values(), *([self._popping] if self._popping else [])]
            self._popping, self._making = None, {}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        """Look at every family that may have schedules."""
        await self.noted.look()
        for family in await self.noted.families(FAMILIES):
            self._ticks.setdefault(family, ticks_of(self._client, family))
            self._next[family] = 0.0

    def _begin(self, now: float) -> None:
        """Begin to make due ticks, of each server by itself: the others and the lease wait for none that hangs."""
        families = [family for family, at in self._next.items() if at <= now]
        due = by_place(self._client, families, lambda family: self._ticks[family].broker.keys.queue)
        for place in due.keys() - self._making.keys():
            # A wake-up that comes meanwhile makes it due again.
            self._next.update(dict.fromkeys(due[place], math.inf))
            self._making[place] = asyncio.create_task(self._make_due(due[place]))

    async def _make_due(self, families: Sequence[str]) -> None:
        """Make due ticks of families of one server."""
        for family in families:
            try:
                wait = await self._ticks[family].make_due()
            except LOST as error:
                if not isinstance(self._client, Routed):
                    raise
                # Of several servers one is away. Were it the lease's, that is noticed.
                logger.warning("schedules of %s are late, trying again: %s", family, error)
                wait = None
            except RedisError as error:
                # Its memory is full, perhaps: the ticks stay due.
                logger.error("schedules of %s are late, trying again: %s", family, error)
                wait = AGAIN_SECONDS
            self._next[family] = min(self._next[family], time.monotonic() + (LOOK_SECONDS if wait is None else wait))

    async def _sleep(self, until: float) -> None:
        """Sleep until a time, until schedules have changed or until the ticks of a server are made."""
        if self._popping is None:
            self._popping = asyncio.create_task(self._wakes.bzpopmin(WAKE, BLOCK_WAKE_SECONDS))
        waits = {self._popping, *self._making.values()}
        await asyncio.wait(waits, timeout=max(until - time.monotonic(), 0), return_when=asyncio.FIRST_COMPLETED)
        for place in [place for place, task in self._making.items() if task.done()]:
            self._making.pop(place).result()
        if self._popping.done():
            popped, self._popping = self._popping, None
            found = popped.result()
            if found is not None:
                family = found[1].decode()
                self._ticks.setdefault(family, ticks_of(self._client, family))
                self._next[family] = 0.0


async def _repeat(seconds: float, call: Call) -> None:
    while True:
        try:
            await call()
        except Exception:
            logger.exception("what the scheduler calls every %g s failed", seconds)
        await asyncio.sleep(seconds)
