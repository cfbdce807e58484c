"""A worker's session with Redis: numbered calls, outcomes kept until they are acknowledged, sync after a lost reply."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from redis.exceptions import RedisError

from daemon.broker import Broker, Held, Outcome, Tick
from daemon.connecting.channel import Channel
from daemon.connecting.connections import LOST, translate
from daemon.errors import ConfigurationError, RedisRefused, RedisUnavailable
from daemon.keys import spoken_id
from daemon.layout import claim_layout, other_release
from daemon.limits.queue_limits import lanes_of_settings
from daemon.lua import SCRIPTS
from daemon.running.observer import sum_up
from daemon.search.indexer import publish

if TYPE_CHECKING:
    from daemon.worker import Worker

T = TypeVar("T")
logger = logging.getLogger("arqd.worker")

MAX_SETTLES, MAX_SETTLE_BYTES = 128, 1_000_000
#: Acknowledged outcomes are kept so long and sent again after a reconnect: a failover may have lost them.
RESEND_SECONDS, RESEND_COUNT = 3.0, 4096
SUSPECT_SCORE = 2**46
LONGEST_PAUSE, TELL_EVERY = 1.0, 30.0
#: A worker that is to end and has nothing to tell waits no longer for a Redis that is away, seconds.
PARTING_SECONDS = 2.0


class _Parted(Exception):
    """Redis is away, and the worker is to end and owes it nothing."""


class Session:
    """The calls of one worker.

    A reply that never came leaves two questions: was it done, and what did it claim? So each call has a number, the
    server refuses an older one, outcomes are sent again until they are acknowledged, and `register` makes both sides
    agree on who runs what before anything else happens.

    Args:
        worker: whose calls they are.

    Attributes:
        registered: number of the latest call that registered it.
        registering: whether such a call is under way.
        clock_ahead: how far this machine's time of day was ahead of Redis's at the latest tick, ms.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.outcomes: deque[Outcome] = deque()
        self._sending: list[Outcome] = []
        self._resent: set[tuple[bytes, int]] = set()
        self._settled: deque[tuple[float, Outcome]] = deque(maxlen=RESEND_COUNT)
        self._number = self._ticked = 0
        self.registered = 0
        self.registering = False
        self.clock_ahead = 0.0
        # How many outcomes at the front were in one call before: they go together again, so that its statistics count
        # if, and only if, they did not count then.
        self._together: deque[int] = deque()
        # Statistics of outcomes that were accepted in a call with refused ones: for the next call.
        self._carried: dict[str, int] = {}
        self._channel = Channel(worker.broker.redis, worker.keys.queue)
        self._doubtful = False
        self._renewed = False
        # Whether a call whose reply was lost may have claimed jobs; the next registration releases them.
        self._unheard = False
        self._outdated: ConfigurationError | None = None
        # Which of its connections has the script that `begin` calls.
        self._loaded = 0

    @property
    def carries(self) -> bool:
        """Whether it has statistics to send."""
        return bool(self._carried)

    @property
    def owes(self) -> bool:
        """Whether Redis has still to hear of what runs, has ended or may have been claimed."""
        return bool(self.worker.running or self.outcomes or self._unheard)

    @property
    def number(self) -> int:
        """Number of the latest tick."""
        return self._ticked

    def reserve(self) -> int:
        """Give the number of a call that is left with the server (`daemon.claiming.take`)."""
        self._number += 1
        return self._number

    def doubt(self) -> None:
        """Another connection of this process was lost: this one may hang, too, and the next call opens a new one."""
        self._doubtful = True

    def renew(self) -> None:
        """The family's limits have changed: register again before the next call."""
        self._renewed = True

    def outdate(self, layout: str) -> None:
        """Another release has given the queue this layout: what runs ends, and then the worker, with an error."""
        if self._outdated is None:
            self._outdated = other_release(self.worker.family.name, layout)
            logger.error("nothing more is claimed: %s", self._outdated)
            self.worker.drain()

    async def tick(self, wanted: int, slots: int, alone: bool, meanwhile: Callable[[], None]) -> Tick | None:
        """Settle outcomes and claim up to ``wanted`` jobs; see `Broker.tick`.

        Args:
            slots: how many of these begin at once; `begin` tells of the others.
            meanwhile: called while the reply is under way.

        Returns:
            The reply; None when there was none (then the session has been registered again).
        """
        worker = self.worker
        if self._renewed:
            self._renewed = False
            await self.until_reached(self.register)
        if worker.permits is not None:
            wanted = await worker.permits.take(wanted)
        self._sending = self._take()
        carried, self._carried = self._carried, {}
        if self._doubtful:
            self._doubtful = False
            self._channel.close()
        self._ticked = self.reserve()
        sent = self._channel.sent
        try:
            reply = await worker.broker.tick(
                worker.supervisor.session,
                self._ticked,
                wanted,
                alone,
                worker.tick_settings,
                self._sending,
                self._channel,
                meanwhile,
                sum_up(self._sending, carried.copy()),
                slots,
            )
        except (*LOST, RedisError) as error:
            self._unheard = self._unheard or (wanted > 0 and self._channel.sent != sent)
            if worker.permits is not None:
                # It may have been done.
                worker.permits.used(wanted)
            # What was carried is sent once: nobody knows whether it was counted, and outcomes sent again tell only of
            # their own.
            await self._recover(error)
            return None
        if reply.status != "ok":
            self._carried = carried
            await self._recover(None)
            return None
        self.clock_ahead = time.time() * 1000 - reply.now
        if worker.permits is not None:
            worker.permits.used(len(reply.claims))
        if reply.refused:
            refused = set(reply.refused)
            accepted = [outcome for outcome in self._sending if outcome.id not in refused]
            self._carried = sum_up(accepted, carried)
        self._acknowledge(reply)
        return reply

    def begin(self, ids: Sequence[bytes]) -> bool:
        """Tell that jobs claimed ahead begin; False when they must not, since their connection is lost.

        What is sent now has left before the next turn of the event loop, in which they begin.
        """
        if self._loaded != self._channel.opened:
            self._loaded = self._channel.opened
            self._channel.tell("SCRIPT", "LOAD", SCRIPTS["begin"].text)
        return self._channel.tell(*self.worker.broker.call("begin", self.worker.supervisor.session, *ids))

    def _take(self) -> list[Outcome]:
        taken: list[Outcome] = []
        size = 0
        again = self._together.popleft() if self._together else 0
        while self.outcomes and len(taken) < (again or MAX_SETTLES) and size < MAX_SETTLE_BYTES:
            outcome = self.outcomes.popleft()
            size += len(outcome.a) if isinstance(outcome.a, bytes) else 8
            taken.append(outcome)
        if again and len(taken) < again:
            self._together.appendleft(again - len(taken))
        return taken

    def _acknowledge(self, reply: Tick) -> None:
        now = time.monotonic()
        while self._settled and self._settled[0][0] < now - RESEND_SECONDS:
            self._settled.popleft()
        refused = set(reply.refused)
        late: set[tuple[bytes, int]] = set()
        for outcome in self._sending:
            if outcome.id not in refused:
                self._settled.append((now, outcome))
            elif (outcome.id, outcome.claim) not in self._resent:
                name = spoken_id(outcome.id.decode("utf-8", "replace"))
                logger.warning("job %s: its outcome came too late, another worker has it or it is gone", name)
                late.add((outcome.id, outcome.claim))
        self.worker.listeners.settled(self._sending, late)
        self._sending = []
        if not self.outcomes:
            self._resent.clear()

    async def _recover(self, error: Exception | None) -> None:
        """After a call without a good reply: what ended is sent again, what was claimed unheard is found by sync."""
        worker, name = self.worker, self.worker.family.name
        # After a failover the next call must find the new server.
        self._channel.close()
        self._first(self._sending)
        if error is not None:
            # Only the reply may be lost: refused the next time, they are gone as they should be.
            self._resent.update((outcome.id, outcome.claim) for outcome in self._sending)
        self._sending = []
        if isinstance(error, LOST):
            logger.warning("%s: Redis is away, %d jobs go on: %s", name, len(worker.running), error)
            worker.supervisor.redis_up = False
        elif error is not None:
            logger.error("%s: Redis refused a call, trying again in 1 s: %s", name, error)
            await asyncio.sleep(1)
        await self.until_reached(self.register)
        if isinstance(error, LOST):
            logger.info("%s: Redis is back", name)

    async def until_reached(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call until Redis answers, waiting a little longer each time.

        Raises:
            RedisRefused: when Redis refuses this user before the worker has started.
            RedisUnavailable: when the process is ending, may not wait any longer and has still something to tell.
            _Parted: when the worker is to end and has nothing to wait for; `kept` takes it.
        """
        worker, delay, quiet_until, began = self.worker, 0.05, 0.0, time.monotonic()
        while True:
            try:
                result = await call()
                worker.supervisor.redis_up = True
                return result
            except LOST as error:
                worker.supervisor.redis_up = False
                refused = translate(error)
                if not worker.started and isinstance(refused, RedisRefused):
                    raise refused from None
                hurry = not worker.supervisor.patient
                if worker.draining and not self.owes and (hurry or time.monotonic() - began > PARTING_SECONDS):
                    raise _Parted from None
                if worker.draining and hurry:
                    raise self._untold(error) from None
                if time.monotonic() >= quiet_until:
                    quiet_until = time.monotonic() + (TELL_EVERY if delay == LONGEST_PAUSE else 0)
                    logger.warning("%s: Redis cannot be reached, again in %.1f s: %s", worker.family.name, delay, error)
                await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311
                delay = min(delay * 2, LONGEST_PAUSE)

    def _untold(self, error: Exception) -> RedisUnavailable:
        worker = self.worker
        jobs = len(worker.running) + len(self.outcomes)
        what = f"{jobs} jobs, which run" if jobs > 1 else "1 job, which runs" if jobs else "a call, whose claims run"
        return RedisUnavailable(
            f"{worker.family.name}: Redis was away to the end and was not told of {what} again after the lease of "
            f"{worker.family.values.lease:g} s ({error})"
        )

    async def register(self, *, leave: bool = False) -> None:
        """Register (or leave for good), and make what Redis holds for this session equal to what it runs."""
        worker, values = self.worker, self.worker.family.values
        if not worker.started:
            await claim_layout(worker.broker.redis, worker.keys)
        # What came with the last reply is held, too, though its call may have been lost before it could be started.
        worker.start_claimed()
        worker.prefetch.catch_up()
        worker.prefetch.drop()
        recent = [outcome for at, outcome in self._settled if at > time.monotonic() - RESEND_SECONDS]
        running = {run.claim.id: run for run in worker.running.values()}
        held = {key: Held(key, run.number, run.claim.score, run.stamp) for key, run in running.items()}
        for ended in self.outcomes:
            held[ended.id] = Held(ended.id, ended.claim, ended.score, ended.stamp)
        lost = None
        self.registering = True
        try:
            while lost is None:
                lost = await self._sync(worker.broker, held.values(), leave)
        finally:
            self.registering = False
        self._unheard = False
        if not leave:
            await publish(worker.broker.redis, worker.keys, values.search, int(values.max_search))
        if worker.dialect.guards and not leave:
            await worker.broker.set_limits([("conf", field, value) for field, value in worker.dialect.guards.items()])
        if worker.permits is not None:
            await worker.permits.register(leave=leave)
        for job_id in lost:
            if job_id in running:
                # Another worker has it, or it is gone.
                worker.executor.cancel(running[job_id], "lost")
        # A failover may have rolled back what had been acknowledged; told again, a settled job is simply "gone".
        self._settled.clear()
        self._resent.update((outcome.id, outcome.claim) for outcome in recent)
        for start in reversed(range(0, len(recent), MAX_SETTLES)):
            self._first(recent[start : start + MAX_SETTLES])

    async def _sync(self, broker: Broker, held: Iterable[Held], leave: bool) -> list[bytes] | None:
        worker, values = self.worker, self.worker.family.values
        rate = values.rate_limit
        self.registered = self.reserve()
        return await broker.sync(
            worker.supervisor.session,
            self.registered,
            worker.lease_ms,
            worker.info(),
            values.priority,
            (rate.count, round(rate.per * 1_000_000)) if rate else None,
            values.global_limit,
            held,
            lanes=lanes_of_settings(worker.family),
            max_events=int(values.max_events),
            statistics=values.statistics,
            max_bytes=None if values.max_bytes is None else int(values.max_bytes),
            keep_failed=(worker.keep_failed_ms, values.keep_failed_count),
            leave=leave,
        )

    async def pending(self) -> tuple[int, int]:
        """Give how many jobs, or messages about some, wait for a worker, and how many suspects."""
        worker = self.worker
        async with worker.client.pipeline(transaction=False) as pipe:
            pipe.zcount(worker.keys.queue, "-inf", f"({2**45}")
            pipe.zcount(worker.keys.queue, 2**47, f"({2**47 + 2**46}")
            pipe.zcount(worker.keys.queue, SUSPECT_SCORE, f"({2**46 + 2**45}")
            # A parent may be waiting for what stands there.
            pipe.exists(worker.keys.key("outbox"))
            pending, in_lanes, suspects, untold = await pipe.execute()
            return int(pending) + int(in_lanes) + int(untold), int(suspects)

    async def hand_over(self, broker: Broker, *last: Outcome) -> None:
        """Settle what has ended, and these, hand the rest back uncounted and leave.

        For a process whose event loop is blocked and about to be ended: another loop, another connection.
        """
        worker = self.worker
        worker.prefetch.catch_up()
        self._first(self._sending)
        self.outcomes.extend(last)
        while self.outcomes:
            outcomes = self._take()
            await broker.tick(worker.supervisor.session, self.reserve(), 0, False, worker.tick_settings, outcomes)
        await self._sync(broker, (), leave=True)

    def _first(self, outcomes: list[Outcome]) -> None:
        """Send these again before all others, in a call of their own."""
        if outcomes:
            self.outcomes.extendleft(reversed(outcomes))
            self._together.appendleft(len(outcomes))

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """A worker's life: at its end it leaves.

        Raises:
            ConfigurationError: the queue has got another layout meanwhile.
        """
        with contextlib.suppress(_Parted):
            yield
        await self.leave()
        if self._outdated is not None:
            raise self._outdated

    async def leave(self) -> None:
        """Deregister; nothing is held any more."""
        self._channel.close()
        try:
            await self.register(leave=True)
        except (*LOST, RedisError) as error:
            # What is left to do is not worth its time limits.
            self.worker.supervisor.redis_up = False
            name = self.worker.family.name
            logger.warning("%s: left without telling Redis, the lease will end by itself: %s", name, error)
