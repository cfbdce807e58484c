"""What happens, told to many at once: one reader of the families' events in a process, however many streams are open.

A stream that is too slow is closed; its client comes again with the last event's id and is told the rest from what
Redis keeps. Such an id holds a position for each family that had an event, and for the others when the stream began.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from daemon.connecting.connections import translated
from daemon.errors import ArqdError, InvalidJob, RedisError
from daemon.events import Event, EventReader, parsed_position
from daemon.inspector import Inspector
from daemon.pages import server_ms
from daemon.producer import Producer

#: Events, each with the id behind it, snapshots, what is away, and None now and then.
Told = AsyncGenerator["tuple[Event, str] | Snapshot | Away | None", None]

logger = logging.getLogger("arqd.console")

#: Events that may wait for a slow client.
BACKLOG = 1000
#: A reader that was refused begins again after so long, seconds.
AGAIN_SECONDS = 2.0
#: How often the queues are looked at for streams that want them, seconds.
SNAPSHOT_SECONDS = 2.0
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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How the queues are now, as JSON."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Away:
    """The families whose events cannot be read now, since their server is away, and why; none: all can be again."""

    families: dict[str, RedisError]


class Stream:
    """Events for one client, those of some families, and snapshots of the queues if it wants them.

    Attributes:
        place: how far it is, what it has given included.
        untold: families of whom what happened before has still to be told; what happens now is told with it.
    """

    def __init__(self, families: Sequence[str], place: Place, counts: bool, untold: Sequence[str] = ()) -> None:
        self.place = place
        self.untold = set(untold)
        self.counts = counts
        self.closed = False
        self._families = frozenset(families)
        self._away: set[str] = set()
        self._waiting: asyncio.Queue[Event | Snapshot | Away | None] = asyncio.Queue(BACKLOG)

    def offer(self, what: Event | Snapshot | Away) -> None:
        """Take what is meant for it; one that is too many closes the stream, whose client comes again for it."""
        if isinstance(what, Away):
            what = Away({family: error for family, error in what.families.items() if family in self._families})
            wanted, self._away = what.families.keys() != self._away, set(what.families)
        else:
            wanted = self.counts if isinstance(what, Snapshot) else what.family in self._families
        if wanted:
            try:
                self._waiting.put_nowait(what)
            except asyncio.QueueFull:
                self.close()

    def close(self) -> None:
        """Let it end after the event it gives now."""
        self.closed = True
        with contextlib.suppress(asyncio.QueueFull):
            self._waiting.put_nowait(None)

    async def take(self, seconds: float) -> Event | Snapshot | Away | None:
        """Give what comes next; None when nothing came in time, or it is closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.closed:
                    found = await self._waiting.get()
                    if isinstance(found, Event) and (found.family in self.untold or not self.passes(found)):
                        continue
                    if found is not None:
                        return found
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
        inspector: of these families.

    Attributes:
        snapshot: gives how the queues are; asked once for all streams that want it, every `SNAPSHOT_SECONDS`.
    """

    snapshot: Callable[[], Awaitable[Any]]

    def __init__(self, producer: Producer, inspector: Inspector) -> None:
        # A queue of stock arq's own has no events.
        self.families = [name for name in inspector.families if ":" not in name]
        self._producer, self._inspector = producer, inspector
        self._streams: set[Stream] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._last: Snapshot | None = None
        self._away: dict[str, RedisError] = {}
        self._closed = False

    @contextlib.asynccontextmanager
    async def stream(
        self, families: Sequence[str], since: Place | None = None, *, counts: bool = False
    ) -> AsyncIterator[Told]:
        """Give what happens to some families from now on, or behind a place, until the block ends.

        It gives events with the place behind each, and None every `IDLE_SECONDS` in which nothing happens. Of several
        servers one may be away: `Away` tells so, and when it is back, what happened in its families since the place.

        Args:
            counts: also a `Snapshot` of the queues at the beginning and when they have changed.

        Raises:
            InvalidJob: for a place that is none. RedisUnavailable, RedisRefused: when Redis does not answer.
        """
        # Whose server is away is told of when it is back.
        now = min((await self._inspector.only(families).ask(_time)).some())
        own = Stream(families, since or Place(now), counts, () if since is None else families)
        self._streams.add(own)
        own.offer(Away(self._away))
        if counts and self._last is not None:
            own.offer(self._last)
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._read(Place(now))), asyncio.create_task(self._count())]
        try:
            yield self._events(own)
        finally:
            self._streams.discard(own)
            if not self._streams:
                await self._stop()

    def close(self) -> None:
        """End all streams, and those that begin from now on."""
        self._closed = True
        for stream in self._streams:
            stream.close()

    async def _events(self, own: Stream) -> Told:
        looked = float("-inf")
        while not (own.closed or self._closed):
            if own.untold - self._away.keys() and time.monotonic() - looked > AGAIN_SECONDS:
                async for event in self._past(own):
                    yield event, str(own.place)
                looked = time.monotonic()
            found = await own.take(AGAIN_SECONDS if own.untold else IDLE_SECONDS)
            yield (found, str(own.place)) if isinstance(found, Event) else found

    async def _past(self, own: Stream) -> AsyncGenerator[Event, None]:
        """Give what happened before; whose server is away stays untold. Meanwhile the stream's own queue fills."""
        asked = sorted(own.untold - self._away.keys())
        history = self._behind(asked, own.place)
        try:
            async for event in history.present():
                if own.passes(event):
                    yield event
        except RedisError as error:
            logger.warning("what happened in %s cannot be read, trying again: %s", ", ".join(asked), error)
        own.untold.difference_update(set(asked) - history.away.keys())

    def _behind(
        self, families: Sequence[str], place: Place, open_blocking: Any = None, on_away: Any = None
    ) -> EventReader:
        before = f"{max(0, place.began - 1)}-0.0"
        positions = {family: place.positions.get(family, before) for family in families}
        return EventReader(self._producer.redis, open_blocking, families, positions, on_away)

    # ------------------------------------------------------------------ the one reader

    async def _stop(self) -> None:
        tasks, self._tasks, self._last, self._away = self._tasks, [], None, {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _count(self) -> None:
        while True:
            if any(stream.counts for stream in self._streams):
                try:
                    found = Snapshot(to_json(await self.snapshot()))
                except ArqdError as error:
                    logger.warning("the queues cannot be counted, trying again: %s", error)
                else:
                    if found != self._last:
                        self._last = found
                        for stream in self._streams:
                            stream.offer(found)
            await asyncio.sleep(SNAPSHOT_SECONDS)

    async def _read(self, place: Place) -> None:
        while True:
            try:
                reader = self._behind(self.families, place, self._producer.open_blocking, self._note_away)
                reader.away = self._away  # so that it tells when they are back
                async for event in reader.follow():
                    place.positions[event.family] = event.position
                    for stream in self._streams:
                        stream.offer(event)
            except ArqdError as error:
                logger.warning("events cannot be read, trying again: %s", error)
                await asyncio.sleep(AGAIN_SECONDS)

    def _note_away(self, families: dict[str, RedisError]) -> None:
        self._away = families
        for stream in self._streams:
            stream.offer(Away(families))


async def _time(part: Inspector) -> int:
    """Give the time of a server, ms."""
    with translated():
        return await server_ms(part.redis, next(iter(part.families.values())))
