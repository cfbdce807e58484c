"""The simulation's connection to Redis: real commands on a real server, at a virtual time.

A command is sent and its reply read at once, without the event loop: in virtual time it takes no time, and nothing is
ever under way when the loop jumps. Scripts get the virtual clock as their test clock. A blocking pop is tried again
whenever something was written, until its time is over.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import hiredis
import redis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError, RedisError, ResponseError

from daemon.errors import ArqdError
from daemon.lua import SCRIPTS

Command = tuple[Any, ...]
#: Sends commands and gives their replies; a process's own may fail.
Send = Callable[[Callable[[], list[Any]]], Awaitable[list[Any]]]

_BLOCKING = {"BLPOP": "LPOP", "BRPOP": "RPOP", "BZPOPMIN": "ZPOPMIN", "BZPOPMAX": "ZPOPMAX"}
_ENDLESS = {"BLMOVE", "BLMPOP", "BZMPOP", "BRPOPLPUSH", "SUBSCRIBE", "PSUBSCRIBE", "MONITOR", "WAIT"}
_TIME = "return {ARGV[1], ARGV[2]}"


class Wire:
    """One connection that everything in a simulation shares.

    Args:
        url: a Redis or Valkey.
        clock: gives the virtual time, seconds since the epoch.
        watched: what to call when a command names a key first.

    Attributes:
        calls: how many times something was sent.
    """

    def __init__(self, url: str, clock: Callable[[], float], watched: Mapping[str, Callable[[], None]]) -> None:
        self._client = redis.Redis.from_url(url)
        connection: Any = self._client.connection_pool.make_connection()
        connection.connect()
        self._connection = connection
        self._socket: socket.socket = connection._sock
        # The connection's own way to a reply takes longer than the reply itself.
        self._replies = hiredis.Reader(replyError=DefaultParser.parse_error)
        self._clock = clock
        self._watched = watched
        self._waiting: list[tuple[list[tuple[float, Command]], Callable[[list[Any]], None]]] = []
        self._blocked: list[tuple[Command, asyncio.Future[Any]]] = []
        self.calls = 0
        self.run(*(("SCRIPT", "LOAD", script.text) for script in SCRIPTS.values()))

    def close(self) -> None:
        """Close it."""
        self._connection.disconnect()
        self._client.close()

    def run(self, *commands: Command) -> list[Any]:
        """Send commands and give their replies; a refused one's is the error."""
        now = self._clock()
        return self.run_at([(now, command) for command in commands])

    def run_at(self, commands: Sequence[tuple[float, Command]]) -> list[Any]:
        """As `run`, for commands that are sent at these times."""
        self.calls += 1
        before, self._waiting = self._waiting, []
        every = [*(each for calls, _ in before for each in calls), *commands]
        packed = [hiredis.pack_command(_timed(_split(command), round(at * 1000))) for at, command in every]
        self._socket.sendall(b"".join(packed))
        for _, command in commands:
            if len(command) > 1 and command[1] in self._watched:
                self._watched[command[1]]()
        for calls, tell in before:
            tell([self._read() for _ in calls])
        return [self._read() for _ in commands]

    def run_before(self, commands: list[tuple[float, Command]], tell: Callable[[list[Any]], None]) -> None:
        """Send commands in one go with those that are run next: a round trip less.

        Args:
            tell: gets their replies.
        """
        self._waiting.append((commands, tell))

    def _read(self) -> Any:
        while (reply := self._replies.gets()) is False:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("the server of the simulation has ended")
            self._replies.feed(data)
        if isinstance(reply, RedisError) and not isinstance(reply, ResponseError):
            raise reply
        return reply

    # ------------------------------------------------------------------ blocking pops

    async def pop(self, command: Command) -> Any:
        """Do what a blocking pop does: give what there is as soon as there is something, None when its time is over."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        entry = (command, future)
        self._blocked.append(entry)
        try:
            self.look()
            async with asyncio.timeout(float(command[-1]) or None):
                return await future
        except TimeoutError:
            return None
        finally:
            self._blocked.remove(entry)

    def look(self) -> bool:
        """Try again what blocks; True when something was there."""
        found = False
        for command, future in self._blocked:
            for key in command[1:-1] if not future.done() else ():
                (reply,) = self.run((_BLOCKING[command[0]], key))
                if reply:
                    key = key.encode() if isinstance(key, str) else key
                    future.set_result([key, *reply] if isinstance(reply, list) else [key, reply])
                    found = True
                    break
        return found

    # ------------------------------------------------------------------ for redis-py

    def pool(self, send: Send | None = None) -> Any:
        """Give a connection pool for an asynchronous client of redis-py, with calls that may fail as ``send`` says."""
        link: Any = _Link
        return ConnectionPool(connection_class=link, wire=self, send=send or _send)


class _Link(AbstractConnection):
    """What redis-py takes for a connection. Commands are packed by the wire, so they stay what they are until then."""

    def __init__(self, wire: Wire, send: Send, **options: Any) -> None:
        super().__init__(**options)
        self._wire = wire
        self._send = send
        self._replies: list[Any] = []
        self._pop: Command | None = None

    def repr_pieces(self) -> list[tuple[str, Any]]:
        return [("simulated", True)]

    async def connect(self) -> None: ...

    async def disconnect(self, nowait: bool = False) -> None:
        self._replies, self._pop = [], None

    async def can_read_destructive(self) -> bool:
        return False

    def pack_command(self, *args: Any) -> list[Any]:
        return [args]

    def pack_commands(self, commands: Any) -> list[Any]:
        return [tuple(command) for command in commands]

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        commands: Sequence[Command] = command
        if any(command[0] in _ENDLESS or "BLOCK" in command[:6] for command in commands):
            raise ArqdError(f"{commands[0][0]} is not simulated when it blocks")
        if commands[0][0] in _BLOCKING:
            self._pop = commands[0]
            await self._send(list)
        else:
            self._replies += await self._send(lambda: self._wire.run(*commands))

    async def read_response(self, *_: Any, **__: Any) -> Any:
        if self._pop is not None:
            command, self._pop = self._pop, None
            return await self._wire.pop(command)
        reply = self._replies.pop(0)
        if isinstance(reply, ResponseError):
            raise reply
        return reply


async def _send(call: Callable[[], list[Any]]) -> list[Any]:
    return call()


def _split(command: Command) -> Command:
    name = command[0]
    return (*name.split(), *command[1:]) if isinstance(name, str) and " " in name else command


def _timed(command: Command, ms: int) -> Command:
    """Put the virtual time where the server's would be taken."""
    if command[0] == "TIME":
        return ("EVAL", _TIME, 0, ms // 1000, ms % 1000 * 1000)
    if command[0] in ("EVALSHA", "EVAL"):
        # KEYS, then the family's prefix, then the clock (lua/prelude.lua).
        clock = 3 + int(command[2]) + 1
        if len(command) > clock and command[clock] == "":
            return (*command[:clock], ms, *command[clock + 1 :])
    return command
