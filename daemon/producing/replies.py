"""How a producer process hears that its jobs ended: one blocking connection for all it waits for, no polling.

One for each place of keys: a server, or in a cluster a family's slot.

Who has waited for a job mostly waits for the next one, too. So a producer says with that job's own call that it wants
to be told (`ReplyReader.look_ahead`), and has no more to ask: for each wait one job of the family is handed over like
that. If nobody waits for it, its result comes in vain, once.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

from redis import exceptions

from daemon.broker import Broker
from daemon.connecting.channel import Channel
from daemon.connecting.connections import LOST, translate
from daemon.connecting.routed import place_of
from daemon.errors import JobNotFound, RedisError, RedisUnavailable, ResultTimeout
from daemon.keys import FamilyKeys, spoken_id

#: How long one pop blocks; shorter on a client that may time out before.
BLOCK_SECONDS, BLOCK_SHARED_SECONDS = 5, 1
#: Pause between two tries while Redis is away.
AGAIN_SECONDS = 0.2
#: Who has waited for so long asks again, whatever a server may have forgotten.
REMIND_SECONDS = 20.0
#: So many jobs at most of a family are handed over with the question for their results, and of all are remembered.
MOST_AHEAD, MOST_REMEMBERED = 64, 256
#: A result that was quicker than who is about to wait for it is kept for so many seconds, one of at most so many bytes.
EARLY_SECONDS, EARLY_BYTES = 1.0, 4096


class ReplyReader:
    """Waits for results on the reply lists of this process's session.

    Args:
        redis: the producer's client.
        open_blocking: opens a client for the blocking connection, given its time limit in seconds; None takes a
            connection of ``redis``'s pool.
        channel: asks for results; None where there are several servers.

    Attributes:
        session: names this process to the scripts that tell it of results.
    """

    def __init__(self, redis: Any, open_blocking: Callable[[float], Any] | None, channel: Channel | None) -> None:
        self._redis = redis
        self._channel = channel
        self._pops: Channel | None = None
        self._open = open_blocking
        self._blocking: Any = None
        self.session = secrets.token_hex(8)
        self._waiting: dict[str, set[asyncio.Future[bytes]]] = {}
        self._keys_of: dict[str, FamilyKeys] = {}
        #: In each place, what is waited for and when it was asked for last, the longest ago first.
        self._waiting_in: defaultdict[Hashable, dict[str, float]] = defaultdict(dict)
        self._lists: dict[Hashable, list[str]] = {}
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}
        self._away: RedisError | None = None
        #: Of each family: with how many of the next jobs it says that it waits.
        self._likely: defaultdict[str, int] = defaultdict(int)
        #: Jobs with which it said so and whose results nobody has waited for: when, and `_losses` then.
        self._ahead: dict[str, tuple[float, int]] = {}
        #: Results of such jobs that came before anybody waited for them, and when.
        self._early: dict[str, tuple[float, bytes]] = {}

    def look_ahead(self, family: str, job_id: str) -> str:
        """Give the session that is to be told the result of a job about to be added, "" where it is to be asked for."""
        self._early.pop(job_id, None)
        if not self._likely[family]:
            return ""
        self._likely[family] -= 1
        _leave(self._ahead, MOST_REMEMBERED - 1)
        # Before it is added: its result may be here before the reply that says that it was.
        self._ahead[job_id] = time.monotonic(), self._losses
        return self.session

    def forget(self, job_id: str) -> None:
        """That job was not added: its result is asked for."""
        self._ahead.pop(job_id, None)

    def forget_early(self) -> None:
        """Jobs are about to be added without `look_ahead`: what is known may be of others with their ids."""
        self._early.clear()

    def _is_told(self, job_id: str) -> bool:
        """Whether it comes without a question: what was said long ago, or to a server that is gone, counts not."""
        since, losses = self._ahead.pop(job_id, (-REMIND_SECONDS, 0))
        return since + REMIND_SECONDS > time.monotonic() and losses == self._losses

    async def wait(self, family: str, job_id: str, timeout: float | None) -> bytes:
        """Give the result record of a job as soon as it has ended.

        Args:
            timeout: seconds, None for ever.

        Raises:
            ResultTimeout, JobNotFound, RedisUnavailable: see `JobHandle.result`.
        """
        self._likely[family] = min(self._likely[family] + 1, MOST_AHEAD)
        since, early = self._early.pop(job_id, (-EARLY_SECONDS, b""))
        if since + EARLY_SECONDS > time.monotonic():
            return early
        future = self._expect(family, job_id)
        try:
            keys = self._keys_of[job_id]
            asked = self._is_told(job_id)
            if asked and self._reads(keys):
                return await _within(timeout, future)
            async with asyncio.timeout(timeout):
                if not asked and self._channel is not None and not self._reading:
                    # Nobody blocks the reader's connection: the question goes over it, and its pop in the same packet.
                    asking = asyncio.ensure_future(self._ask(job_id, self._connection()))
                    await self._listen_to(keys)
                    asked = await asking
                elif not asked:
                    asked = await self._ask(job_id)
                while not asked:
                    await asyncio.sleep(AGAIN_SECONDS)
                    asked = await self._ask(job_id)
                await self._listen_to(keys)
                return await future
        except TimeoutError:
            raise self._late(job_id, timeout) from None
        finally:
            self._expect_no_more(job_id, future)

    async def wait_after(
        self, call: Callable[[], Awaitable[bool]], family: str, job_id: str, timeout: float | None
    ) -> bytes | None:
        """Make a call after which a job may end, and give its result record; None when the call says it will not come.

        The call has to make `session` one that is told: the job may have ended, and left nothing, by its reply.

        Raises: as `wait`, and what the call raises.
        """
        future = self._expect(family, job_id)
        try:
            if not await call():
                return None
            async with asyncio.timeout(timeout):
                await self._listen_to(self._keys_of[job_id])
                return await future
        except TimeoutError:
            raise self._late(job_id, timeout) from None
        finally:
            self._expect_no_more(job_id, future)

    def _expect(self, family: str, job_id: str) -> asyncio.Future[bytes]:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, set()).add(future)
        keys = self._keys_of[job_id] = FamilyKeys.of(family)
        there = self._waiting_in[place_of(self._redis, keys.queue)]
        there.setdefault(job_id, time.monotonic())
        return future

    def _expect_no_more(self, job_id: str, future: asyncio.Future[bytes]) -> None:
        waiting = self._waiting[job_id]
        waiting.discard(future)
        if not waiting:
            keys = self._keys_of.pop(job_id)
            del self._waiting[job_id]
            self._waiting_in[place_of(self._redis, keys.queue)].pop(job_id, None)

    def _late(self, job_id: str, timeout: float | None) -> RedisError | ResultTimeout:
        return self._away or ResultTimeout(f"{spoken_id(job_id)} has not ended within {timeout:g} s; it goes on")

    async def _ask(self, job_id: str, channel: Channel | None = None) -> bool:
        """Ask for the result, or to be told; False when the connection was lost over it."""
        try:
            broker = Broker(self._redis, self._keys_of[job_id], channel=channel or self._channel)
            code, result = await broker.await_result(self.session, job_id)
        except (*LOST, exceptions.RedisError) as error:
            told = translate(error)
            if not isinstance(told, RedisUnavailable):
                raise told from error
            self._away = told
            return False
        self._away = None
        if result is not None:
            self._give(job_id, result)
        elif code < 0:
            self._fail(job_id, JobNotFound(f"there is no job {spoken_id(job_id)}, or its result was not kept"))
        return True

    def _reads(self, keys: FamilyKeys) -> bool:
        place = place_of(self._redis, keys.queue)
        task = self._tasks.get(place)
        return task is not None and not task.done() and keys.key("reply", self.session) in self._lists[place]

    async def _listen_to(self, keys: FamilyKeys) -> None:
        new = keys.key("reply", self.session)
        place = place_of(self._redis, new)
        lists, task = self._lists.setdefault(place, []), self._tasks.get(place)
        if new not in lists:
            lists.append(new)
            if len(lists) > 1 and task is not None and not task.done():
                # The reader blocks on the lists it knew: an empty entry makes it look at the new one as well.
                await self._redis.rpush(lists[0], b"")
        if (task := self._tasks.get(place)) is None or task.done():
            self._tasks[place] = asyncio.create_task(self._read(place), name="arqd-replies")

    @property
    def _losses(self) -> int:
        """How often the connection that questions go over was lost."""
        return 0 if self._channel is None else self._channel.losses

    @property
    def _reading(self) -> bool:
        return any(not task.done() for task in self._tasks.values())

    def _connection(self) -> Channel:
        """The connection for blocking pops of one server."""
        if self._pops is None:
            self._blocking = self._redis if self._open is None else self._open(BLOCK_SECONDS + 2)
            self._pops = Channel(self._blocking)
        return self._pops

    async def _read(self, place: Hashable) -> None:
        """Hand out what arrives in a place; ends when nobody waits there any more."""
        block = BLOCK_SHARED_SECONDS if self._open is None else BLOCK_SECONDS
        pops, client = self._connection(), self._blocking
        losses, answered = self._losses, False
        while self._waiting_in[place] or answered:
            answered = False
            try:
                if losses != self._losses:
                    # A primary that stalls, is replaced and wakes up takes questions for a moment more; the one in its
                    # place, where we listen, never hears of them.
                    losses = self._losses
                    await self._again(place)
                await self._remind(place)
                if self._channel is None:
                    found = await client.blpop(self._lists[place], block)
                    self._hear(found)
                else:
                    # Whoever waits for what it brings goes on before this task does.
                    found = await pops.call("BLPOP", *self._lists[place], block, heard=self._hear)
                answered = found is not None
            except LOST as error:
                self._away = translate(error)
                if not isinstance(self._away, RedisUnavailable):
                    return self._fail_all(place, self._away)
                try:
                    await self._again(place)
                except Exception as unexpected:
                    # Nobody would be told otherwise: they would wait for a reader that is no more.
                    return self._fail_all(place, unexpected)
            except Exception as error:
                # The server has become a replica, and will close the connection: then it is lost.
                if not str(error).startswith("UNBLOCKED"):
                    return self._fail_all(
                        place, translate(error) if isinstance(error, exceptions.RedisError) else error
                    )
                await asyncio.sleep(AGAIN_SECONDS)
        return None

    async def _remind(self, place: Hashable) -> None:
        """Ask again for what was asked for long ago."""
        there, now = self._waiting_in[place], time.monotonic()
        overdue = list(itertools.takewhile(lambda job_id: there[job_id] + REMIND_SECONDS <= now, there))
        for job_id in overdue:
            del there[job_id]
            there[job_id] = now
        if overdue:
            await asyncio.gather(*map(self._ask_again, overdue))

    async def _ask_again(self, job_id: str) -> bool:
        # Whoever waited may have given up meanwhile.
        return job_id not in self._waiting or await self._ask(job_id)

    async def _again(self, place: Hashable) -> None:
        """After a lost connection: ask for everything once more, since answers may have been lost with it."""
        self._ahead.clear()
        for job_id in list(self._waiting_in[place]):
            while job_id in self._waiting:
                await asyncio.sleep(AGAIN_SECONDS if self._away else 0)
                if await self._ask_again(job_id):
                    break

    def _hear(self, found: list[bytes] | None) -> None:
        """Take what a pop brought; an empty entry only wakes the reader."""
        if found is None or not found[1]:
            return
        spoken, _, result = found[1].partition(b"\n")
        job_id = spoken.decode("utf-8", "surrogateescape")
        known = self._ahead.pop(job_id, None)
        if result and known and job_id not in self._waiting and len(result) <= EARLY_BYTES:
            _leave(self._early, MOST_REMEMBERED - 1)
            self._early[job_id] = time.monotonic(), result
        elif result:
            self._give(job_id, result)
        else:
            self._fail(job_id, JobNotFound(f"{spoken_id(job_id)} was removed"))

    def _give(self, job_id: str, result: bytes) -> None:
        for future in self._waiting.get(job_id, ()):
            if not future.done():
                future.set_result(result)

    def _fail(self, job_id: str, error: Exception) -> None:
        for future in self._waiting.get(job_id, ()):
            if not future.done():
                future.set_exception(error)

    def _fail_all(self, place: Hashable, error: Exception) -> None:
        for job_id in self._waiting_in[place]:
            self._fail(job_id, error)

    async def close(self) -> None:
        """End the readers and close their connections."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._pops is not None:
            self._pops.close()
        if self._blocking is not None and self._blocking is not self._redis:
            await self._blocking.aclose()


def _leave(remembered: dict[str, Any], most: int) -> None:
    """Forget the oldest of what is remembered, but so many."""
    while len(remembered) > most:
        del remembered[next(iter(remembered))]


async def _within(seconds: float | None, future: asyncio.Future[bytes]) -> bytes:
    """Wait for no more than a future; `asyncio.timeout` would take several times as long for that.

    Raises:
        TimeoutError: after so many seconds, None for ever.
    """
    if seconds is None:
        return await future
    timer = future.get_loop().call_later(seconds, _expire, future)
    try:
        return await future
    finally:
        timer.cancel()


def _expire(future: asyncio.Future[bytes]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
