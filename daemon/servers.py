"""Families on several Redis servers: which family is where."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from daemon.connecting.routed import Call, Routed, T, hash_tag, server_name


@dataclass(frozen=True, slots=True)
class Servers:
    """Where each family is: in ``families``, else on ``default``, as is what belongs to none (docs/topologies.md).

    Both are URLs as `daemon.connecting.connections.connect` takes them; it takes this in the place of one, too.
    """

    # Passwords may stand in them.
    default: str = field(repr=False)
    families: Mapping[str, str] = field(default_factory=dict, repr=False)

    def of(self, key: str) -> str:
        """Give the URL of the server a key is on."""
        return self.families.get(_family(key.encode()), self.default)

    def by_url(self) -> dict[str, list[str]]:
        """Give the URLs, the default first, with the families that were given them."""
        urls: dict[str, list[str]] = {self.default: []}
        for family, url in self.families.items():
            urls.setdefault(url, []).append(family)
        return urls


#: One server (Sentinel, cluster), or several.
RedisUrl = str | Servers


def url_of(url: RedisUrl, key: str) -> str:
    """Give the URL of the server a key is on."""
    return url if isinstance(url, str) else url.of(key)


def _family(key: bytes) -> str:
    return hash_tag(key).decode("utf-8", "surrogateescape")


class Spread(Routed):
    """Clients of several servers.

    Args:
        default: a client of the server that has what is nowhere else.
        families: clients by family.
    """

    def __init__(self, default: Any, families: Mapping[str, Any]) -> None:
        self._default = default
        self._families = families

    def client(self, key: bytes | None) -> Any:
        """Give the client of the server, or cluster, that has a key."""
        return self._default if key is None else self._families.get(_family(key), self._default)

    async def at(self, key: bytes | None, call: Call[T]) -> T:
        client = self.client(key)
        return await (client.at(key, call) if isinstance(client, Routed) else call(client))

    async def node(self, key: bytes) -> Any:
        client = self.client(key)
        return await client.node(key) if isinstance(client, Routed) else client

    def place(self, key: bytes) -> Hashable:
        client = self.client(key)
        return (id(client), client.place(key) if isinstance(client, Routed) else None)

    def single(self, key: bytes) -> Any:
        client = self.client(key)
        return client.single(key) if isinstance(client, Routed) else client

    def name(self, key: bytes) -> str:
        client = self.client(key)
        return client.name(key) if isinstance(client, Routed) else server_name(client)

    def lost(self, key: bytes) -> None:
        client = self.client(key)
        if isinstance(client, Routed):
            client.lost(key)

    async def aclose(self) -> None:
        for client in {id(client): client for client in (self._default, *self._families.values())}.values():
            await client.aclose()
