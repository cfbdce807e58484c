"""What one slot has to tell another: the courier reads outboxes, delivers, and deletes what was acknowledged.

Everything it does may be done twice, by it or by another courier at the same time: the receiving scripts know what
they have had. docs/flows.md has the protocol and what happens when a courier dies at each of its steps.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic_core import from_json
from redis.exceptions import RedisError

from daemon import codec
from daemon.broker import NewJob
from daemon.connecting.connections import LOST
from daemon.connecting.routed import Routed, by_place
from daemon.encryption import is_sealed, shown_error
from daemon.errors import ArqdError, Unreadable
from daemon.flows.broker import PORTION, PORTION_BYTES, ChildEnd, FlowBroker, FlowJob, OutboxEntry
from daemon.keys import FamilyKeys, family_of, spoken_id
from daemon.noted import Noted
from daemon.records import tail_of

logger = logging.getLogger("arqd.courier")

#: The families that have, or had, jobs in flows.
FAMILIES = "arqd:flows:families"
#: How long a courier has an outbox to itself after each portion; one that died holds it up for so long.
LEASE_MS = 2000
#: How often outboxes are looked at that nobody told of.
SWEEP_SECONDS = 10.0
#: A result longer than this is not copied to the parents: they read the child's own.
COPIED_RESULT = 65_536

_BECAME = {b"b": "failed", b"a": "was aborted", b"e": "expired", b"x": "was removed", b"m": "is not there"}


class Courier:
    """Delivers what stands in the outboxes of families.

    Args:
        redis: an asynchronous redis-py client without response decoding.
        families: whose outboxes it sweeps.
        now: a test's clock in ms.
        told: called by `run` after a sweep.
    """

    def __init__(
        self,
        redis: Any,
        families: Iterable[str] = (),
        now: int | None = None,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self._redis = redis
        self._families = list(families)
        self._now = now
        self._told = told
        self._session = secrets.token_hex(8)
        #: Whether families are on several servers, of which some may be away.
        self._spread = isinstance(redis, Routed)
        self._brokers: dict[str, FlowBroker] = {}
        self._woken = asyncio.Event()
        self._delivering = asyncio.Lock()

    def wake(self) -> None:
        """Something was written to an outbox: `run` looks at once."""
        self._woken.set()

    async def run(self) -> None:
        """Sweep whenever woken, and every few seconds, until cancelled."""
        while True:
            self._woken.clear()
            try:
                pause = await self.sweep()
                self._told()
            except (*LOST, RedisError) as error:
                logger.debug("outboxes: %s", error)
                pause = SWEEP_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def sweep(self) -> float:
        """Deliver what stands in the outboxes of its families; gives the seconds until it should look again."""
        if not self._spread:
            return await self._sweep(self._families)
        places = by_place(self._redis, self._families, lambda family: FamilyKeys.of(family).key("outbox"))
        pause = SWEEP_SECONDS
        for each in await asyncio.gather(*map(self._sweep, places.values()), return_exceptions=True):
            if isinstance(each, BaseException):
                raise each
            pause = min(pause, each)
        return pause

    async def _sweep(self, families: Sequence[str]) -> float:
        """Sweep families of one server; of several one that is away, or hangs, holds up its own families only."""
        try:
            found = await self._written(families)
        except LOST as error:
            if not self._spread:
                raise
            logger.debug("outboxes of %s: %s", ", ".join(families), error)
            return SWEEP_SECONDS
        async with self._delivering:
            return await self.deliver(found)

    async def _written(self, families: Sequence[str]) -> list[str]:
        """Give those of one server's families in whose outboxes something stands."""
        outboxes = [FamilyKeys.of(family).key("outbox") for family in families]
        if not outboxes or not await self._redis.exists(*outboxes):
            return []
        async with self._redis.pipeline(transaction=False) as pipe:
            for outbox in outboxes:
                pipe.exists(outbox)
            found = await pipe.execute()
        return [family for family, there in zip(families, found, strict=True) if there]

    async def sweep_all(self, noted: Noted) -> None:
        """Sweep every family that ever had jobs in flows: what a leader of schedules does for others."""
        self._families = await noted.families(FAMILIES)
        await self.sweep()

    async def deliver(self, families: Iterable[str]) -> float:
        """Deliver what stands in these families' outboxes, and what that brings about in others'.

        Returns:
            Seconds until another courier that has one of them is done or dead; else until the next sweep.
        """
        waiting, pause = list(families), SWEEP_SECONDS
        while waiting:
            broker, after = self._broker(waiting.pop()), b""
            try:
                while True:
                    busy_ms, entries = await broker.read_outbox(self._session, LEASE_MS, after)
                    if busy_ms:
                        pause = min(pause, busy_ms / 1000)
                    if not entries:
                        break
                    waiting += await self._hand_over(broker, entries)
                    after = entries[-1].id
            except LOST as error:
                if not self._spread:
                    raise
                logger.debug("outbox of %s: %s", broker.keys.family, error)
        return pause

    def _broker(self, family: str) -> FlowBroker:
        if family not in self._brokers:
            self._brokers[family] = FlowBroker(self._redis, FamilyKeys.of(family), self._now)
        return self._brokers[family]

    async def _hand_over(self, broker: FlowBroker, entries: list[OutboxEntry]) -> set[str]:
        """Deliver entries and acknowledge them; gives the families whose outboxes were written to."""
        told, done = await self._tell_ends([entry for entry in entries if entry.fields[0] != b"create"])
        if done:
            await broker.acknowledge(done)
        for entry in entries:
            if entry.fields[0] == b"create":
                token, families = entry.fields[1].decode(), entry.fields[3].decode().split()
                try:
                    told |= await self.make(broker.keys.family, token, families)
                    await broker.acknowledge([entry.id])
                except Exception as error:
                    if isinstance(error, LOST) and not self._spread:
                        raise
                    # A full server takes no new jobs: what else there is to tell must not wait for that.
                    logger.warning("the jobs of a flow cannot be made now, they wait: %s", error)
        return told

    # ------------------------------------------------------------------ the jobs of a flow

    async def make(self, family: str, token: str, families: Iterable[str]) -> set[str]:
        """Make the jobs of a flow whose root is in ``family``; gives the families whose outboxes were written to.

        Definitions stand in the order of their depth, and those of one depth are acknowledged before any of the next
        is delivered: a child never ends before its parent is there.

        Raises:
            ArqdError: when the clocks of two servers are an hour apart.
        """
        root, told, refused = self._broker(family), set(), 0
        while True:
            read_at, found = await root.read_definitions(token)
            if not found:
                break
            definitions = [from_json(definition) for definition in found]
            first, depth = definitions[0][:2]
            by_family: dict[str, list[FlowJob]] = {}
            count = 0
            for _, at, name, job, edges, children in definitions:
                if at != depth:
                    break
                count += 1
                job_id, level, when, ms, timeout, expires, tail = job
                made = NewJob(job_id, level, when, ms, timeout, expires, tail_of(tail))
                by_family.setdefault(name, []).append(FlowJob(made, edges, children))
            calls = [self._broker(name).make(token, read_at, jobs) for name, jobs in by_family.items()]
            replies = dict(zip(by_family, await asyncio.gather(*calls), strict=True))
            if None in replies.values():
                # It was stopped for an hour between reading and delivering.
                refused += 1
                if refused > 2:
                    raise ArqdError("the clocks of the Redis servers are more than an hour apart")
            else:
                told |= {name for name, wrote in replies.items() if wrote}
                if not await root.trim(token, first, count):
                    break
        for name in families:
            await self._broker(name).seal(token)
        return told

    # ------------------------------------------------------------------ ends of children

    async def _tell_ends(self, entries: Iterable[OutboxEntry]) -> tuple[set[str], list[bytes]]:
        """Tell parents; gives the families whose outboxes were written to, and the entries that are told."""
        by_family: dict[str, list[ChildEnd]] = {}
        told, done = set(), {}
        for entry in entries:
            try:
                for end in ends_of(entry):
                    by_family.setdefault(family_of(end.parent.decode()), []).append(end)
                done[entry.id] = True
            except Exception:
                # Whatever somebody wrote there: it must not hold up the others.
                logger.exception("entry %s of an outbox cannot be read, it stays", entry.id.decode())
        for family, ends in by_family.items():
            broker = self._broker(family)
            try:
                for portion in _portions(ends):
                    if await broker.end(portion):
                        told.add(family)
            except (*LOST, RedisError) as error:
                if isinstance(error, LOST) and not self._spread:
                    raise
                logger.error("parents in %s cannot be told now: %s", family, error)
                done.update((end.entry, False) for end in ends)
        return told, [entry for entry, all_told in done.items() if all_told]


def ends_of(entry: OutboxEntry) -> list[ChildEnd]:
    """Read what an entry says of ended children: an end for each of their parents."""
    pairs = zip(entry.fields[::2], entry.fields[1::2], strict=True)
    return [end for child, report in pairs for end in _ends(entry.id, child, report)]


def _ends(entry: bytes, child: bytes, report: bytes) -> list[ChildEnd]:
    kind, count, rest = report.split(b"\n", 2)
    *edges, raw = rest.split(b"\n", int(count))
    text, result = _result(child, kind, raw)
    return [
        ChildEnd(parent, child, token, rule, place, entry, kind, text, result)
        for parent, rule, place, token in (edge.split(b"\t") for edge in edges)
    ]


def _result(child: bytes, kind: bytes, raw: bytes) -> tuple[str, bytes]:
    """Give why a parent fails by this child, and what its parents keep of its result: ``[function, result]``."""
    why = f"{spoken_id(child.decode())} {_BECAME.get(kind, '')}"
    if kind in (b"x", b"m"):
        return why, codec.encode(["", {"type": "JobNotFound", "message": why}])
    try:
        found = codec.decode_result(raw)
    except Unreadable:
        # A stock family's own serialiser wrote it.
        found = {"f": "", "r": None}
    if kind == b"c":
        copy = codec.encode([found["f"], found["r"]])
        return "", copy if len(copy) <= COPIED_RESULT else codec.encode([found["f"]])
    told = found["r"] if isinstance(found["r"], dict) else {}
    error: dict[str, Any] = {key: str(told.get(key, ""))[:2000] for key in ("type", "message", "reason")}
    if is_sealed(told.get("message")):
        # Whole, so that a parent with the key can read it.
        error["message"] = told["message"]
    text = shown_error(error, None)["message"]
    return f"{why}: {error['type']}: {text}"[:500], codec.encode([found["f"], error])


def _portions(ends: list[ChildEnd]) -> list[list[ChildEnd]]:
    portions: list[list[ChildEnd]] = [[]]
    size = 0
    for end in ends:
        if portions[-1] and (len(portions[-1]) >= PORTION or size > PORTION_BYTES):
            portions.append([])
            size = 0
        portions[-1].append(end)
        size += len(end.result) + 100
    return portions
