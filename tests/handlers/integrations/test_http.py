"""The HTTP client against real servers on loopback: the guard, limits of time and size, what its errors say."""

from __future__ import annotations

import asyncio
import gzip
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpcore
import httpx
import pytest

from daemon.errors import PermanentError, RetryAfter
from handlers.integrations.http import (
    HttpClient,
    HttpError,
    HttpForbidden,
    HttpRefused,
    HttpStatus,
    HttpTooLarge,
    HttpUnavailable,
)
from handlers.integrations.http_reply import LONGEST_WAIT, SHORTEST_WAIT, HttpReply, retry_after
from handlers.integrations.http_settings import HttpSettings
from tests.handlers import receiver
from tests.servers import free_port

OPEN = HttpSettings(allow=("localhost", "127.0.0.0/8", "::1"))
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A server on every address of this machine, IPv4 and IPv6; it counts its connections and answers as told."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.answer: Answer = self._say(b"200 OK", b"hello")
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> Server:
        listener = socket.socket(socket.AF_INET6)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", 0))
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._serve, sock=listener)
        return self

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(length[0].partition(b":")[2])) if length else b""
                self.requests.append(head + body)
                await self.answer(reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @staticmethod
    def _say(status: bytes, body: bytes = b"", *headers: bytes) -> Answer:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = [b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *headers]
            writer.write(b"\r\n".join(head) + b"\r\n\r\n" + body)

        return answer

    def say(self, status: bytes, body: bytes = b"", *headers: bytes) -> None:
        self.answer = self._say(status, body, *headers)

    def write(self, data: bytes) -> None:
        """Answer with these bytes and close the connection."""

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(data)
            await writer.drain()
            writer.close()

        self.answer = answer

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = await Server().start()
    yield found
    await found.stop()


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every address a connection was tried to; public ones are led back to this machine."""
    tried: list[str] = []
    real = httpcore.AnyIOBackend.connect_tcp

    async def connect_tcp(self: Any, host: str, *arguments: Any) -> Any:
        tried.append(host)
        return await real(self, "127.0.0.1" if host == PUBLIC else host, *arguments)

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect_tcp)
    return tried


# ---------------------------------------------------------------- the guard

PUBLIC = "93.184.216.34"
#: URLs that lead, or try to lead, where they must not; {port} is the listener's.
HOSTILE = [
    # this machine, written in every way
    "http://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}/%2e%2e/admin",
    "http://127.1:{port}/",
    "http://127.0.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.0x0.0x0.0x1:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://017700000001:{port}/",
    "http://127.000.000.001:{port}/",
    "http://127.255.255.254:{port}/",
    "http://0.0.0.0:{port}/",
    "http://0:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST:{port}/",
    "http://localhost.:{port}/",
    "http://localhost:{port}/#@example.com/",
    "http://localhost:{port}\\@example.com/",
    "http://[::1]:{port}/",
    "http://[0:0:0:0:0:0:0:1]:{port}/",
    "http://[::]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[64:ff9b::127.0.0.1]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/",
    "http://[64:ff9b:1::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[2001:0:7f00:1::]:{port}/",
    "http://[::ffff:0:127.0.0.1]:{port}/",
    "http://①②⑦.⓪.⓪.①:{port}/",
    # the metadata of clouds
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.2/v2/credentials",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://[::ffff:169.254.169.254]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[fd00:ec2::254]/",
    "http://100.100.100.200/",
    "http://192.0.0.192/",
    "http://168.63.129.16/",
    # private networks, links, examples, many at once
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.254/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://198.18.0.1/",
    "http://192.0.2.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://240.0.0.1/",
    "http://[fc00::1]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25lo]:{port}/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    "http://[100::1]/",
    # names that resolve to such (the resolver below)
    "http://inside.example:{port}/",
    "http://mixed.example:{port}/",
    "http://six.example:{port}/",
    "http://meta.example/",
    "http://nonsense.example/",
    # not a call to the web at all
    "https://user:password@example.com/",
    f"http://{PUBLIC}:80@127.0.0.1:{{port}}/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/_",
    "ftp://127.0.0.1:{port}/",
    "unix:///var/run/docker.sock",
    "//127.0.0.1:{port}/",
    "http:///127.0.0.1:{port}/",
    "http://",
    "",
    "javascript:alert(1)",
]
NAMES = {
    "inside.example": ["10.1.2.3"],
    "mixed.example": [PUBLIC, "127.0.0.1"],
    "six.example": ["::1"],
    "meta.example": ["169.254.169.254"],
    "nonsense.example": ["not an address"],
}


async def named(host: str, port: int) -> Sequence[str]:
    from handlers.integrations.guard import resolve

    return NAMES.get(host) or await resolve(host, port)


def test_the_table_is_long_enough() -> None:
    assert len(set(HOSTILE)) >= 40


@pytest.mark.parametrize("url", HOSTILE)
async def test_hostile_urls(server: Server, connected: list[str], url: str) -> None:
    async with HttpClient(resolve=named) as client:
        with pytest.raises((HttpForbidden, HttpUnavailable)) as caught:
            await client.get(url.format(port=server.port))
    assert connected == []
    assert server.connections == 0
    if isinstance(caught.value, HttpUnavailable):
        # What the system cannot even resolve: nothing there to refuse.
        assert not caught.value.sent


async def test_without_the_guard_they_get_there(server: Server) -> None:
    """Else the test above would show nothing."""
    reached = 0
    async with HttpClient(guarded=False) as client:
        for url in HOSTILE[:20]:
            try:
                reached += (await client.get(url.format(port=server.port))).ok
            except HttpError:
                continue
    assert reached > 12


async def test_a_name_is_resolved_once_and_its_address_pinned(server: Server, connected: list[str]) -> None:
    """A resolver that turns to this machine once it was asked: the connection goes where the check looked."""
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return [PUBLIC] if len(asked) == 1 else ["127.0.0.1"]

    async with HttpClient(resolve=rebinding, keep_alive=True) as client:
        reply = await client.get(f"http://rebind.example:{server.port}/")
        assert reply.ok
        assert (asked, connected) == (["rebind.example"], [PUBLIC])
        assert b"host: rebind.example" in server.requests[0].lower()
        # The kept connection is used again; a new one asks again, and is refused.
        await client.get(f"http://rebind.example:{server.port}/")
        assert connected == [PUBLIC]
    async with HttpClient(resolve=rebinding) as client:
        with pytest.raises(HttpForbidden):
            await client.get(f"http://rebind.example:{server.port}/")
    assert connected == [PUBLIC]


async def test_redirects_are_not_followed(server: Server) -> None:
    server.say(b"302 Found", b"", b"location: http://169.254.169.254/")
    async with HttpClient(OPEN) as client:
        reply = await client.get(server.url())
        assert reply.status == 302
        with pytest.raises(HttpRefused):
            reply.checked()
    assert server.connections == 1


@pytest.mark.parametrize(
    ("allow", "url", "reached"),
    [
        ("127.0.0.1", "http://127.0.0.1:{port}/", True),
        ("127.0.0.0/8", "http://127.0.0.1:{port}/", True),
        ("127.0.0.0/8", "http://[::ffff:127.0.0.1]:{port}/", True),
        ("localhost", "http://LocalHost:{port}/", True),
        ("::1", "http://[::1]:{port}/", True),
        ("10.0.0.0/8 127.0.0.2", "http://127.0.0.1:{port}/", False),
        ("other.example", "http://localhost:{port}/", False),
    ],
)
async def test_what_an_operator_allows(server: Server, allow: str, url: str, reached: bool) -> None:
    async with HttpClient(HttpSettings.model_validate({"allow": allow})) as client:
        if reached:
            assert (await client.get(url.format(port=server.port))).text == "hello"
        else:
            with pytest.raises(HttpForbidden, match="ARQD_HTTP__ALLOW"):
                await client.get(url.format(port=server.port))
    assert server.connections == int(reached)


@pytest.mark.parametrize(
    "entry", ["http://host", "10.0.0.0/99", "a b", "host:80", "*", "-", "10.0.0.1/8", "hook" * 40 + ";"]
)
def test_entries_that_are_none(entry: str) -> None:
    """Each is told at once; a pattern that tries every way to cut a name into labels would never end with the last."""
    with pytest.raises(ValueError, match="no host, address or network"):
        HttpSettings(allow=(entry,))


# ---------------------------------------------------------------- limits


async def test_a_reply_that_is_too_large(server: Server) -> None:
    async with HttpClient(OPEN) as client:
        server.say(b"200 OK", b"x" * 2000)
        with pytest.raises(HttpTooLarge, match="1,000"):
            await client.get(server.url(), max_body=1000)
        server.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000)
        with pytest.raises(HttpTooLarge):
            await client.get(server.url(), max_body=1000)
        assert len((await client.get(server.url(), max_body=2000)).body) == 2000


async def test_compressed_replies_and_bombs(server: Server) -> None:
    text = secrets.token_hex(50_000).encode()
    async with HttpClient(OPEN) as client:
        server.say(b"200 OK", gzip.compress(text[:60_000]) + gzip.compress(text[60_000:]), b"content-encoding: gzip")
        assert (await client.get(server.url())).body == text
        assert b"accept-encoding: gzip\r\n" in server.requests[0].lower()
        bomb = gzip.compress(bytes(50_000_000))
        assert len(bomb) < 100_000
        server.say(b"200 OK", bomb, b"content-encoding: gzip")
        sizes: list[int] = []

        async def explode() -> None:
            async with client.stream("GET", server.url(), max_body=1_000_000) as stream:
                async for chunk in stream.chunks():
                    sizes.append(len(chunk))

        with pytest.raises(HttpTooLarge):
            await explode()
        assert len(sizes) > 10
        assert max(sizes) <= 65_536
        server.say(b"200 OK", gzip.compress(text)[:-20], b"content-encoding: gzip")
        with pytest.raises(HttpUnavailable, match="ends in the middle"):
            await client.get(server.url())
        for body, encoding in ((b"no gzip", b"gzip"), (b"x", b"br"), (b"x", b"gzip, gzip")):
            server.say(b"200 OK", body, b"content-encoding: " + encoding)
            with pytest.raises(HttpError, match=r"gzip|encoding"):
                await client.get(server.url())


async def test_headers_without_end(server: Server) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for _i in range(3000):
            writer.write(b"x-filler: " + b"y" * 1000 + b"\r\n")
            await writer.drain()

    server.answer = answer
    async with HttpClient(OPEN) as client:
        with pytest.raises(HttpUnavailable) as caught:
            await client.get(server.url())
    assert caught.value.sent


@pytest.mark.parametrize("limit", ["read_timeout", "timeout"])
async def test_a_server_that_drips_or_is_silent(server: Server, limit: str) -> None:
    ended = asyncio.Event()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if limit == "timeout":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
            while not writer.is_closing() and not ended.is_set():
                writer.write(b"x")
                await asyncio.sleep(0.02)
        await ended.wait()

    server.answer = answer
    async with HttpClient(OPEN.model_copy(update={limit: 1.5})) as client:
        with pytest.raises(HttpUnavailable) as caught:
            await client.get(server.url())
    assert caught.value.sent
    ended.set()


async def test_nobody_there(connected: list[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with HttpClient(OPEN) as client:
            with pytest.raises(HttpUnavailable) as caught:
                await client.post(f"http://127.0.0.1:{taken.getsockname()[1]}/", json={})
    assert not caught.value.sent
    assert connected == ["127.0.0.1"]


async def test_a_name_that_takes_too_long() -> None:
    async def slow(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    async with HttpClient(HttpSettings(connect_timeout=0.1), resolve=slow) as client:
        with pytest.raises(HttpUnavailable, match="not resolved in time") as caught:
            await client.get("http://slow.example/")
    assert not caught.value.sent


async def test_the_next_address_is_tried(server: Server) -> None:
    async def two(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1", "::1"]

    port = free_port()
    six = await asyncio.start_server(server._serve, "::1", port)
    async with HttpClient(OPEN, resolve=two) as client:
        assert (await client.get(f"http://localhost:{port}/")).ok
    six.close()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", b"nonsense\r\n\r\n"])
async def test_a_lost_connection_leaves_it_open_whether_it_was_done(server: Server, said: bytes) -> None:
    server.write(said)
    async with HttpClient(OPEN) as client:
        with pytest.raises(HttpUnavailable) as caught:
            await client.post(server.url(), json={"a": 1})
    assert caught.value.sent
    assert len(server.requests) == 1, "a call that may have been done is not made again"


async def test_what_the_caller_raises_is_its_own(server: Server) -> None:
    async with HttpClient(OPEN) as client:
        for error in (TimeoutError("mine"), OSError("disk full")):
            with pytest.raises(type(error), match=str(error)):
                async with client.stream("GET", server.url()):
                    raise error


# ---------------------------------------------------------------- requests and replies


async def test_an_answer_that_comes_twice_answers_one_call(server: Server) -> None:
    said = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d"

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said % len(server.requests) * 2)

    server.answer = answer
    async with HttpClient(OPEN) as client:
        assert [(await client.get(server.url())).text for _ in range(3)] == ["1", "2", "3"]


async def test_requests(server: Server) -> None:
    async with HttpClient(OPEN, keep_alive=True) as client:
        await client.post(server.url("/a?x=1"), params={"y": "2 3"}, json={"n": 1}, headers={"x-key": "v"})
        await client.post(server.url(), form={"a": "b c"})
        await client.request("PUT", server.url(), content=b"\x00\x01")
        with pytest.raises(TypeError):
            await client.post(server.url(), json={}, content=b"")
        with pytest.raises(HttpForbidden, match="header"):
            await client.get(server.url(), headers={"x-key": "a\r\nx-other: b"})
        with pytest.raises(HttpForbidden, match="header"):
            await client.get(server.url(), headers={"x-key": "ключ"})
    first, form, put = server.requests
    assert first.startswith(b"POST /a?x=1&y=2+3 HTTP/1.1\r\n")
    assert first.endswith(b'\r\n\r\n{"n":1}')
    assert b"x-key: v" in first
    assert form.endswith(b"a=b+c")
    assert put.endswith(b"\x00\x01")
    assert server.connections == 1


async def test_nothing_of_the_environment_and_no_cookies(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9/")
    server.say(b"200 OK", b"", b"set-cookie: session=1; path=/")
    async with HttpClient(OPEN) as client:
        for _ in range(2):
            assert (await client.get(server.url())).ok
    assert b"cookie" not in server.requests[1].lower()


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (b"400 Bad", [], HttpRefused),
        (b"301 Moved", [b"location: /"], HttpRefused),
        (b"408 Timeout", [], HttpStatus),
        (b"425 Early", [], HttpStatus),
        (b"429 Many", [], HttpStatus),
        (b"500 Oh", [b"retry-after: 7"], HttpStatus),
        (b"503 Away", [b"retry-after: soon"], HttpStatus),
        (b"503 Away", [b"retry-after: 7"], RetryAfter),
        (b"429 Many", [b"retry-after: 7"], RetryAfter),
    ],
)
async def test_what_a_status_means(server: Server, status: bytes, headers: list[bytes], error: type) -> None:
    server.say(status, b"secret", *headers)
    async with HttpClient(OPEN) as client:
        reply = await client.get(server.url("/hook/token"))
    with pytest.raises(error) as caught:
        reply.checked("group")
    assert isinstance(caught.value, PermanentError) == (error is HttpRefused)
    assert type(caught.value) is error
    if error is RetryAfter:
        assert (caught.value.seconds, caught.value.scope) == (7, "group")
    else:
        assert "token" not in str(caught.value)
        assert "secret" not in str(caught.value)


async def test_a_server_cannot_put_a_job_off_for_ever() -> None:
    settings = HttpSettings.model_validate({"wait_limit": "2d"})
    async with receiver.Receiver() as server, HttpClient(settings, guarded=False) as http:
        server.usual = receiver.Answer(429, headers={"retry-after": "7"})
        with pytest.raises(RetryAfter) as caught:
            (await http.get(server.url)).checked("group")
        assert (caught.value.seconds, caught.value.scope, caught.value.patience) == (7, "group", 172_800)
        async with http.stream("GET", server.url) as stream:
            with pytest.raises(RetryAfter) as caught:
                stream.reply.checked("job")
            assert caught.value.patience == 172_800


def test_retry_after() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert retry_after("120") == 120
    # Else who says 0 for ever is called without a pause, and no try is counted.
    assert retry_after(" 0 ") == SHORTEST_WAIT > 0
    assert retry_after(format_datetime(now + timedelta(seconds=90), usegmt=True), now) == 90
    assert retry_after(format_datetime(now - timedelta(days=1), usegmt=True), now) == SHORTEST_WAIT
    assert retry_after("9" * 5000) == retry_after("Fri, 31 Dec 9999 23:59:59 GMT", now) == LONGEST_WAIT
    assert [retry_after(text) for text in (None, "", "soon", "-1", "1.5", "٣")] == [None] * 6
    far = "9" * 20
    for no_date in (
        f"Mon, 01 Jan {far} 00:00:00 GMT",
        f"Mon, {far} Jan 2030 00:00:00 GMT",
        f"Mon, 01 Jan 2030 00:00:00 +{far}",
    ):
        assert retry_after(no_date, now) is None


async def test_no_secret_in_a_log_or_an_error(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    secret = secrets.token_hex(8)
    with caplog.at_level(logging.DEBUG):
        async with HttpClient(OPEN) as client:
            await client.post(server.url(f"/{secret}?k={secret}"), headers={"authorization": secret}, json=secret)
            server.write(b"")
            with pytest.raises(HttpUnavailable) as caught:
                await client.get(server.url(f"/{secret}"), headers={"authorization": secret})
    assert secret not in caplog.text
    assert secret not in repr(caught.value)
    assert "127.0.0.1" in caplog.text


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b"9" * 5000, b"\xff"])
def test_a_body_that_is_no_json(body: bytes) -> None:
    with pytest.raises(HttpError, match="something that is no JSON"):
        HttpReply("example.com", 200, httpx.Headers(), body).json()
