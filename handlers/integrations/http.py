"""Calls to other services: one client for all families, with a guard, limits on time and size, and no state.

How a family uses it::

    async def open_things(ctx):
        ctx["http"] = HttpClient.of(ctx["settings"])                # for URLs that come in jobs: guarded
        ctx["api"] = HttpClient.of(ctx["settings"], guarded=False)  # for URLs the operator wrote into the settings
    async def close_things(ctx):
        await ctx["http"].close()

    reply = (await ctx["api"].post(url, json={…}, headers={…})).checked()
    reply.json()

- `HttpReply.checked` gives a reply of 2xx back. A Retry-After becomes the engine's wait (`RetryAfter`, which counts
  as no try for ``ARQD_HTTP__WAIT_LIMIT``), another 408, 425, 429 or 5xx an `HttpStatus` that is tried again by the
  family's policy, the rest an `HttpRefused`: permanent. A redirect is never followed: it is refused.
- `HttpUnavailable.sent` tells whether the server may have acted: after a failed connection it has not, after a lost
  one nobody knows.
- A guarded client connects to the public internet only (`handlers.integrations.guard`), and to what
  ``ARQD_HTTP__ALLOW`` names; else it raises `HttpForbidden`, permanent.
- No environment proxies, no ``.netrc``, no cookies. Errors and log lines name the host and nothing else of a URL: a
  webhook's path is a secret, too.

This module takes a tenth of a second to import: a family's ``payloads`` must not.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, Self

import httpcore
import httpx

from daemon import __version__
from daemon.errors import ConfigurationError
from handlers.integrations.allow_list import AllowList
from handlers.integrations.guard import Forbidden, GuardedNetwork, Resolve, resolve
from handlers.integrations.http_reply import (
    HttpError,
    HttpForbidden,
    HttpRefused,
    HttpReply,
    HttpStatus,
    HttpTooLarge,
    HttpUnavailable,
)
from handlers.integrations.http_settings import HttpSettings

__all__ = [
    "HttpClient",
    "HttpError",
    "HttpForbidden",
    "HttpRefused",
    "HttpReply",
    "HttpStatus",
    "HttpStream",
    "HttpTooLarge",
    "HttpUnavailable",
]

logger = logging.getLogger("arqd.http")
for _chatty in ("httpcore", "httpx"):
    # At level debug they log headers, and so tokens.
    logging.getLogger(_chatty).setLevel(logging.WARNING)

#: What is decompressed at a time, bytes.
CHUNK = 65_536
#: What zlib calls "with a gzip header".
GZIP = 31

#: What certainly never reached the server.
_NOT_SENT = (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout)
_LOST = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, TimeoutError, OSError)


class HttpStream:
    """A reply whose body is still to come. Made by `HttpClient.stream`."""

    def __init__(self, reply: HttpReply, chunks: AsyncIterator[bytes]) -> None:
        self.reply = reply
        self._chunks = chunks

    def chunks(self) -> AsyncIterator[bytes]:
        """Give the body, decompressed, in pieces of at most `CHUNK` or as they come.

        Raises:
            HttpTooLarge, HttpUnavailable: see `HttpClient.request`.
        """
        return self._chunks


class HttpClient:
    """A pool of connections. One for each family and kind of URL, for the life of the worker.

    Args:
        settings: limits.
        guarded: whether it goes to the public internet only.
        keep_alive: use connections again. Not by default: a server that answers a call twice would answer the next one
            with what was left of the last, and nothing below would notice.
        resolve: what finds the addresses of a host.

    Raises:
        ConfigurationError: when the file of authorities cannot be used.
    """

    def __init__(
        self,
        settings: HttpSettings | None = None,
        *,
        guarded: bool = True,
        keep_alive: bool = False,
        resolve: Resolve = resolve,
    ) -> None:
        self.settings = settings = settings or HttpSettings()
        try:
            context = (
                httpx.create_ssl_context(trust_env=False)
                if settings.ca_file is None
                else ssl.create_default_context(cafile=settings.ca_file)
            )
        except OSError as error:
            raise ConfigurationError(f"ARQD_HTTP__CA_FILE: cannot use {settings.ca_file}: {error}") from None
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=settings.pool_size,
            max_keepalive_connections=settings.pool_size if keep_alive else 0,
            keepalive_expiry=15,
            network_backend=GuardedNetwork(AllowList(settings.allow) if guarded else None, resolve),
        )

    @classmethod
    def of(cls, settings: Any, *, guarded: bool = True, keep_alive: bool = False) -> Self:
        """Give a client with the limits of the daemon's settings."""
        return cls(settings.http, guarded=guarded, keep_alive=keep_alive)

    async def close(self) -> None:
        """Close its connections."""
        await self._pool.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def get(self, url: str, **request: Any) -> HttpReply:
        """See `request`."""
        return await self.request("GET", url, **request)

    async def post(self, url: str, **request: Any) -> HttpReply:
        """See `request`."""
        return await self.request("POST", url, **request)

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        content: bytes | None = None,
        timeout: float | None = None,
        max_body: int | None = None,
    ) -> HttpReply:
        """Make one call, and give whatever the server answers.

        Args:
            url: ``http`` or ``https``, without user and password.
            params: added to the URL.
            json, form, content: the body, one of them.
            timeout: limit on the whole call, seconds; default the settings'.
            max_body: largest reply, bytes; default the settings'.

        Raises:
            HttpForbidden: the URL is none, or leads where it must not; nothing was connected to.
            HttpUnavailable: no connection, a lost one, or too slow.
            HttpTooLarge: the reply is too large.
        """
        request = {"params": params, "headers": headers, "json": json, "form": form, "content": content}
        async with self.stream(method, url, timeout=timeout, max_body=max_body, **request) as stream:
            body = b"".join([chunk async for chunk in stream.chunks()])
            reply = stream.reply
            return replace(reply, body=body)

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, *, timeout: float | None = None, max_body: int | None = None, **request: Any
    ) -> AsyncIterator[HttpStream]:
        """Make one call and give its reply before the body has come; arguments and errors as `request`."""
        prepared = _prepared(method, url, **request)
        host = prepared.url.host
        began = time.monotonic()
        limit = asyncio.timeout(timeout or self.settings.timeout)
        try:
            async with limit:
                with _told(host):
                    response = await self._pool.handle_async_request(self._sent(prepared))
                headers = httpx.Headers(response.headers)
                took, wait_limit = time.monotonic() - began, self.settings.wait_limit
                reply = HttpReply(host, response.status, headers, seconds=took, wait_limit=wait_limit)
                logger.debug("%s %s: %d in %.3f s", method, host, reply.status, reply.seconds)
                try:
                    most = max_body or int(self.settings.max_body)
                    yield HttpStream(reply, _decoded(host, response.aiter_stream(), headers, most))
                finally:
                    await response.aclose()
        except TimeoutError:
            # One of the caller's own is none of ours.
            if not limit.expired():
                raise
            raise HttpUnavailable(f"{host} took too long", sent=True) from None

    def _sent(self, prepared: httpx.Request) -> httpcore.Request:
        settings = self.settings
        limits = {"connect": settings.connect_timeout, "pool": settings.timeout}
        limits |= {"read": settings.read_timeout, "write": settings.read_timeout}
        url = prepared.url
        return httpcore.Request(
            prepared.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=prepared.headers.raw,
            content=prepared.content,
            extensions={"timeout": limits},
        )


def _prepared(
    method: str,
    url: str,
    *,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    json: Any = None,
    form: Mapping[str, str] | None = None,
    content: bytes | None = None,
) -> httpx.Request:
    """Write a request.

    Raises:
        HttpForbidden: for a URL that is none, never quoting it.
    """
    try:
        where = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise HttpForbidden("this is no URL") from None
    if where.scheme not in ("http", "https") or not where.host:
        raise HttpForbidden("a URL here starts with http:// or https:// and names a host")
    if where.userinfo:
        raise HttpForbidden("a URL here has no user and no password before the host")
    if sum(body is not None for body in (json, form, content)) > 1:
        raise TypeError("json, form and content are bodies: give one of them")
    own = {"user-agent": f"arqd/{__version__}", "accept": "*/*", "accept-encoding": "gzip"}
    try:
        return httpx.Request(
            method,
            # httpx's own params would replace what stands in the URL.
            where.copy_merge_params(dict(params or {})),
            headers={**own, **(headers or {})},
            json=json,
            data=form,
            content=content,
        )
    except UnicodeError:
        raise HttpForbidden(f"a header of the request to {where.host} is not ASCII") from None


@contextmanager
def _told(host: str) -> Iterator[None]:
    """Tell what went wrong on the way in words of ours."""
    try:
        yield
    except Forbidden as error:
        raise HttpForbidden(str(error)) from None
    except httpcore.LocalProtocolError:
        raise HttpForbidden(f"the request to {host} cannot be written: control characters in a header?") from None
    except _LOST as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise HttpUnavailable(f"{host}: {told}"[:300], sent=not isinstance(error, _NOT_SENT)) from None


async def _decoded(host: str, chunks: AsyncIterable[bytes], headers: httpx.Headers, limit: int) -> AsyncIterator[bytes]:
    """Decompress piece by piece: a small bomb must not be a large one in memory before it is weighed."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise HttpError(f"{host} answers in an encoding that was not asked for")
    too_large = HttpTooLarge(f"{host} answers with more than {limit:,} bytes")
    if int(headers.get("content-length") or 0) > limit:
        raise too_large
    inflate = zlib.decompressobj(GZIP) if "gzip" in encoding else None
    came = given = 0
    whole = True
    with _told(host):
        async for chunk in chunks:
            came += len(chunk)
            if came > limit:
                raise too_large
            if inflate is None:
                yield chunk
                continue
            while chunk:
                try:
                    piece = inflate.decompress(chunk, CHUNK)
                except zlib.error:
                    raise HttpError(f"{host} answers with something that is no gzip") from None
                given += len(piece)
                if given > limit:
                    raise too_large
                if piece:
                    yield piece
                chunk, whole = inflate.unconsumed_tail or inflate.unused_data, inflate.eof
                if whole:
                    # Members of a gzip file may follow each other.
                    inflate = zlib.decompressobj(GZIP)
    if not whole:
        raise HttpUnavailable(f"{host}: the reply ends in the middle", sent=True)
