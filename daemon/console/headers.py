"""What all requests have in common: security headers, their id, the limit of a body, HEAD as GET without one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daemon.carried import LONGEST, request_id
from daemon.console.problems import problem_of

#: No inline script or style, nothing from elsewhere, nobody's frame.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEAD = "arqd.head"
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


class Headers:
    """Adds the headers to every answer, that of an unforeseen error included.

    A header that an answer has already stays: static files may be cached.

    Args:
        tell: gives the answer to an error.
    """

    def __init__(self, app: ASGIApp, tell: Callable[[Request, Exception], Awaitable[Response]]) -> None:
        self._app, self._tell = app, tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope.get("scheme") == "https":
                    headers.setdefault("strict-transport-security", "max-age=31536000")
            await send(message)

        try:
            await self._app(scope, receive, with_headers)
        except Exception as error:
            # Of an answer that has begun nothing can be taken back: the connection ends.
            if started or scope["type"] != "http":
                raise
            await (await self._tell(Request(scope), error))(scope, receive, with_headers)


class HeadAsGet:
    """Answers HEAD as GET without the body (RFC 9110, 9.3.2): routes, and so the API's document, know of GET alone.

    An answer that has an effect or no end asks `is_head`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET", _HEAD: True}, receive, without_body)


def is_head(request: Request) -> bool:
    """Tell whether a GET stands for a HEAD."""
    return _HEAD in request.scope


class RequestIds:
    """Takes a request's id (``X-Request-ID``) for its log lines and the jobs it enqueues, and gives it back."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers", ())).get(b"x-request-id", b"").decode("latin-1")
        # What is none is no reason to refuse a request.
        if not given or not given.isprintable() or len(given) > LONGEST:
            await self._app(scope, receive, send)
            return

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = given
            await send(message)

        token = request_id.set(given)
        try:
            await self._app(scope, receive, with_id)
        finally:
            request_id.reset(token)


class BodyLimit:
    """Answers 413 to a body that is too large, by its announced length or while it comes."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._most:
            await problem_of(self._refusal()).response()(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:
                raise self._refusal()
            return message

        await self._app(scope, counted, send)

    def _refusal(self) -> HTTPException:
        # Of FastAPI's kind: it would take another one, raised while it reads, for a body that cannot be parsed.
        return HTTPException(413, f"the request is larger than {self._most} bytes (ARQD_CONSOLE__MAX_BODY)")
