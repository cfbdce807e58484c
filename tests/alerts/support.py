"""A watch over real queues with a clock that the test turns, and a receiver in the place of a channel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from daemon.alerts.book import Book
from daemon.alerts.settings import AlertSettings
from daemon.alerts.watch import Watch
from daemon.inspector import Inspector
from tests.handlers.receiver import Receiver

START = 1_900_000_000.0


async def at_once(seconds: float) -> None:
    """Wait no time."""


@dataclass
class Guard:
    """A watch; `look` turns its clock on and checks, and gives what the receiver was told since."""

    inspector: Inspector
    receiver: Receiver
    settings: AlertSettings
    now: float = START
    sleep: Callable[[float], Awaitable[None]] = at_once

    def __post_init__(self) -> None:
        self.watch = self.successor()

    def successor(self) -> Watch:
        """Give a watch as another process would have it."""
        return Watch(self.inspector, self.settings, clock=lambda: self.now, sleep=self.sleep)

    @property
    def book(self) -> Book:
        return Book(self.inspector.redis)

    async def look(self, later: float = 300, watch: Watch | None = None) -> list[str]:
        self.now += later
        before = len(self.receiver.taken)
        await (watch or self.watch).check()
        return [told(request.json()) for request in self.receiver.taken[before:]]


def told(event: dict[str, Any]) -> str:
    """Shorten an event in Datadog's form: alert, subject and how it goes on."""
    _, alert, subject = event["title"].replace(":", "").split(" ", 2)
    return f"{alert} {subject} {event['text'].partition(':')[0]}"


@asynccontextmanager
async def guarding(url: str, *families: str, **settings: Any) -> AsyncIterator[Guard]:
    """Watch some families; whatever is found is told to the receiver."""
    async with Receiver() as receiver, Inspector.connect(url, families) as inspector:
        channels = {"ops": f"datadog://key@127.0.0.1:{receiver.port}?tls=no"}
        yield Guard(inspector, receiver, AlertSettings(**{"channels": channels, **settings}))
