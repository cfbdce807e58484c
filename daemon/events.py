"""What happens to a family's jobs, as it happens: its stream of events, read from any place on.

Scripts write it, one entry for all events of a call (``lua/events.lua``). It is bounded by bytes, so that who reads too
late misses the oldest.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis import exceptions

from daemon.connections import LOST, translate, translated
from daemon.encryption import MASK, SEALED_JSON
from daemon.errors import InvalidJob, RedisUnavailable
from daemon.job import from_ms
from daemon.keys import FamilyKeys, spoken_id
from daemon.routed import place_of

#: What can happen; docs/events.md tells when.
KINDS = (
    "enqueued", "replaced", "started", "progress", "completed", "retrying", "failed", "aborted", "expired", "released",
    "parked", "crashed", "unblocked", "promoted", "reprioritized", "redriven", "removed", "paused", "resumed",
)  # fmt: skip

#: How long one read waits; shorter on a client that may time out before.
BLOCK_SECONDS, BLOCK_SHARED_SECONDS = 5, 1
#: Pause between two tries while Redis is away.
AGAIN_SECONDS = 0.2
_COUNT = 100

Since = str | datetime | Mapping[str, str]
_Place = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        position: its place in its family's stream: give it as ``since`` to go on behind it.
        at: when, by Redis's clock.
        family: name of the family.
        kind: one of `KINDS`.
        id: the job's id, ``email:<id>``; "" where the queue is meant.
        function: the job's function, "" where it is not told.
        job_try: which try, 1 for the first; None where there was none.
        duration: how long the try ran, seconds; None where nothing ran.
        detail: more about it, for people.
    """

    position: str
    at: datetime
    family: str
    kind: str
    id: str
    function: str = ""
    job_try: int | None = None
    duration: float | None = None
    detail: str = ""


def _event(family: str, place: _Place, kind: str, detail: str, job_id: str) -> Event:
    function, job_try, ms, note = (*detail.split("\t", 3), "", "", "")[:4]
    # A handler's note of an encrypted family.
    shown, sealed, _ = note.partition(SEALED_JSON.decode())
    note = shown + MASK if sealed else note
    return Event(
        _written(place),
        from_ms(place[0]),
        family,
        kind,
        spoken_id(job_id),
        function,
        int(job_try) if job_try.isdecimal() else None,
        int(ms) / 1000 if ms.isdecimal() else None,
        note,
    )


def _written(place: _Place) -> str:
    return f"{place[0]}-{place[1]}.{place[2]}"


def parsed_position(text: str) -> _Place:
    """Read an event's position; positions of one family compare as their events came.

    Raises:
        InvalidJob: for anything else.
    """
    entry, _, number = text.partition(".")
    ms, _, written = entry.partition("-")
    if not (ms.isdecimal() and written.isdecimal() and number.isdecimal()):
        raise InvalidJob(f"{text!r} is no place in a stream of events: give now, start, a time or an event's position")
    return int(ms), int(written), int(number)


def _before(place: _Place) -> str:
    """The id before an entry's, since a stream is read from behind an id on."""
    ms, written, _ = place
    if written:
        return f"{ms}-{written - 1}"
    return f"{ms - 1}-{2**64 - 1}" if ms else "0-0"


def _places(families: Sequence[str], since: Since) -> dict[str, _Place | None]:
    """Where to begin in each family; None for what comes from now on."""
    if isinstance(since, Mapping):
        return {family: parsed_position(since[family]) if family in since else None for family in families}
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise InvalidJob(f"since {since!r} has no time zone: pass an aware datetime, e.g. datetime.now(UTC)")
        return dict.fromkeys(families, (max(0, round(since.timestamp() * 1000)), 0, -1))
    if since == "now":
        return dict.fromkeys(families)
    if since == "start":
        return dict.fromkeys(families, (0, 0, -1))
    if len(families) > 1:
        raise InvalidJob("a position is of one family: for several give a mapping of family to position")
    return {families[0]: parsed_position(since)}


class EventReader:
    """Reads the streams of some families.

    Args:
        redis: a client.
        open_blocking: opens a client of its own, given its time limit in seconds; None takes ``redis``'s connections.
        families: their names.
        since: see `Producer.events`.

    Raises:
        InvalidJob: for no family or a wrong place.
    """

    def __init__(
        self, redis: Any, open_blocking: Callable[[float], Any] | None, families: Sequence[str], since: Since
    ) -> None:
        if not families:
            raise InvalidJob("name a family whose events are wanted")
        self._redis = redis
        self._open = open_blocking
        self._reads: dict[Hashable, asyncio.Task[list[tuple[_Place, Event]]]] = {}
        self._streams = {FamilyKeys.of(family).key("events").encode(): family for family in families}
        self._places = _places(families, since)
        self._behind = {family: place and _before(place) for family, place in self._places.items()}

    async def follow(self) -> AsyncGenerator[Event, None]:
        """Give every event from there on, waiting for those to come; a lost connection is opened again.

        Raises:
            RedisError: when Redis refuses; not when it is away.
        """
        block = BLOCK_SHARED_SECONDS if self._open is None else BLOCK_SECONDS
        client = self._redis if self._open is None else self._open(block + 2)
        try:
            while True:
                try:
                    events = await self._read(client, block * 1000)
                except (*LOST, exceptions.RedisError) as error:
                    told = translate(error)
                    if not isinstance(told, RedisUnavailable):
                        raise told from error
                    await asyncio.sleep(AGAIN_SECONDS)
                    continue
                for event in events:
                    yield event
        finally:
            for read in self._reads.values():
                read.cancel()
            await asyncio.gather(*self._reads.values(), return_exceptions=True)
            if client is not self._redis:
                await client.aclose()

    async def present(self) -> AsyncGenerator[Event, None]:
        """Give every event from there on that is there now.

        Raises:
            RedisUnavailable, RedisRefused: when Redis does not answer.
        """
        while True:
            with translated():
                events = await self._read(self._redis, None)
            if not events:
                return
            for event in events:
                yield event

    async def _read(self, client: Any, block: int | None) -> list[Event]:
        """One read: what has come in all streams, in the order of time; with ``block`` as soon as anything has come."""
        for stream, family in self._streams.items():
            if self._behind[family] is None:
                newest = await client.xrevrange(stream, count=1)
                self._behind[family] = newest[0][0] if newest else "0-0"
        # A command reads streams of one server, in a cluster of one slot.
        places: dict[Hashable, list[bytes]] = {}
        for stream in self._streams:
            places.setdefault(place_of(client, stream.decode()), []).append(stream)
        if block is None or len(places) == 1:
            found = [each for streams in places.values() for each in await self._read_some(client, streams, block)]
        else:
            found = await self._first_of(client, places, block)
        found.sort(key=lambda pair: pair[0][0])
        return [event for _, event in found]

    async def _first_of(
        self, client: Any, places: Mapping[Hashable, list[bytes]], block: int
    ) -> list[tuple[_Place, Event]]:
        """Read in all places at once; reads that find nothing yet go on until the next call."""
        for place, streams in places.items():
            if place not in self._reads:
                self._reads[place] = asyncio.create_task(self._read_some(client, streams, block))
        await asyncio.wait(self._reads.values(), return_when=asyncio.FIRST_COMPLETED)
        found: list[tuple[_Place, Event]] = []
        failure: BaseException | None = None
        for place in [place for place, read in self._reads.items() if read.done()]:
            read = self._reads.pop(place)
            failure = read.exception() or failure
            found += () if read.exception() else read.result()
        if failure is not None and not found:
            raise failure
        return found

    async def _read_some(self, client: Any, streams: Sequence[bytes], block: int | None) -> list[tuple[_Place, Event]]:
        behind = {stream: self._behind[self._streams[stream]] for stream in streams}
        found: list[tuple[_Place, Event]] = []
        for stream, entries in await client.xread(behind, count=_COUNT, block=block) or ():
            family = self._streams[stream]
            for entry_id, fields in entries:
                found += self._new(family, entry_id, fields[b"e"])
                self._behind[family] = entry_id
        return found

    def _new(self, family: str, entry_id: bytes, text: bytes) -> Iterator[tuple[_Place, Event]]:
        ms, _, written = entry_id.partition(b"-")
        entry, last = (int(ms), int(written)), self._places[family]
        for number, parts in enumerate(told(text)):
            place = (*entry, number)
            # The entry to begin in may have been told in part.
            if last is None or place > last:
                yield place, _event(family, place, *parts)


def told(text: bytes) -> Iterator[tuple[str, str, str]]:
    """Give kind, detail and job id of each event of an entry, as ``lua/events.lua`` wrote them."""
    lines = iter(text.split(b"\n"))
    for first in lines:
        kind, _, run = first.partition(b"\t")
        count, _, begin = run.partition(b"\t")
        name, detail = kind.decode(), next(lines, b"").decode("utf-8", "surrogateescape")
        for rest in itertools.islice(lines, int(count or 1)):
            # Joined before it is decoded: ids may differ inside a character.
            yield name, detail, (begin + rest).decode("utf-8", "surrogateescape")


def iterate(events: AsyncGenerator[Event, None], loop: asyncio.AbstractEventLoop) -> Iterator[Event]:
    """Give events in a thread beside the loop that reads them."""
    reading: asyncio.Task[Any] | None = None

    async def following() -> Event:
        nonlocal reading
        reading = asyncio.current_task()
        return await anext(events)

    async def close() -> None:
        # Whoever stops waiting, by Ctrl-C for example, leaves a read under way.
        if reading is not None and not reading.done():
            reading.cancel()
            await asyncio.wait([reading])
        await events.aclose()

    try:
        while True:
            yield asyncio.run_coroutine_threadsafe(following(), loop).result()
    finally:
        if loop.is_running():
            asyncio.run_coroutine_threadsafe(close(), loop).result()
