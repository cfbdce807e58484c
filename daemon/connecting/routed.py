"""Several servers behind one client: each command goes to the server that has its key.

All keys of a family carry its hash tag, so whatever concerns one family goes to one server. What has no key (the clock,
loading a script) goes where the other commands of its pipeline go.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Any, Self, TypeVar

from redis.commands import AsyncCoreCommands
from redis.exceptions import AskError, ClusterDownError, RedisError, TryAgainError, WatchError

T = TypeVar("T")
Item = TypeVar("Item")
Command = tuple[Any, ...]
#: What is done with a client of one server.
Call = Callable[[Any], Awaitable[T]]

#: A node of a cluster did not do it: its slot is elsewhere (MovedError is an AskError), moves, or has no node.
NOT_DONE = (AskError, TryAgainError, ClusterDownError)

_KEYLESS = {"PING", "TIME", "INFO", "SCRIPT", "CONFIG", "CLIENT", "DBSIZE", "ACL", "COMMAND", "CLUSTER", "LATENCY"}
_SCRIPTS = {"EVAL", "EVALSHA"}


def hash_tag(key: bytes) -> bytes:
    """Give what a key is placed by: what stands between its first braces, else all of it."""
    start = key.find(b"{")
    end = key.find(b"}", start + 1)
    return key[start + 1 : end] if 0 <= start < end - 1 else key


def key_of(command: Sequence[Any]) -> bytes | None:
    """Give the key a command is routed by, None for one that has none."""
    name = command[0].upper().partition(" ")[0]
    if name in _KEYLESS:
        return None
    if name in _SCRIPTS:
        keys = command[3:4] if int(command[2]) else ()
    elif name == "XREAD":
        keys = command[[_text(word).upper() for word in command].index("STREAMS") + 1 :][:1]
    else:
        # Ids without a tag may stand among a family's (stock arq's): its own say where they are.
        keys = sorted(command[1:], key=lambda word: not _tagged(word))[:1] if name == "MGET" else command[1:2]
    return _text(keys[0]).encode("utf-8", "surrogateescape") if keys else None


def _tagged(key: Any) -> bool:
    return "{" in _text(key)


def _text(word: Any) -> str:
    return word.decode("utf-8", "surrogateescape") if isinstance(word, bytes) else str(word)


class Routed(AsyncCoreCommands):
    """redis-py's commands on several servers. Used like its client, as far as arqd does."""

    #: The commands' protocol asks for it; there is no one pool here.
    connection_pool: Any = None

    @abstractmethod
    async def at(self, key: bytes | None, call: Call[T]) -> T:
        """Do something with a client of the server that has a key; of any server without one."""

    @abstractmethod
    async def node(self, key: bytes) -> Any:
        """Give a client of the server that has a key now, to talk to that one server."""

    @abstractmethod
    def lost(self, key: bytes) -> None:
        """Talking to that one server failed: find out anew where the key is."""

    @abstractmethod
    def place(self, key: bytes) -> Hashable:
        """Name where a key is: one blocking command can wait for several keys of the same place, and of no others."""

    @abstractmethod
    def single(self, key: bytes) -> Any:
        """Give the client of the server a key is on for good; None where it may move (Redis Cluster)."""

    @abstractmethod
    def name(self, key: bytes) -> str:
        """Name the server, or cluster, that has a key (see `name_of`)."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close every connection."""

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        return await self.at(key_of(command), lambda client: client.execute_command(*command, **options))

    def pipeline(self, transaction: bool = True) -> RoutedPipeline:
        return RoutedPipeline(self, transaction)


class RoutedPipeline(AsyncCoreCommands):
    """Commands that are sent together, to each place its own.

    Args:
        transaction: whether they are one: then they have to be of one place.
    """

    connection_pool: Any = None

    def __init__(self, client: Routed, transaction: bool) -> None:
        self._client = client
        self._transaction = transaction
        self._commands: list[tuple[Command, dict[str, Any]]] = []
        self._watching: Any = None
        self._watched = b""

    def execute_command(self, *command: Any, **options: Any) -> Any:
        if self._watching is not None:
            return self._watching.execute_command(*command, **options)
        self._commands.append((command, options))
        return self

    async def watch(self, *names: Any) -> None:  # type: ignore[override]
        """Watch keys of one place; what follows is done at once there, and from `multi` on collected."""
        self._watched = _text(names[0]).encode("utf-8", "surrogateescape")
        self._watching = (await self._client.node(self._watched)).pipeline(transaction=True)
        await self._watching.watch(*names)

    def multi(self) -> None:
        """Collect from here on."""
        self._watching.multi()

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send what was collected; give the replies in that order."""
        if self._watching is not None:
            done: list[Any] = await self._watching.execute(raise_on_error)
            return done
        commands, self._commands = self._commands, []
        groups: dict[Hashable, list[int]] = {}
        keys = [key_of(command) for command, _ in commands]
        # Whatever has no tag goes with what has one.
        leading = next((key for key in keys if key is not None and b"{" in key), next(filter(None, keys), None))
        for n, key in enumerate(keys):
            if key is None or (b"{" not in key and leading is not None and b"{" in leading and _of_arq(key)):
                keys[n] = key = leading
            groups.setdefault(None if key is None else self._client.place(key), []).append(n)
        replies: list[Any] = [None] * len(commands)

        async def send(numbers: list[int]) -> None:
            some = [commands[n] for n in numbers]
            found = await self._client.at(keys[numbers[0]], lambda client: self._together(client, some))
            for n, reply in zip(numbers, found, strict=True):
                # What was not done where it was sent goes where the key is now; the others were done.
                replies[n] = await self._again(commands[n]) if isinstance(reply, NOT_DONE) else reply

        await asyncio.gather(*map(send, groups.values()))
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies

    async def _again(self, command: tuple[Command, dict[str, Any]]) -> Any:
        try:
            return await self._client.execute_command(*command[0], **command[1])
        except RedisError as error:
            return error

    async def _together(self, client: Any, commands: list[tuple[Command, dict[str, Any]]]) -> list[Any]:
        async with client.pipeline(transaction=self._transaction) as pipe:
            for command, options in commands:
                pipe.execute_command(*command, **options)
            replies: list[Any] = await pipe.execute(raise_on_error=False)
        return replies

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self._commands)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._commands = []
        if self._watching is not None:
            watching, self._watching = self._watching, None
            if error is not None and not isinstance(error, WatchError):
                self._client.lost(self._watched)
            await watching.reset()


def _of_arq(key: bytes) -> bool:
    """Whether a key is one of a stock job with an id of its own choice."""
    return key.startswith(b"arq:")


def place_of(client: Any, key: str) -> Hashable:
    """Name where a key is (see `Routed.place`); of a client of one server everything is in one place."""
    # isinstance() asks protocols, which takes longer than all the rest.
    return client.place(key.encode()) if Routed in type(client).__mro__ else None


def by_place(client: Any, items: Iterable[Item], key: Callable[[Item], str]) -> dict[Hashable, list[Item]]:
    """Give what has keys by where these are (see `place_of`), in its order."""
    places: dict[Hashable, list[Item]] = {}
    for item in items:
        places.setdefault(place_of(client, key(item)), []).append(item)
    return places


async def at_key(client: Any, key: str, call: Call[T]) -> T:
    """Do something with a client of the server that has a key."""
    return await (client.at(key.encode(), call) if isinstance(client, Routed) else call(client))


async def node_of(client: Any, key: str) -> Any:
    """Give a client of the one server that has a key."""
    return await client.node(key.encode()) if isinstance(client, Routed) else client


def lost_node(client: Any, key: str) -> None:
    """Say that what `node_of` gave failed."""
    if isinstance(client, Routed):
        client.lost(key.encode())


def single_of(client: Any, key: str) -> Any:
    """Give redis-py's client of the server a key is on for good; None where it may move."""
    return client.single(key.encode()) if isinstance(client, Routed) else client


def in_cluster(client: Any, key: str) -> bool:
    """Whether a key is in a Redis Cluster."""
    return single_of(client, key) is None


def name_of(client: Any, key: str) -> str:
    """Name the server that has a key, without asking it: host and port, or the path of its socket.

    Of one that Sentinel watches it is ``service@host:port`` of a Sentinel, of a cluster its first known node.
    """
    return client.name(key.encode()) if isinstance(client, Routed) else server_name(client)


def server_name(client: Any) -> str:
    """Name the server of a client of one server (see `name_of`)."""
    pool = client.connection_pool
    watching = getattr(pool, "sentinel_manager", None)
    if watching is not None:
        return f"{pool.service_name}@{server_name(watching.sentinels[0])}"
    where = pool.connection_kwargs
    return str(where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}")
