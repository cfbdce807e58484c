"""What a call to a service ends with: its reply, or an error; import both from `handlers.integrations.http`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Self

import httpx

from daemon.errors import PermanentError, RetryAfter
from handlers.integrations.http_settings import WAIT_LIMIT

#: Shortest and longest wait a server can ask for, seconds. No try is counted for one: a server that says 0 for ever
#: would otherwise be called without a pause, for ever.
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 86_400.0
Scope = Literal["queue", "group", "function", "job"]
_TRY_AGAIN = frozenset({408, 425, 429})


class HttpError(Exception):
    """A call did not come to its end."""


class HttpForbidden(HttpError, PermanentError):
    """The URL is none, or leads where it must not."""


class HttpUnavailable(HttpError):
    """No connection, or it was lost, or the server was silent for too long.

    Attributes:
        sent: whether the server may have got the request, and acted.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        self.sent = sent
        super().__init__(message)


class HttpTooLarge(HttpError, PermanentError):
    """The reply is larger than the limit, as it came or decompressed."""


class HttpStatus(HttpError):
    """The server answered with a status that another try may change.

    Attributes:
        reply: what it said.
    """

    def __init__(self, reply: HttpReply, hint: str = "") -> None:
        self.reply = reply
        super().__init__(f"{reply.host} answers {reply.status}{hint}")


class HttpRefused(HttpStatus, PermanentError):
    """The server refused the call for good."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What a server answered.

    Attributes:
        host: who answered.
        status: e.g. 200.
        headers: names in any case.
        body: decompressed.
        seconds: how long the call took.
        wait_limit: ``ARQD_HTTP__WAIT_LIMIT``.
    """

    host: str
    status: int
    headers: httpx.Headers
    body: bytes = b""
    seconds: float = 0.0
    wait_limit: float = WAIT_LIMIT

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The body as text, whatever its bytes are."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Give the body's JSON; numbers with a fraction are `decimal.Decimal`.

        Raises:
            HttpError: when it is none.
        """
        try:
            return json.loads(self.body, parse_float=Decimal)
        except (ValueError, RecursionError):
            raise HttpError(f"{self.host} answers {self.status} with something that is no JSON") from None

    @property
    def fields(self) -> Mapping[str, Any]:
        """What the JSON object of its body says; nothing where it is none.

        For a reply that tells an error: a proxy before the service may have answered, and the status counts all the
        same.
        """
        try:
            return mapping(self.json())
        except HttpError:
            return {}

    @property
    def retry_after(self) -> float | None:
        """How long it said to wait, seconds, `SHORTEST_WAIT` to `LONGEST_WAIT`; None where it did not say."""
        return retry_after(self.headers.get("retry-after"))

    def told_to_wait(self, seconds: float, scope: Scope) -> RetryAfter:
        """Give what makes the job wait as the server says: it counts no try, until ``wait_limit`` is over."""
        return RetryAfter(seconds, scope, patience=self.wait_limit)

    def checked(self, scope: Scope = "queue", *, settings: str = "") -> Self:
        """Give it back if its status is 2xx.

        Args:
            scope: who waits where the server says so; see `daemon.errors.RetryAfter`.
            settings: what an operator is told to check where the server does not know us, 401 and 403.

        Raises:
            RetryAfter: 429 or 503 with a Retry-After; see `told_to_wait`.
            HttpStatus: 408, 425, 429, 5xx.
            HttpRefused: anything else, redirects included; permanent.
        """
        if self.ok:
            return self
        if self.status in (429, 503) and (wait := self.retry_after) is not None:
            raise self.told_to_wait(wait, scope)
        hint = f": check {settings}" if settings and self.status in (401, 403) else ""
        raise (HttpStatus if self.status in _TRY_AGAIN or self.status >= 500 else HttpRefused)(self, hint)


def mapping(value: Any) -> Mapping[str, Any]:
    """Give a part of a reply that should be an object; an empty one where it is none."""
    return value if isinstance(value, Mapping) else {}


def retry_after(text: str | None, now: datetime | None = None) -> float | None:
    """Read a Retry-After, seconds or a date; None for one that is missing or no good."""
    if not text:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        # A number of any length: int() refuses 5,000 digits.
        return _bounded(float(text[:12]))
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return _bounded((until - (now or datetime.now(UTC))).total_seconds())


def _bounded(seconds: float) -> float:
    return min(max(SHORTEST_WAIT, seconds), LONGEST_WAIT)
