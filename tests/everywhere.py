"""What tests ask of all of Redis, asked of every node of a cluster: ``pytest --server cluster`` puts it in place.

arqd itself never asks for the keys there are, or for anything else of a whole cluster.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any

from daemon.connecting.cluster import Cluster


def _joined(replies: list[Any]) -> Any:
    return [each for reply in replies for each in reply]


def _added(replies: list[dict[str, Any]]) -> dict[str, Any]:
    """Add what INFO counts; what it says in words is the first node's."""
    merged: dict[str, Any] = dict(replies[0])
    for reply in replies[1:]:
        for name, value in reply.items():
            if isinstance(value, dict):
                before = merged.get(name, {})
                merged[name] = {key: n + before.get(key, 0) for key, n in value.items() if isinstance(n, int | float)}
            elif isinstance(value, int) and name != "uptime_in_seconds":
                merged[name] = merged.get(name, 0) + value
    return merged


#: How the nodes' replies become one.
MERGED: dict[str, Callable[[list[Any]], Any]] = {
    "KEYS": _joined,
    "CLIENT LIST": _joined,
    "DBSIZE": sum,
    "SCRIPT EXISTS": lambda replies: [any(found) for found in zip(*replies, strict=True)],
    "INFO": _added,
    **dict.fromkeys(
        ("FLUSHALL", "CONFIG SET", "CONFIG RESETSTAT", "CLIENT PAUSE", "SCRIPT FLUSH"),
        lambda replies: replies[0],
    ),
}


def ask_every_node() -> None:
    """Let the cluster client answer for all nodes."""
    one = Cluster.execute_command

    async def execute_command(self: Cluster, *command: Any, **options: Any) -> Any:
        name = command[0].upper()
        if name == "SCAN":
            # In one go: a cursor is of one node.
            pattern = command[command.index(b"MATCH") + 1] if b"MATCH" in command else "*"
            keys = await execute_command(self, "KEYS", "*")
            return 0, [key for key in keys if fnmatch.fnmatchcase(key.decode(), pattern)]
        if name not in MERGED or (name == "KEYS" and str(command[1]).startswith("{") and "*}" not in str(command[1])):
            return await one(self, *command, **options)
        nodes = (await self.primaries()).values()
        return MERGED[name]([await node.execute_command(*command, **options) for node in nodes])

    Cluster.execute_command = execute_command  # type: ignore[method-assign]
