"""A Redis Cluster: which node has a slot, and what to do when it has moved.

redis-py's own cluster client is not used: it sends a call whose reply was lost once more by itself, which would be a
second call of a worker or a producer that has to know of it, and it has neither blocking pops that can be ended nor a
connection of one's own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, ConnectionError, MovedError, ResponseError, TryAgainError

from daemon.connecting.connections import LOST
from daemon.connecting.routed import Call, Routed
from daemon.errors import ConfigurationError

T = TypeVar("T")
Address = tuple[str, int]
SLOTS = 16384
#: Pauses between tries while a slot moves or the cluster is down, and between two looks at the map, seconds.
AGAIN_SECONDS, LONGEST_PAUSE, LOOK_AGAIN_SECONDS = 0.01, 0.2, 0.1
#: How long one node may take to tell the map.
MAP_SECONDS = 2.0


class Cluster(Routed):
    """The nodes of a cluster.

    A call that was not done (its slot has moved, moves, or the cluster is down) is made again, where its slot is now,
    for up to ``timeout`` seconds. After a lost connection nobody knows whether a call was done: that is the caller's to
    decide, and the next one finds out anew where everything is.

    Args:
        seeds: nodes to ask first.
        open_node: opens a client of a node.
        timeout: seconds.
    """

    def __init__(self, seeds: Sequence[Address], open_node: Callable[[Address], Any], timeout: float) -> None:
        self._seeds = list(seeds)
        self._open = open_node
        self._timeout = timeout
        self._nodes: dict[Address, Any] = {}
        self._owners: list[Address | None] = [None] * SLOTS
        self._looked = 0.0
        self._stale = True
        self._looking = asyncio.Lock()

    # ------------------------------------------------------------------ commands

    async def at(self, key: bytes | None, call: Call[T]) -> T:
        until, pause = time.monotonic() + self._timeout, AGAIN_SECONDS
        asked: Address | None = None
        while True:
            address = asked or await self._owner(key)
            client = self._client(address)
            try:
                return await call(client if asked is None else _Asking(client))
            except MovedError as error:
                asked = None
                self._owners[error.slot_id] = _target(error, address)
                if time.monotonic() > until:
                    raise
            except AskError as error:
                asked = _target(error, address)
                if time.monotonic() > until:
                    raise
            except (TryAgainError, ClusterDownError):
                asked, self._stale = None, True
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            except LOST:
                self._lost(address)
                raise

    async def node(self, key: bytes) -> Any:
        return self._client(await self._owner(key))

    def place(self, key: bytes) -> Hashable:
        return key_slot(key)

    def single(self, key: bytes) -> Any:
        return None

    def name(self, key: bytes) -> str:
        return "{}:{}".format(*self._seeds[0])

    async def aclose(self) -> None:
        nodes, self._nodes = self._nodes, {}
        for client in nodes.values():
            await client.aclose()

    # ------------------------------------------------------------------ the map

    async def primaries(self) -> dict[Address, Any]:
        """Give a client of every node that has slots."""
        await self._look()
        return {address: self._client(address) for address in sorted({owner for owner in self._owners if owner})}

    def lost(self, key: bytes) -> None:
        self._stale = True

    def _lost(self, address: Address) -> None:
        self._stale = True
        # The one that may be dead is asked last.
        if address in self._nodes:
            self._nodes[address] = self._nodes.pop(address)

    def owner(self, slot: int) -> Address | None:
        """Give the node that has a slot, as far as it is known."""
        return self._owners[slot]

    async def _owner(self, key: bytes | None) -> Address:
        if self._stale:
            await self._look()
        if key is None:
            return next((owner for owner in self._owners if owner), self._seeds[0])
        owner = self._owners[key_slot(key)]
        if owner is None:
            self._stale = True
            raise _uncovered()
        return owner

    def _client(self, address: Address) -> Any:
        client = self._nodes.get(address)
        if client is None:
            client = self._nodes[address] = self._open(address)
        return client

    async def _look(self) -> None:
        """Ask the nodes, one after the other, who has what."""
        async with self._looking:
            if not self._stale:
                return
            await asyncio.sleep(max(0.0, self._looked + LOOK_AGAIN_SECONDS - time.monotonic()))
            failure: Exception = ConnectionError("no node of the cluster is known")
            for address in dict.fromkeys((*self._nodes, *self._seeds)):
                try:
                    async with asyncio.timeout(MAP_SECONDS):
                        found = await self._client(address).execute_command("CLUSTER SLOTS")
                except LOST as error:
                    failure = error
                except ResponseError as error:
                    raise _no_cluster(error) from None
                else:
                    self._owners = owners_of(found, address)
                    self._stale = False
                    await self._forget({*self._seeds, *(owner for owner in self._owners if owner)})
                    break
            self._looked = time.monotonic()
            if self._stale:
                raise failure

    async def _forget(self, known: set[Address]) -> None:
        for address in [address for address in self._nodes if address not in known]:
            # Commands that are under way there are not disturbed: their connections are closed with the client.
            client = self._nodes.pop(address)
            await client.connection_pool.disconnect(inuse_connections=False)


class _Asking:
    """A client of a node that is about to get a slot: it does what is asked for only after ASKING."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.execute_command("ASKING")
            pipe.execute_command(*command, **options)
            reply = (await pipe.execute(raise_on_error=False))[1]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def pipeline(self, transaction: bool) -> Any:
        # A transaction waits until its slot has moved; other pipelines send what was not done one by one.
        raise TryAgainError


def _uncovered() -> ClusterDownError:
    return ClusterDownError("no node of the cluster has this slot")  # type: ignore[no-untyped-call]


def _target(error: AskError, asked: Address) -> Address:
    return error.host or asked[0], error.port


def _no_cluster(error: ResponseError) -> Exception:
    if "cluster support disabled" in str(error):
        return ConfigurationError("this server is no Redis Cluster: use redis:// in place of redis+cluster://")
    return error


def owners_of(slots: Sequence[Any], asked: Address) -> list[Address | None]:
    """Read CLUSTER SLOTS; a node that does not know its own address is the one that was ``asked``."""
    owners: list[Address | None] = [None] * SLOTS
    for first, last, (host, port, *_), *_ in slots:
        name = host.decode() if isinstance(host, bytes) else host
        owner = (asked[0] if name in (None, "", "?") else name, int(port))
        owners[first : last + 1] = [owner] * (last - first + 1)
    return owners


def owner_of(slots: Sequence[Any], asked: Address, key: str) -> Address:
    """Give the node that has a key by CLUSTER SLOTS."""
    owner = owners_of(slots, asked)[key_slot(key.encode())]
    if owner is None:
        raise _uncovered()
    return owner
