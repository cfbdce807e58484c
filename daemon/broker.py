"""The only module that changes a job's state: one method per script in ``daemon/lua``.

Errors of redis-py come out as they are; the producer and the inspector translate them (`connections.translated`),
the worker decides by their type.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError, ReadOnlyError

from daemon.connecting.channel import Channel
from daemon.connecting.routed import in_cluster
from daemon.errors import QueueFull
from daemon.keys import FamilyKeys, raw_id
from daemon.lua import SCRIPTS
from daemon.producing.added import Repeat as Repeat
from daemon.producing.added import read_added
from daemon.producing.batches import NewJob as NewJob
from daemon.producing.batches import batches_of, ids_added, pack_jobs, pack_outcomes

#: Bytes of events a family keeps unless it says otherwise; lua/events.lua says the same.
MAX_EVENTS = 2_000_000
NOTHING: Mapping[str, int] = {}


class Outcome(NamedTuple):
    """How a claim ended; ``kind`` and the meaning of a, b, c are in ``lua/tick.lua``; ``score`` is the claim's.

    ``detail`` is its event's, ``share`` what it adds to the statistics: function, microseconds it waited and ran (-1:
    not counted).
    """

    kind: str
    id: bytes
    claim: int
    stamp: str
    a: bytes | int = b""
    b: int | str = 0
    c: bytes = b""
    detail: str = ""
    score: bytes = b"0"
    share: tuple[str, int, int] | None = None


class Claim(NamedTuple):
    """A job this process now holds.

    ``record`` is None when its payload is gone; ``failure`` its last failed try or 0; ``child`` which child fails it.
    """

    id: bytes
    record: bytes | None
    score: bytes
    tries: bytes = b"0"
    crashes: bytes = b"0"
    aborted: bytes = b"0"
    failure: bytes | int = 0
    child: bytes = b""


class Held(NamedTuple):
    """A job a process runs, as `Broker.sync` lists it."""

    id: bytes
    claim: int
    score: bytes
    stamp: str


class PageEntry(NamedTuple):
    """A job in a page, with the two ends of its record (of an ended job: its result) where they were asked for."""

    id: bytes
    score: bytes
    head: bytes = b""
    tail: bytes = b""


class DueTick(NamedTuple):
    """A tick of a schedule: ``due`` by this ``definition``, ``following`` the next (None: none).

    ``job`` is None for one that is left out; ``runs`` counts the ticks made with this one, ``last`` is their last (ms).
    """

    name: str
    due: int
    definition: bytes
    following: int | None
    runs: int
    last: int
    job: NewJob | None


@dataclass(slots=True)
class Tick:
    """A tick's reply, times in ms. ``status``: ``ok``, ``sync`` (register again), ``stale``; ``told`` the outbox.

    ``wait`` is -1 when it was not looked for more work.
    """

    status: str
    now: int = 0
    wait: int = 0
    drain: bool = False
    refused: Sequence[bytes] = ()
    claims: Sequence[Claim] = ()
    told: bool = False


@dataclass(frozen=True, slots=True)
class TickSettings:
    """What a tick needs to know of its family; times in ms, ``keep_count`` -1 for no bound."""

    lease: int
    default_timeout: int
    max_crashes: int
    keep_count: int
    keep_age: int
    poll: int


class Broker:
    """The scripts of one family on one client.

    Args:
        redis: an asynchronous redis-py client without response decoding.
        keys: the family's keys.
        now: a test's clock in ms since the epoch; None is the server's.
        channel: a connection of the caller's own for single calls; None uses the client.
    """

    def __init__(self, redis: Any, keys: FamilyKeys, now: int | None = None, channel: Channel | None = None) -> None:
        self.redis = redis
        self.keys = keys
        self.now = now
        self._channel = channel
        self._keys = keys.cluster_scripts if in_cluster(redis, keys.queue) else (keys.queue,)

    def call(self, name: str, *args: Any) -> tuple[Any, ...]:
        """Give the EVALSHA command of a script, for callers with a client of their own."""
        clock = "" if self.now is None else self.now
        return ("EVALSHA", SCRIPTS[name].sha, len(self._keys), *self._keys, self.keys.prefix, clock, *args)

    async def run(self, name: str, *args: Any) -> Any:
        """Run a script, loading it first where the server does not know it."""
        command = self.call(name, *args)
        execute = self.redis.execute_command if self._channel is None else self._channel.call
        try:
            return await execute(*command)
        except NoScriptError:
            # By the client in any case: behind the call a blocking pop may have been sent over the channel.
            return await self.redis.execute_command("EVAL", SCRIPTS[name].text, *command[2:])
        except ReadOnlyError:
            if self._channel is not None:
                self._channel.close()  # a master no more: the next call must look for the new one
            raise

    async def enqueue(self, jobs: Sequence[NewJob], *, resend: bool = False, waiting: str = "") -> list[bool | Repeat]:
        """Add jobs, in as many calls as their number and size need, all sent at once; each call is all or nothing.

        Args:
            jobs: the jobs, ids complete.
            resend: the reply of the same call was lost: a job found just as it is here counts as added.
            waiting: session of the process that is told the result of a single job, if it is added (`await_result`).

        Returns:
            For each job whether it was added: False when a job, a result or a dead letter has its id, a `Repeat` when
            a job has its dedup key.

        Raises:
            QueueFull: when the family's budget of bytes has no room for all jobs of a call.
            InClear: when the family takes one of them encrypted only; nothing of its call was written.
        """
        batches = batches_of(jobs)
        how = f"{int(resend)} {waiting}" if waiting else int(resend)
        calls = [(how, *pack_jobs(batch)) for batch in batches]
        if len(calls) == 1:
            replies = [await self.run("enqueue", *calls[0])]
        else:
            async with self.redis.pipeline(transaction=False) as pipe:
                pipe.script_load(SCRIPTS["enqueue"].text)
                for args in calls:
                    pipe.execute_command(*self.call("enqueue", *args))
                replies = (await pipe.execute())[1:]
        full = [reply[1] / 1000 for reply in replies if reply and reply[0] == b"full"]
        if full:
            raise QueueFull(self.keys.family, max(full), ids_added(batches, replies))
        return [new for reply in replies for new in read_added(reply)]

    async def relay(self, batch: str, jobs: Sequence[NewJob], remembered_ms: int) -> list[bool | Repeat] | None:
        """Add a batch of an outbox; None when it was added before. Errors as `enqueue`; see ``lua/relay.lua``."""
        reply = await self.run("relay", batch, remembered_ms, *pack_jobs(jobs))
        if reply[0] == b"full":
            raise QueueFull(self.keys.family, reply[1] / 1000)
        return None if reply[0] == b"known" else read_added(reply[1] if reply[0] == b"ok" else reply)

    async def tick(
        self,
        session: str,
        n: int,
        wanted: int,
        alone: bool,
        settings: TickSettings,
        outcomes: Sequence[Outcome],
        channel: Channel | None = None,
        meanwhile: Callable[[], None] = lambda: None,
        statistics: Mapping[str, int] = NOTHING,
        slots: int | None = None,
    ) -> Tick:
        """Settle outcomes (at most 128) and claim up to ``wanted`` jobs in one round trip; see ``lua/tick.lua``.

        Args:
            wanted: -1 where nothing but the outcomes matters; a single one is then settled with less ado.
            channel: a connection of the caller's own; None uses the client.
            meanwhile: called while the server works, which needs a channel.
            statistics: amounts by field, added unless an outcome is refused.
            slots: how many of the claimed begin at once, all when None; ``lua/begin.lua`` tells of the others.
        """
        args: list[Any] = [session, n, wanted, wanted if slots is None else slots, int(alone), settings.lease]
        args += [settings.default_timeout, settings.max_crashes, settings.keep_count, settings.keep_age, settings.poll]
        args += (len(statistics), *chain.from_iterable(statistics.items()))
        args += pack_outcomes(outcomes)
        reply = await (self.run("tick", *args) if channel is None else self._overlap(channel, meanwhile, args))
        if reply[0] != b"ok":
            return Tick(reply[0].decode())
        _, now, wait, drain, refused, flat, unusual, told = reply
        new, usual, each = tuple.__new__, tuple(Claim._field_defaults.values()), iter(flat)
        claims = [new(Claim, of + usual) for of in zip(each, each, each, strict=True)]
        for which, values in zip(unusual[::2], unusual[1::2], strict=True):
            claims[which] = Claim(*claims[which][:3], *values)
        return Tick("ok", now, wait, drain == b"1", refused, claims, told == b"1")

    async def _overlap(self, channel: Channel, meanwhile: Callable[[], None], args: list[Any]) -> Any:
        command = self.call("tick", *args)
        try:
            return await channel.overlap(meanwhile, *command)
        except NoScriptError:
            return await channel.call("EVAL", SCRIPTS["tick"].text, *command[2:])

    async def sync(
        self,
        session: str,
        n: int,
        lease_ms: int,
        info: bytes,
        priority: int,
        rate: tuple[int, int] | None,
        global_limit: int | None,
        held: Iterable[Held],
        *,
        lanes: Mapping[str, str] | None = None,
        max_events: int = MAX_EVENTS,
        statistics: bool = True,
        max_bytes: int | None = None,
        keep_failed: tuple[int, int | None] = (-1, None),
        leave: bool = False,
    ) -> list[bytes] | None:
        """Register the session, or leave for good; make what Redis holds for it equal to ``held``.

        Args:
            rate: starts and period in microseconds.
            lanes: limits of groups and functions (`daemon.limits.queue_limits.lanes_of_settings`).
            max_events: bytes of events the family keeps, 0 for none.
            statistics: whether it keeps statistics.
            max_bytes: bytes it may take in Redis, None for any number.
            keep_failed: how long dead letters are kept (ms, -1 for ever) and how many (None for any number).

        Returns:
            The ids of ``held`` that are not this session's any more; None when a newer call was seen.
        """
        count, per_us = rate or ("", "")
        limit = "" if global_limit is None else global_limit
        args: list[Any] = [session, n, lease_ms, int(leave), info, priority, count, per_us, limit]
        args += [
            max_events,
            int(statistics),
            "" if max_bytes is None else max_bytes,
            "" if keep_failed[0] < 0 else keep_failed[0],
            "" if keep_failed[1] is None else keep_failed[1],
            len(lanes or {}),
            *(part for item in (lanes or {}).items() for part in item),
        ]
        for job in held:
            args += job
        reply = await self.run("sync", *args)
        return None if reply[0] == b"stale" else list(reply[2])

    async def await_result(self, session: str, job_id: str) -> tuple[int, bytes | None]:
        """Give ``(1, result)``, ``(0, None)`` when it will be sent to the session's reply list, ``(-1, None)``."""
        reply = await self.run("await", session, job_id)
        return reply[0], reply[1] if len(reply) > 1 else None

    async def abort(self, job_id: str, result: bytes, keep_ms: int, waiting: str = "") -> str:
        """Abort a job: ``aborted``, ``asked`` (its worker tells the process ``waiting``), ``ended``, ``not_found``."""
        word: bytes = await self.run("abort", job_id, result, keep_ms, waiting)
        return word.decode()

    async def redrive(self, ids: Sequence[str]) -> list[str]:
        """Send dead letters back: ``retried``, ``not_failed`` or ``not_found`` for each id (at most 500)."""
        return [word.decode() for word in await self.run("redrive", *map(raw_id, ids))]

    async def discard(self, ids: Sequence[str]) -> list[str]:
        """Remove dead letters: ``discarded``, ``not_failed`` or ``not_found`` for each id (at most 500)."""
        return [word.decode() for word in await self.run("discard", *map(raw_id, ids))]

    async def remove(self, ids: Sequence[str]) -> list[str]:
        """Remove jobs: ``removed``, ``active`` or ``not_found`` for each id (at most 500)."""
        return [word.decode() for word in await self.run("remove", *ids)]

    async def set_limits(self, changes: Sequence[tuple[str, str, str]]) -> None:
        """Change limits while the family runs: ``("conf" | "limits", field, value)`` each; see ``lua/limits.lua``."""
        await self.run("limits", *(part for change in changes for part in change))

    async def pause(self, paused: bool) -> bool:
        """Pause or resume the queue; False when it was so already."""
        return bool(await self.run("pause", int(paused)))

    async def drain(self, count: int) -> int:
        """Remove waiting and delayed jobs, at most ``count`` (500); fewer are removed when no more are left."""
        return int(await self.run("drain", count))

    async def clean(self, index: str, count: int, before: int, spare: bool = False) -> int:
        """Remove jobs of an index that ended at ``before`` (ms) or earlier, oldest first; see ``lua/clean.lua``."""
        return int(await self.run("clean", index, count, before, "spare" if spare else ""))

    async def promote(self, ids: Sequence[str]) -> list[str]:
        """Let delayed jobs run now: ``promoted``, ``not_delayed`` or ``not_found`` for each id (at most 500)."""
        return [word.decode() for word in await self.run("promote", *ids)]

    async def reprioritize(self, ids: Sequence[str], level: int) -> list[str]:
        """Change jobs' level: ``changed``, ``active``, ``ended`` or ``not_found`` for each id (at most 500)."""
        return [word.decode() for word in await self.run("reprioritize", level, *ids)]

    async def page(
        self, index: str, low: str, high: str, *, down: bool, after: PageEntry | None, count: int,
        head: int = 0, tail: int = 1,
    ) -> list[PageEntry]:  # fmt: skip
        """Read a page of the queue or an index, after a job that may be gone; see ``lua/page.lua``."""
        job_id, score = after[:2] if after else (b"", b"")
        flat = await self.run("page", index, low, high, int(down), score, job_id, count, head, tail)
        width = 4 if head else 2
        return [PageEntry(*flat[i : i + width]) for i in range(0, len(flat), width)]

    async def make_ticks(self, ticks: Sequence[DueTick]) -> list[str]:
        """Make ticks of schedules: ``ok``, ``stale`` (made by another, or changed), ``early`` or ``clear`` for each."""
        calls = []
        for tick in ticks:
            following = "" if tick.following is None else tick.following
            sha1 = hashlib.sha1(tick.definition, usedforsecurity=False).hexdigest()
            job = () if tick.job is None else pack_jobs([tick.job])
            calls.append((tick.name, tick.due, sha1, following, tick.runs, tick.last, *job))
        async with self.redis.pipeline(transaction=False) as pipe:
            for args in calls:
                pipe.execute_command(*self.call("schedule", *args))
            replies = await pipe.execute(raise_on_error=False)
        words = []
        for args, reply in zip(calls, replies, strict=True):
            made = await self.run("schedule", *args) if isinstance(reply, NoScriptError) else reply
            if isinstance(made, Exception):
                raise made
            words.append(made[0].decode())
        return words

    async def plan(self, name: str, old: tuple[bytes | None, int | None], new: bytes | None, due: int | None) -> bool:
        """Add, change or remove a schedule; False when it is not ``old`` any more. See ``lua/plan.lua``.

        Args:
            old: the definition that is there, and when it is due next; None for none.
            new: the definition to write, None to remove it.
        """
        expected = "" if old[0] is None else hashlib.sha1(old[0], usedforsecurity=False).hexdigest()
        times = ["" if ms is None else ms for ms in (old[1], due)]
        return bool(await self.run("plan", name, expected, times[0], new or b"", times[1]))

    async def progress(self, session: str, job_id: str, percent: int, note: str, detail: str = "") -> bool:
        """Note a job's progress; False when the session does not hold it any more. ``detail`` begins its event's."""
        return bool(await self.run("progress", session, job_id, f"{percent} {note}", detail))

    async def once(self, session: str, job_id: bytes, claim: int, receipt: bytes = b"") -> bytes | None:
        """Read a job's receipts, ``step<tab>JSON`` a line, or add one; None when this claim does not hold the job."""
        reply = await self.run("once", session, job_id, claim, receipt)
        return reply[1] if reply[0] else None

    async def log(self, session: str, job_id: bytes, claim: int, line: bytes) -> bool:
        """Keep a line of a job's handler; False when this claim does not hold the job any more."""
        return bool(await self.run("log", session, job_id, claim, line))
