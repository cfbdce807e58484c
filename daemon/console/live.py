"""What happens, told to many at once: one reader of the families' events in a process, however many streams are open.

A stream that is too slow is closed; its client comes again with the last event's id and is told the rest from what
Redis keeps. Such an id holds a position for each family that had an event, and for the others when the stream began.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from daemon.connections import translated
from daemon.errors import ArqdError, InvalidJob
from daemon.events import Event, EventReader, parsed_position
from daemon.pages import server_ms
from daemon.producer import Producer

#: Events, each with the id behind it, and None now and then.
Told = AsyncGenerator[tuple[Event, str] | None, None]

logger = logging.getLogger("arqd.console")

#: Events that may wait for a slow client.
BACKLOG = 1000
#: A reader that was refused begins again after so long, seconds.
AGAIN_SECONDS = 2.0
#: How often a stream in which nothing happens says that it is there, seconds.
IDLE_SECONDS = 15.0
_LONGEST_ID = 4000


@dataclass(slots=True)
class Place:
    """How far a stream is: positions by family, and when it began, the server's time in ms, for the others."""

    began: int
    positions: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return ";".join([str(self.began), *(f"{family}={at}" for family, at in self.positions.items())])

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read an id.

        Raises:
            InvalidJob: for anything else.
        """
        began, *pairs = text[:_LONGEST_ID].split(";")
        positions = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if not (began.isdecimal() and len(began) < 16 and len(positions) == len(pairs)):
            raise InvalidJob(f"Last-Event-ID {text[:40]!r} is none of ours: leave it out to begin now")
        return cls(int(began), positions)


class Stream:
    """Events for one client, those of some families.

    Attributes:
        place: how far it is, what it has given included.
    """

    def __init__(self, families: Sequence[str], place: Place) -> None:
        self.place = place
        self.closed = False
        self._families = frozenset(families)
        self._waiting: asyncio.Queue[Event | None] = asyncio.Queue(BACKLOG)

    def offer(self, event: Event) -> None:
        """Take an event; one that is too many closes the stream, whose client comes again for it."""
        if event.family in self._families:
            try:
                self._waiting.put_nowait(event)
            except asyncio.QueueFull:
                self.close()

    def close(self) -> None:
        """Let it end after the event it gives now."""
        self.closed = True
        with contextlib.suppress(asyncio.QueueFull):
            self._waiting.put_nowait(None)

    async def take(self, seconds: float) -> Event | None:
        """Give the next event; None when none came in time, or it is closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.closed:
                    event = await self._waiting.get()
                    if event is not None and self.passes(event):
                        return event
        return None

    def passes(self, event: Event) -> bool:
        """Note an event; False when it was told before."""
        known = self.place.positions.get(event.family)
        if known is not None and parsed_position(event.position) <= parsed_position(known):
            return False
        self.place.positions[event.family] = event.position
        return True


class Live:
    """Reads the events of all families once, while somebody wants them.

    Args:
        families: their names.
    """

    def __init__(self, producer: Producer, families: Sequence[str]) -> None:
        # A queue of stock arq's own has no events.
        self.families = [name for name in families if ":" not in name]
        self._producer = producer
        self._streams: set[Stream] = set()
        self._reading: asyncio.Task[None] | None = None
        self._closed = False

    @contextlib.asynccontextmanager
    async def stream(self, families: Sequence[str], since: Place | None = None) -> AsyncIterator[Told]:
        """Give what happens to some families from now on, or behind a place, until the block ends.

        It gives events with the place behind each, and None every `IDLE_SECONDS` in which nothing happens.

        Raises:
            InvalidJob: for a place that is none. RedisUnavailable, RedisRefused: when Redis does not answer.
        """
        with translated():
            now = await server_ms(self._producer.redis)
        own = Stream(families, since or Place(now))
        history = None if since is None else self._behind(families, since)
        self._streams.add(own)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(Place(now)), name="console events")
        try:
            yield self._events(own, history)
        finally:
            self._streams.discard(own)
            if not self._streams:
                await self._stop()

    def close(self) -> None:
        """End all streams, and those that begin from now on."""
        self._closed = True
        for stream in self._streams:
            stream.close()

    async def _events(self, own: Stream, history: EventReader | None) -> Told:
        # Its own queue fills meanwhile, so nothing is missing between the two.
        if history is not None:
            async for event in history.present():
                if own.passes(event):
                    yield event, str(own.place)
        while not (own.closed or self._closed):
            found = await own.take(IDLE_SECONDS)
            yield None if found is None else (found, str(own.place))

    def _behind(self, families: Sequence[str], place: Place, open_blocking: Any = None) -> EventReader:
        before = f"{max(0, place.began - 1)}-0.0"
        positions = {family: place.positions.get(family, before) for family in families}
        return EventReader(self._producer.redis, open_blocking, families, positions)

    # ------------------------------------------------------------------ the one reader

    async def _stop(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, place: Place) -> None:
        while True:
            try:
                async for event in self._behind(self.families, place, self._producer.open_blocking).follow():
                    place.positions[event.family] = event.position
                    for stream in self._streams:
                        stream.offer(event)
            except ArqdError as error:
                logger.warning("events cannot be read, trying again: %s", error)
                await asyncio.sleep(AGAIN_SECONDS)
