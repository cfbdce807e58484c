"""What the Redis servers of some families tell of themselves: memory, connections, time spent in scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoPermissionError

from daemon.connecting.routed import node_of, place_of, server_name
from daemon.keys import FamilyKeys

#: One at a time: Redis 6.2 takes no more.
_SECTIONS = ("memory", "clients", "commandstats")
_SCRIPTS = ("cmdstat_eval", "cmdstat_evalsha")


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server.

    Attributes:
        name: host and port, or the path of its socket.
        used, limit: bytes of memory in use and allowed (0: any number).
        evicts: whether it drops keys instead of refusing to write.
        connections: clients connected now.
        script_calls, script_seconds: scripts called since it started, and the time they took.
    """

    name: str
    used: int
    limit: int
    evicts: bool
    connections: int
    script_calls: int
    script_seconds: float

    @property
    def full(self) -> bool:
        """Whether it refuses to write for want of memory."""
        return 0 < self.limit <= self.used and not self.evicts


async def read_servers(redis: Any, families: Sequence[FamilyKeys]) -> list[ServerInfo]:
    """Give each server that these families are on; one that this user may not ask (``INFO``) is left out."""
    nodes: dict[str, Any] = {}
    for keys in {place_of(redis, keys.queue): keys for keys in families}.values():
        node = await node_of(redis, keys.queue)
        # In a cluster every family has a slot of its own, and several slots are on one node.
        nodes.setdefault(server_name(node), node)
    return [info for name, node in nodes.items() if (info := await _read(name, node)) is not None]


async def _read(name: str, node: Any) -> ServerInfo | None:
    async with node.pipeline(transaction=False) as pipe:
        for section in _SECTIONS:
            pipe.info(section)
        try:
            memory, clients, commands = await pipe.execute()
        except NoPermissionError:
            return None
    scripts = [commands[command] for command in _SCRIPTS if command in commands]
    return ServerInfo(
        name,
        int(memory["used_memory"]),
        int(memory.get("maxmemory", 0)),
        memory.get("maxmemory_policy", "noeviction") != "noeviction",
        int(clients["connected_clients"]),
        sum(int(each["calls"]) for each in scripts),
        sum(int(each["usec"]) for each in scripts) / 1e6,
    )
