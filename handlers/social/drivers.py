"""Networks: a driver is one class, registered by name.

    @driver("pigeon")
    class Pigeon:
        key_life = None
        def __init__(self, http: HttpClient, account: AccountSettings) -> None: …
        async def upload(self, data: bytes, kind: str, alt: str) -> Any: …
        async def publish(self, post: Post) -> Published: …
        async def find(self, post: Post) -> Published | None: …
        def mentions(self, query: str | None, cursor: str | None, since: datetime | None) -> AsyncIterator[Page]: …

``ARQD_SOCIAL__DRIVERS`` names the modules that have drivers of one's own.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from daemon.errors import ConfigurationError
from handlers.integrations.http import HttpClient, HttpReply
from handlers.social.settings import AccountSettings

#: Longest wait a network can ask for here, seconds.
LONGEST_WAIT = 86_400.0


@dataclass(frozen=True, slots=True)
class Post:
    """What is published.

    Attributes:
        key: the same in every try; what a network recognises a repeat by.
        opened_at: when it was first written down; a record's time.
        uploads: what `Driver.upload` gave.
    """

    key: str
    text: str
    language: str | None
    opened_at: datetime
    uploads: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Published:
    """Where a post stands."""

    id: str
    url: str | None


@dataclass(frozen=True, slots=True)
class Mention:
    """A post that mentions somebody; ``text`` is plain."""

    id: str
    author: str
    text: str
    url: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """Mentions, and where to go on behind them; ``cursor`` is None where it is too early to say."""

    mentions: Sequence[Mention]
    cursor: str | None


class Driver(Protocol):
    """One account on a network. Errors of its calls are those of `handlers.integrations.http`.

    Attributes:
        key_life: for how long the network recognises a repeated `Post.key`, seconds; None: for ever.
    """

    key_life: float | None

    async def upload(self, data: bytes, kind: str, alt: str) -> Any:
        """Upload a file, and give what stands for it in a post, plain JSON data."""

    async def publish(self, post: Post) -> Published:
        """Publish a post; again with the same key it is the same one."""

    async def find(self, post: Post) -> Published | None:
        """Look for a post whose key is not recognised any more."""

    def mentions(self, query: str | None, cursor: str | None, since: datetime | None) -> AsyncIterator[Page]:
        """Give what is new behind a cursor, page by page; what is older than ``since`` may be left out."""


MakeDriver = Callable[[HttpClient, AccountSettings], Driver]
Class = TypeVar("Class", bound=MakeDriver)
_drivers: dict[str, MakeDriver] = {}


def driver(network: str) -> Callable[[Class], Class]:
    """Register a class as the driver of a network.

    Raises:
        ConfigurationError: the network has another one.
    """

    def register(made: Class) -> Class:
        if _drivers.setdefault(network, made) is not made:
            raise ConfigurationError(f"there are two drivers of the network {network}")
        return made

    return register


def load_drivers(modules: Sequence[str]) -> dict[str, MakeDriver]:
    """Import modules with drivers, and give all there are.

    Raises:
        ConfigurationError: a module cannot be imported.
    """
    for name in ("handlers.social.mastodon", "handlers.social.bluesky", *modules):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigurationError(f"ARQD_SOCIAL__DRIVERS: {name} cannot be imported: {error}") from None
    return dict(_drivers)


def taken(reply: HttpReply) -> HttpReply:
    """Give a reply of 2xx back; after a 429 the account waits until the network says, or 60 s.

    Raises:
        RetryAfter, HttpStatus, HttpRefused: see `HttpReply.checked`.
    """
    if reply.status == 429 and reply.retry_after is None:
        raise reply.told_to_wait(_until_reset(reply), "group")
    return reply.checked("group")


def _until_reset(reply: HttpReply) -> float:
    text = reply.headers.get("x-ratelimit-reset") or reply.headers.get("ratelimit-reset") or ""
    try:
        # Mastodon writes a date, Bluesky seconds since 1970.
        until = datetime.fromtimestamp(int(text), UTC) if text.isdecimal() else datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        return 60.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return min(max(1.0, (until - datetime.now(UTC)).total_seconds()), LONGEST_WAIT)
