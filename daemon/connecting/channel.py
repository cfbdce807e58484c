"""A connection of one's own, for the calls that are made most: workers' rounds, enqueueing, blocking pops.

A client of redis-py takes a connection from its pool, looks whether it still lives and waits in a chain of coroutines,
about 100 µs of the processor for each call. Here redis-py opens the connection (address, TLS, user, database), and then
commands go out and replies come in as they are: packed and parsed by hiredis, a future each, any number under way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis
from redis import exceptions

from daemon.connecting.routed import node_of

#: A connection unused for so long, seconds, may have been closed by the other side without our having looked.
STALE = 1.0
#: Takes a reply that is no error as soon as it is read, so a turn of the loop before whoever waits for the call.
Heard = Callable[[Any], None]


class _Wire(asyncio.Protocol):
    """A connection that redis-py has opened; it answers calls in their order.

    Args:
        connection: of redis-py; nothing may be under way on it.

    Attributes:
        lost: whether it is closed.
        used: when something was sent last, by the loop's clock.
    """

    def __init__(self, connection: Any) -> None:
        self._loop = asyncio.get_running_loop()
        # Its streams close the transport when nothing refers to them any more.
        self._connection = connection
        self._transport = connection._writer.transport
        self._limit: float | None = connection.socket_timeout
        self._reader = hiredis.Reader(replyError=connection._parser.parse_error)
        self._waiting: deque[tuple[asyncio.Future[Any], float, Heard | None]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self.lost = False
        self.used = self._loop.time()
        self._transport.set_protocol(self)

    @property
    def stale(self) -> bool:
        """Whether nothing was sent for so long that the other side may have closed it."""
        # The loop's own: up to Python 3.11 to ask which one runs is a system call.
        return self._loop.time() - self.used > STALE

    def send(self, command: tuple[Any, ...], heard: Heard | None = None) -> asyncio.Future[Any]:
        """Send a command; the future gets its reply."""
        data = hiredis.pack_command(command)
        future = self._expect(heard)
        self._transport.write(data)
        return future

    def send_both(
        self, first: tuple[Any, ...], second: tuple[Any, ...], heard: Heard
    ) -> tuple[asyncio.Future[Any], asyncio.Future[Any]]:
        """Send two commands at once; the reply of the second is handed to ``heard``, too."""
        data = hiredis.pack_command(first) + hiredis.pack_command(second)
        futures = self._expect(None), self._expect(heard)
        self._transport.write(data)
        return futures

    def _expect(self, heard: Heard | None) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self.used = now = self._loop.time()
        self._waiting.append((future, now, heard))
        if self._watch is None and self._limit is not None:
            self._watch = self._loop.call_later(self._limit, self._look)
        return future

    def data_received(self, data: bytes) -> None:
        """Hand out the replies that are complete."""
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                future, _, heard = waiting.popleft()
                if future.done():
                    continue
                if isinstance(reply, Exception):
                    future.set_exception(reply)
                    continue
                if heard is not None:
                    heard(reply)
                future.set_result(reply)
        except (hiredis.HiredisError, IndexError) as error:
            self._fail(exceptions.InvalidResponse(f"not a reply of Redis: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        """Whoever waits for a reply hears that it will not come."""
        self._fail(exceptions.ConnectionError(str(error) if error else "Connection closed by server."))

    def close(self) -> None:
        """Close it at once."""
        self._fail(exceptions.ConnectionError("the connection was closed"))

    def _fail(self, error: Exception) -> None:
        self.lost = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._transport.abort()
        # Else redis-py would warn that it was not closed.
        self._connection._reader = self._connection._writer = None
        waiting, self._waiting = self._waiting, deque()
        for future, _, _ in waiting:
            if not future.done():
                future.set_exception(error)
                # Not everybody waits: else it would be logged.
                future.exception()

    def _look(self) -> None:
        """One timer for all: has the oldest call waited for too long?"""
        self._watch = None
        if not self._waiting or self._limit is None:
            return
        rest = self._waiting[0][1] + self._limit - self._loop.time()
        if rest > 0:
            self._watch = self._loop.call_later(rest, self._look)
        else:
            self._fail(exceptions.TimeoutError("Timeout reading from socket"))


class _Steps:
    """The same on a connection that is no stream (`daemon.testing`): one call after the other."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()
        self.lost = self.stale = False

    def send(self, command: tuple[Any, ...], heard: Heard | None = None) -> asyncio.Task[Any]:
        """Send a command; the task gets its reply."""
        return asyncio.create_task(self._call(command, heard))

    def send_both(
        self, first: tuple[Any, ...], second: tuple[Any, ...], heard: Heard
    ) -> tuple[asyncio.Task[Any], asyncio.Task[Any]]:
        """Send two commands, one after the other."""
        return self.send(first), self.send(second, heard)

    async def _call(self, command: tuple[Any, ...], heard: Heard | None) -> Any:
        async with self._turn:
            try:
                await self._connection.send_command(*command)
                reply = await self._connection.read_response()
                if heard is not None:
                    heard(reply)
                return reply
            except exceptions.ResponseError:
                raise
            except BaseException:
                self.lost = True
                raise

    def close(self) -> None:
        """Nothing is open."""
        self.lost = True


class Channel:
    """A connection that is opened with the first call, and again with the first after it was lost.

    Args:
        client: whose pool's settings it uses.
        key: of the server that has this key, where there are several.

    Attributes:
        opened: how many times it was opened.
        sent: how many calls were sent; one that fails with none sent was not heard by the server.
    """

    def __init__(self, client: Any, key: str = "") -> None:
        self._client = client
        self._key = key
        self._link: _Wire | _Steps | None = None
        self._opening: asyncio.Lock | None = None
        self._failure: Exception | None = None
        self._failures = 0
        self.opened = self.sent = 0

    @property
    def losses(self) -> int:
        """How many times its connection was lost."""
        return self.opened - (self._link is not None and not self._link.lost)

    async def call(self, *command: Any, heard: Heard | None = None) -> Any:
        """Send a command and give its reply; several calls may be under way.

        Args:
            heard: see `Heard`.

        Raises:
            redis.exceptions.RedisError: as redis-py's clients.
        """
        return await (self._ready() or await self._look()).send(command, heard)

    async def start(self, *command: Any) -> asyncio.Future[Any]:
        """Send a command and give what to wait for: its reply."""
        return (self._ready() or await self._look()).send(command)

    async def start_both(
        self, first: tuple[Any, ...], second: tuple[Any, ...], heard: Heard
    ) -> tuple[asyncio.Future[Any], asyncio.Future[Any]]:
        """Send two commands at once and give what to wait for; the second's reply is handed to ``heard``, too."""
        return (self._ready() or await self._look()).send_both(first, second, heard)

    def _ready(self) -> _Wire | _Steps | None:
        """Give the connection for a call; None when it has to be opened, or looked at first."""
        link = self._link
        if link is None or link.lost or link.stale:
            return None
        self.sent += 1
        return link

    async def _look(self) -> _Wire | _Steps:
        # Two turns of the loop: one to look at the sockets, one to be told.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        link = self._link
        link = await self._open() if link is None or link.lost else link
        self.sent += 1
        return link

    def tell(self, *command: Any) -> bool:
        """Send a command whose reply nobody waits for; False when the connection is lost."""
        link = self._link
        if link is None or link.lost:
            return False
        link.send(command).add_done_callback(forget)
        return True

    async def overlap(self, meanwhile: Callable[[], None], *command: Any) -> Any:
        """Send a command, do something while the server works, and give the reply."""
        reply = await self.start(*command)
        meanwhile()
        return await reply

    async def _open(self) -> _Wire | _Steps:
        if self._opening is None:
            self._opening = asyncio.Lock()
        failures = self._failures
        async with self._opening:
            if self._link is not None and not self._link.lost:
                return self._link
            if self._failures != failures and self._failure is not None:
                # It failed while this call waited for it; each trying anew would wait for all before it, too.
                raise self._failure
            try:
                self._link = await self._connect()
            except BaseException as error:
                self._failure = error if isinstance(error, Exception) else None
                self._failures += 1
                raise
            self.opened += 1
            return self._link

    async def _connect(self) -> _Wire | _Steps:
        server = await node_of(self._client, self._key)
        connection = server.connection_pool.make_connection()
        try:
            await connection.connect()
            return _Wire(connection) if getattr(connection, "_writer", None) else _Steps(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        if self._link is not None:
            self._link.close()
            self._link = None


def forget(reply: asyncio.Future[Any]) -> None:
    """Take notice of an error, which would be logged when it is collected."""
    if not reply.cancelled():
        reply.exception()
