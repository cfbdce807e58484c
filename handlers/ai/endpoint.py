"""An endpoint like OpenAI's: a conversation goes there, and the reply comes as server-sent events, piece by piece."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from daemon.errors import PermanentError
from handlers.ai.budget import Tokens
from handlers.ai.settings import AiSettings
from handlers.integrations.http import HttpClient, HttpError, HttpReply, HttpStream

#: Largest stream of a reply, bytes; a token takes some 300.
LONGEST = 200_000_000
#: Largest event of one, bytes: it is held in the memory until it is whole.
LONGEST_EVENT = 1_000_000
#: What a 429 says that no waiting helps against.
_EXHAUSTED = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance"}
)
#: Bytes in a token, where nobody counts: fewer than usual, so that the estimate is high. A letter of many languages has
#: two bytes or three, and may be a token of its own.
PER_TOKEN = 3


class BalanceExhausted(PermanentError):
    """The account has no balance left: top it up, then retry the dead letters."""


class Refused(PermanentError):
    """The endpoint refuses the request for good."""


class StreamBroken(HttpError):
    """The reply ended before its end.

    Attributes:
        used: tokens, as far as they are known.
    """

    def __init__(self, message: str, used: Tokens) -> None:
        self.used = used
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a model."""

    model: str
    messages: list[dict[str, str]]
    max_tokens: int
    temperature: float | None
    schema: Mapping[str, Any] | None

    @property
    def estimate(self) -> Tokens:
        """The most it uses."""
        size = _size(json.dumps(self.messages, ensure_ascii=False)) + _size(json.dumps(self.schema or ""))
        return Tokens(size // PER_TOKEN + 1, self.max_tokens)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model has answered."""

    text: str
    finish_reason: str
    used: Tokens


class Endpoint:
    """Asks models."""

    def __init__(self, http: HttpClient, settings: AiSettings) -> None:
        self._http = http
        self._settings = settings
        self._headers = {"accept": "text/event-stream"}
        if settings.key is not None:
            self._headers["authorization"] = f"Bearer {settings.key.get_secret_value()}"

    async def ask(self, request: Request, take: Callable[[str], Awaitable[None]], timeout: float) -> Reply:
        """Ask, and hand each piece of the reply on as it comes.

        Args:
            timeout: limit on the whole call, seconds.

        Raises:
            RetryAfter: too many requests or tokens for now.
            BalanceExhausted, Refused: permanent.
            StreamBroken: the reply ended before its end, or the endpoint failed in the middle.
            HttpError: any other failure; see `handlers.integrations.http`.
        """
        url = f"{self._settings.base_url}/chat/completions"
        sent = {"json": self._body(request), "headers": self._headers}
        async with self._http.stream("POST", url, timeout=timeout, max_body=LONGEST, **sent) as stream:
            if not stream.reply.ok:
                raise await self._refusal(stream)
            return await _read(request, stream, take)

    def _body(self, request: Request) -> dict[str, Any]:
        settings = self._settings
        body: dict[str, Any] = {
            "model": request.model,
            "messages": request.messages,
            settings.tokens_field: request.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.schema is not None and settings.response_format != "none":
            kind = settings.response_format
            more = {"json_schema": {"name": "reply", "schema": request.schema}} if kind == "json_schema" else {}
            body["response_format"] = {"type": kind, **more}
        return body

    async def _refusal(self, stream: HttpStream) -> Exception:
        """Give what a reply without success means."""
        head = stream.reply
        body = b"".join([chunk async for chunk in stream.chunks()])
        reply = replace(head, body=body)
        code = _code(reply)
        if reply.status == 402 or code in _EXHAUSTED:
            return BalanceExhausted(f"{reply.host}: {code or reply.status}: the account's balance is used up")
        if reply.status == 429:
            wait = reply.retry_after
            return reply.told_to_wait(self._settings.rate_wait if wait is None else wait, "function")
        try:
            reply.checked("function")
        except PermanentError:
            return Refused(f"{reply.host} answers {reply.status}" + (f": {code}" if code else ""))
        except Exception as error:
            return error
        raise AssertionError("unreachable")


def _code(reply: HttpReply) -> str:
    """Give the word for what is wrong; the message may quote what was asked."""
    try:
        error = reply.json()["error"]
        return str(error.get("code") or error.get("type") or "")[:100]
    except (HttpError, LookupError, TypeError, AttributeError):
        return ""


async def _read(request: Request, stream: HttpStream, take: Callable[[str], Awaitable[None]]) -> Reply:
    host = stream.reply.host
    pieces: list[str] = []
    counted: Tokens | None = None
    finish, done, half = "", False, ""

    def used() -> Tokens:
        return counted or Tokens(request.estimate.prompt, sum(map(_size, pieces)) // PER_TOKEN + 1)

    try:
        async for data in _events(stream.chunks()):
            if data == "[DONE]":
                done = True
                break
            said = json.loads(data)
            if said.get("error"):
                raise StreamBroken(f"{host} failed in the middle of a reply", used())
            counted = _counted(said.get("usage")) or counted
            for choice in said.get("choices") or ():
                finish = choice.get("finish_reason") or finish
                if text := (choice.get("delta") or {}).get("content"):
                    text, half = _parted(half + text)
                    if text:
                        pieces.append(text)
                        await take(text)
        if half:
            pieces.append(whole(half))
            await take(whole(half))
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise StreamBroken(f"{host} answers with something that is no stream of a reply", used()) from None
    except HttpError as error:
        raise error if isinstance(error, StreamBroken) else StreamBroken(str(error), used()) from None
    # Some leave the reason out; one that says nothing at all has not answered.
    if not finish and not (done and pieces):
        raise StreamBroken(f"{host}: the reply ends in the middle", used())
    return Reply("".join(pieces), finish or "stop", used())


def whole(text: str) -> str:
    """Give a text with the halves of characters in it (surrogates) joined; one alone becomes U+FFFD.

    JSON may hold a half as an escape, and no other text can: neither Redis nor a result would take it.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _parted(text: str) -> tuple[str, str]:
    """Give a piece of a text, and the first half of a character at its end: the other half may be in the next piece."""
    end = len(text) - ("\ud800" <= text[-1] <= "\udbff")
    return whole(text[:end]), text[end:]


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _counted(usage: Any) -> Tokens | None:
    if not isinstance(usage, Mapping):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if isinstance(prompt, int) and isinstance(completion, int):
        return Tokens(prompt, completion)
    return None


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Give the data of server-sent events.

    Raises:
        ValueError: one is larger than any piece of a text.
    """
    rest = b""
    lines: list[str] = []
    async for chunk in chunks:
        *whole, rest = (rest + chunk).replace(b"\r\n", b"\n").split(b"\n")
        for line in whole:
            if not line and lines:
                yield "\n".join(lines)
                lines = []
            elif line.startswith(b"data:"):
                lines.append(line[5:].decode("utf-8", "replace").removeprefix(" "))
        if len(rest) + sum(map(len, lines)) > LONGEST_EVENT:
            raise ValueError("an event without an end")
    if lines:
        yield "\n".join(lines)
