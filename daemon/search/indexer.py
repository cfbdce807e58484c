"""Who writes the index, and when: one process at a time, the scheduler's leader, beside the jobs' way.

An indexer follows the family's events. It indexes a job as Redis holds it when the event is read, which may be later
than the event; what happened in between has an event of its own. So whatever is read twice or too late, the index comes
to what is true. The place in the events is written together with what it led to; a write is refused when the index is
not as the indexer read it, so two of them, a restarted server or a lost connection do no harm.

Where events were lost (it was away too long for the bounded stream), the index is built again from the queue and the
indexes of ended jobs, newest first, into segments older than the first one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from daemon.broker import Broker, PageEntry
from daemon.connecting.connections import LOST
from daemon.connecting.routed import Routed, by_place
from daemon.events import told
from daemon.keys import FamilyKeys
from daemon.noted import Noted
from daemon.pages import describe
from daemon.search.postings import DOCS, Doc, Write, doc_of, set_of
from daemon.search.words import OFF

logger = logging.getLogger("arqd.search")

#: The families that are, or were, searched.
FAMILIES = "arqd:search:families"
#: How often the leader looks for events.
LOOK_SECONDS = 0.3
#: How often it looks for families that have become searched.
FAMILIES_SECONDS = 10.0
#: Events, and jobs, a write takes up; jobs described at once.
EVENTS, BATCH, CHUNK = 500, 500, 100
#: The first segment; those of a rebuild stand below it.
BASE = 2**31
#: Sets in the order a rebuild takes them up: what does not fit is left out.
SETS = ("dead", "queue", "aborted", "expired", "completed")
#: Events after which a job is another than it was, for who looks for it.
CHANGING = frozenset(("enqueued", "replaced", "redriven", "completed", "failed", "aborted", "expired", "removed"))
#: Jobs whose time is over leave without an event: they are taken out as often.
SWEEP_SECONDS = 3600.0


def indexer_of(redis: Any, family: str) -> FamilyIndexer:
    """Give what writes a family's index, by its name (of an adopted stock queue: the queue's)."""
    return FamilyIndexer(redis, FamilyKeys.of_queue(family) if ":" in family else FamilyKeys.of(family))


async def publish(redis: Any, keys: FamilyKeys, mode: str, limit: int) -> None:
    """Tell what is to be indexed of a family, and in how many bytes; `words.OFF` for nothing."""
    if mode == OFF:
        await redis.hdel(keys.key("conf"), "search")
        return
    await redis.hset(keys.key("conf"), "search", f"{mode} {limit}")
    await redis.sadd(FAMILIES, keys.family)


@dataclass(slots=True)
class Segment:
    """Part of an index: so many docs in it, bytes it takes, docs that are a job's last."""

    docs: int
    bytes: int
    live: int


@dataclass(slots=True)
class View:
    """An index as it was read; ``wanted`` is what the settings say, None for no search."""

    run_id: bytes
    meta: dict[bytes, bytes]
    segments: dict[int, Segment]
    wanted: tuple[str, int] | None
    whole: bool
    newest: bytes

    def text(self, name: str) -> str:
        """A field of ``{f}:search``."""
        return self.meta.get(name.encode(), b"").decode("utf-8", "surrogateescape")

    @property
    def docs(self) -> int:
        """Places taken in all segments."""
        return sum(segment.docs for segment in self.segments.values())

    @property
    def bytes(self) -> int:
        """Memory of all segments, estimated."""
        return sum(segment.bytes for segment in self.segments.values())

    @property
    def mode(self) -> str:
        """What is indexed."""
        return self.text("mode")


async def view(broker: Broker) -> View:
    """Read how an index stands."""
    run_id, meta, segments, live, conf, whole, newest = await broker.run("indexed")
    lives = {int(number): int(count) for number, count in zip(live[::2], live[1::2], strict=True)}
    found = {}
    for number, text in zip(segments[::2], segments[1::2], strict=True):
        docs, size, *_ = text.split()
        found[int(number)] = Segment(int(docs), int(size), lives.get(int(number), 0))
    mode, _, limit = conf.decode().partition(" ")
    wanted = (mode, int(limit)) if limit.isdecimal() else None
    return View(run_id, dict(zip(meta[::2], meta[1::2], strict=True)), found, wanted, bool(whole), newest)


class FamilyIndexer:
    """Writes the index of one family.

    Args:
        redis: an asynchronous redis-py client without response decoding.
    """

    def __init__(self, redis: Any, keys: FamilyKeys) -> None:
        self._redis, self._keys = redis, keys
        self.broker = Broker(redis, keys)
        self._swept = time.monotonic()

    async def step(self) -> bool:
        """Bring the index a step further; False when there is nothing to do."""
        seen = await view(self.broker)
        if seen.wanted is None:
            if seen.meta:
                await self.broker.run("reindex", "")
            return False
        if seen.mode != seen.wanted[0] or not seen.whole:
            if seen.mode:
                logger.warning(
                    "%s: the search index is built anew: settings have changed, or events were lost", self._keys.family
                )
            await self.broker.run("reindex", seen.wanted[0])
            return True
        acted = False
        for act in (self._follow, self._rebuild, self._tidy):
            if await act(seen):
                acted = True
                seen = await view(self.broker)
                if seen.wanted is None or not seen.mode:
                    break
        return acted

    async def begin_anew(self) -> View:
        """Empty the index, to be built again by the next steps; where nothing is to be indexed, for good."""
        wanted = (await view(self.broker)).wanted
        await self.broker.run("reindex", wanted[0] if wanted else "")
        return await view(self.broker)

    async def _write(self, seen: View, write: Write) -> bool:
        """Write, if all is as it was read; further writes of this view count on this one."""
        version = int(seen.text("version"))
        done = await self.broker.run("index", seen.run_id, version, *write.arguments())
        seen.meta[b"version"] = b"%d" % (version + 1)
        return bool(done)

    # ------------------------------------------------------------------ events

    async def _follow(self, seen: View) -> bool:
        """Take up the next events."""
        if seen.newest in (b"", seen.meta[b"at"]):
            return False
        events = self._keys.key("events")
        entries = await self._redis.xrange(events, b"(" + seen.meta[b"at"], "+", count=EVENTS)
        if not entries:
            return False
        ids: dict[str, None] = {}
        for entry_id, fields in entries:
            position = entry_id
            for job_id in _changed(fields[b"e"]):
                # The last event of a job says where it stands among the others.
                ids.pop(job_id, None)
                ids[job_id] = None
            if len(ids) >= BATCH:
                break
        docs, gone = await self._docs(ids, seen.mode)
        number = max((BASE, *seen.segments))
        while True:
            first = seen.segments[number].docs if number in seen.segments else 0
            part, docs = docs[: DOCS - first], docs[DOCS - first :]
            write = Write(number, first, part, gone, b"" if docs else position)
            if not await self._write(seen, write) or not docs:
                return True
            number, gone = number + 1, []

    async def _docs(self, ids: Iterable[str], mode: str) -> tuple[list[Doc], list[str]]:
        """What of jobs goes into the index, and those that are gone."""
        docs, gone = [], []
        left = [job_id for job_id in ids if "\n" not in job_id]
        for start in range(0, len(left), CHUNK):
            part = left[start : start + CHUNK]
            infos = await describe(self._redis, self._keys, part)
            ended = await self._ended(part, [set_of(info.state) if info else "dead" for info in infos])
            for job_id, info, at in zip(part, infos, ended, strict=True):
                if info is None:
                    gone.append(job_id)
                else:
                    docs.append(doc_of(job_id, info, mode, at))
            # Handlers run in this loop.
            await asyncio.sleep(0)
        return docs, gone

    async def _ended(self, ids: Sequence[str], sets: Sequence[str]) -> list[int]:
        """When jobs ended, by their indexes, in ms; 0 for the others."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for job_id, name in zip(ids, sets, strict=True):
                pipe.zscore(self._keys.key(name), job_id.encode("utf-8", "surrogateescape"))
            return [int(score or 0) for score in await pipe.execute()]

    # ------------------------------------------------------------------ rebuild

    async def _rebuild(self, seen: View) -> bool:
        """Take up the next older jobs of a set, as many as a segment has."""
        name, _, last = seen.text("rebuild").partition(" ")
        assert seen.wanted is not None
        if not name:
            return False
        number = min((BASE, *seen.segments)) - 1
        if seen.bytes > 0.9 * seen.wanted[1]:
            return await self._rebuilt(seen)
        score, _, job_id = last.partition(" ")
        after = PageEntry(job_id.encode("utf-8", "surrogateescape"), score.encode()) if score else None
        page = await self.broker.page(name, "-inf", "+inf", down=True, after=after, count=DOCS)
        if not page:
            following = SETS[SETS.index(name) + 1 :]
            if not following:
                return await self._rebuilt(seen)
            return await self._write(seen, Write(number, fields={"rebuild": following[0]})) or True
        docs, _ = await self._docs([entry.id.decode("utf-8", "surrogateescape") for entry in reversed(page)], seen.mode)
        fields: dict[str, str | bytes] = {"rebuild": b" ".join((name.encode(), page[-1].score, page[-1].id))}
        await self._write(seen, Write(number, docs=docs, keep=True, fields=fields))
        return True

    async def _rebuilt(self, seen: View) -> bool:
        await self._write(seen, Write(BASE, fields={"rebuild": "", "kept": str(seen.docs)}))
        logger.info("%s: the search index is built", self._keys.family)
        return True

    # ------------------------------------------------------------------ tidying

    async def _tidy(self, seen: View) -> bool:
        """Take a step of a sweep, or begin one, or drop the oldest segment of an index that is too large."""
        if seen.text("rebuild") or not seen.segments:
            return False
        assert seen.wanted is not None
        limit, kept = seen.wanted[1], int(seen.text("kept") or 0)
        worthwhile = seen.docs > 1.25 * kept + DOCS
        sweep = seen.text("sweep")
        if seen.bytes > limit * (1.2 if sweep or worthwhile else 1) and len(seen.segments) > 1:
            await self.broker.run("sweep", min(seen.segments), "evict")
            return True
        if sweep:
            return await self._sweep(seen, int(sweep))
        crowded = seen.docs > 2 * kept + 4 * DOCS or (worthwhile and seen.bytes > 0.9 * limit)
        if crowded or time.monotonic() - self._swept > SWEEP_SECONDS:
            self._swept = time.monotonic()
            return await self._write(seen, Write(BASE, fields={"sweep": "0"})) or True
        return False

    async def _sweep(self, seen: View, last: int) -> bool:
        """Take out of the next segment what is not true any more; what is left joins the segment before it."""
        numbers = sorted(seen.segments)
        number = next((number for number in numbers if number > last), None)
        if number is None:
            await self._write(seen, Write(BASE, fields={"sweep": "", "kept": str(seen.docs)}))
            return True
        fields: dict[str, str | bytes] = {"sweep": str(number)}
        found = await self.broker.run("sweep", number, "look")
        ids = [job_id.decode("utf-8", "surrogateescape") for job_id in found[1::2]]
        # The newest is still written.
        if len(ids) > 0.6 * DOCS or number == numbers[-1]:
            return await self._write(seen, Write(number, seen.segments[number].docs, fields=fields)) or True
        docs, gone = await self._docs(ids, seen.mode)
        at = numbers.index(number)
        target = numbers[at - 1] if at else number
        first = 0 if target == number else seen.segments[target].docs
        if first + len(docs) > DOCS:
            target, first = number, 0
        await self._write(seen, Write(target, first, docs, gone, drop=number, fields=fields))
        return True


class Indexer:
    """Writes the indexes of all families that are searched.

    Args:
        redis: an asynchronous redis-py client without response decoding.
        noted: tells the families.
    """

    def __init__(self, redis: Any, noted: Noted | None = None) -> None:
        self._redis = redis
        self._noted = noted or Noted(redis, FAMILIES, seconds=FAMILIES_SECONDS)
        self._families: dict[str, FamilyIndexer] = {}
        self._failing = False

    async def catch_up(self) -> None:
        """Bring all indexes up to date; what Redis refuses is tried again the next time."""
        try:
            for name in await self._noted.families(FAMILIES):
                self._families.setdefault(name, indexer_of(self._redis, name))
            places = by_place(self._redis, self._families.values(), lambda indexer: indexer.broker.keys.queue)
            for failure in await asyncio.gather(*map(self._catch_up, places.values()), return_exceptions=True):
                if failure is not None:
                    raise failure
            self._failing = False
        except (*LOST, RedisError) as error:
            if not self._failing:
                logger.warning("search indexes are late, trying again: %s", error)
            self._failing = True

    async def _catch_up(self, behind: Sequence[FamilyIndexer]) -> None:
        """Bring the indexes of one server up to date; of several one that is away holds up its own families only."""
        late: Exception | None = None
        while behind:
            again = []
            for indexer in behind:
                try:
                    if await indexer.step():
                        again.append(indexer)
                except (*LOST, RedisError) as error:
                    if not isinstance(self._redis, Routed) or isinstance(error, LOST):
                        # If it hangs, each of the others takes as long to show it.
                        raise
                    late = late or error
            behind = again
        if late is not None:
            raise late


def _changed(text: bytes) -> list[str]:
    """The jobs an entry of the events tells a change of, in order."""
    return [job_id for kind, _, job_id in told(text) if kind in CHANGING]
