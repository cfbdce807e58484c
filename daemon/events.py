"""What happens to a family's jobs, as it happens: its stream of events, read from any place on.

Scripts write it, one entry for all events of a call (``lua/events.lua``). It is bounded by bytes, so that who reads too
late misses the oldest.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis import exceptions

from daemon.connecting.connections import LOST, translate
from daemon.connecting.routed import by_place
from daemon.encryption import MASK, SEALED_JSON
from daemon.errors import InvalidJob, RedisError, RedisUnavailable
from daemon.job import from_ms
from daemon.keys import FamilyKeys, spoken_id

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


#: An event, and its place.
_Found = tuple[_Place, Event]


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
    """Reads the streams of some families; of several servers one that is away takes nothing from what the others tell.

    Args:
        redis: a client.
        open_blocking: opens a client of its own, given its time limit in seconds; None takes ``redis``'s connections.
        families: their names.
        since: see `Producer.events`.
        on_away: called with `away` when it has changed.

    Attributes:
        away: by name the families that could not be read just now, and why.

    Raises:
        InvalidJob: for no family or a wrong place.
    """

    def __init__(
        self,
        redis: Any,
        open_blocking: Callable[[float], Any] | None,
        families: Sequence[str],
        since: Since,
        on_away: Callable[[dict[str, RedisError]], None] | None = None,
    ) -> None:
        if not families:
            raise InvalidJob("name a family whose events are wanted")
        self.away: dict[str, RedisError] = {}
        self._on_away = on_away
        self._redis = redis
        self._open = open_blocking
        self._reads: dict[Hashable, asyncio.Task[list[_Found]]] = {}
        self._streams = {FamilyKeys.of(family).key("events").encode(): family for family in families}
        self._places = _places(families, since)
        self._behind = {family: place and _before(place) for family, place in self._places.items()}

    async def follow(self) -> AsyncGenerator[Event, None]:
        """Give every event from there on, waiting for those to come; a lost connection is opened again.

        Raises:
            RedisError: when the one server there is refuses; not when it is away.
        """
        block = BLOCK_SHARED_SECONDS if self._open is None else BLOCK_SECONDS
        client = self._redis if self._open is None else self._open(block + 2)
        places = self._by_place(client)
        try:
            while True:
                for event in await self._first_of(client, places, block * 1000):
                    yield event
        finally:
            for read in self._reads.values():
                read.cancel()
            await asyncio.gather(*self._reads.values(), return_exceptions=True)
            if client is not self._redis:
                await client.aclose()

    async def present(self) -> AsyncGenerator[Event, None]:
        """Give every event from there on that is there now; in `away` are then those of whom it is not known.

        Raises:
            RedisUnavailable, RedisRefused: when no server answers.
        """
        places = self._by_place(self._redis)
        while places:
            read = [self._told(self._redis, streams, None) for streams in places.values()]
            found = dict(zip(places, await asyncio.gather(*read), strict=True))
            if self.away.keys() == self._places.keys():
                raise next(iter(self.away.values()))
            for event in _sorted(each for some in found.values() for each in some):
                yield event
            places = {place: streams for place, streams in places.items() if found[place]}

    def _by_place(self, client: Any) -> dict[Hashable, list[bytes]]:
        """A command reads streams of one server, in a cluster of one slot."""
        return by_place(client, self._streams, bytes.decode)

    async def _first_of(self, client: Any, places: Mapping[Hashable, list[bytes]], block: int) -> list[Event]:
        """Read in all places at once, until anything has come; the other reads go on until the next call."""
        if len(places) == 1:
            (streams,) = places.values()
            return _sorted(await self._waited(client, streams, block, alone=True))
        for place, streams in places.items():
            if place not in self._reads:
                self._reads[place] = asyncio.create_task(self._waited(client, streams, block))
        await asyncio.wait(self._reads.values(), return_when=asyncio.FIRST_COMPLETED)
        done = [self._reads.pop(place) for place, read in [*self._reads.items()] if read.done()]
        return _sorted(each for read in done for each in read.result())

    async def _waited(self, client: Any, streams: Sequence[bytes], block: int, *, alone: bool = False) -> list[_Found]:
        """Wait for what comes in one place; from a server that is away nothing comes."""
        found = await self._told(client, streams, block)
        error = self.away.get(self._streams[streams[0]])
        if alone and error is not None and not isinstance(error, RedisUnavailable):
            raise error
        if error is not None:
            await asyncio.sleep(AGAIN_SECONDS)
        return found

    async def _told(self, client: Any, streams: Sequence[bytes], block: int | None) -> list[_Found]:
        """Read in one place, and note whether it can be read."""
        found, now = list[_Found](), dict[str, RedisError]()
        families = [self._streams[stream] for stream in streams]
        try:
            found = await self._read_some(client, streams, block)
        except (*LOST, exceptions.RedisError) as error:
            now = dict.fromkeys(families, translate(error))
        before = self.away
        self.away = {name: error for name, error in before.items() if name not in families} | now
        if self.away.keys() != before.keys() and self._on_away is not None:
            self._on_away(self.away)
        return found

    async def _read_some(self, client: Any, streams: Sequence[bytes], block: int | None) -> list[_Found]:
        """One read: what has come in streams of one place; with ``block`` as soon as anything has come."""
        for stream in streams:
            if self._behind[self._streams[stream]] is None:
                newest = await client.xrevrange(stream, count=1)
                self._behind[self._streams[stream]] = newest[0][0] if newest else "0-0"
        behind = {stream: self._behind[self._streams[stream]] for stream in streams}
        found: list[_Found] = []
        for stream, entries in await client.xread(behind, count=_COUNT, block=block) or ():
            family = self._streams[stream]
            for entry_id, fields in entries:
                found += self._new(family, entry_id, fields[b"e"])
                self._behind[family] = entry_id
        return found

    def _new(self, family: str, entry_id: bytes, text: bytes) -> Iterator[_Found]:
        ms, _, written = entry_id.partition(b"-")
        entry, last = (int(ms), int(written)), self._places[family]
        for number, parts in enumerate(told(text)):
            place = (*entry, number)
            # The entry to begin in may have been told in part.
            if last is None or place > last:
                yield place, _event(family, place, *parts)


def _sorted(found: Iterable[_Found]) -> list[Event]:
    """Put what several streams told into the order of time."""
    return [event for _, event in sorted(found, key=lambda pair: pair[0][0])]


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
