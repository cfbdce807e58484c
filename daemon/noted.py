"""Families noted in sets of their own (those with schedules, with flows, with a search index), read together.

Mostly there are none, and then one `EXISTS` says so for all sets of one place.
"""

from __future__ import annotations

import time
from typing import Any

from daemon.connecting.routed import place_of


class Noted:
    """What stands in some sets.

    Args:
        redis: an asynchronous redis-py client without response decoding.
        keys: of the sets.
        seconds: for how long what was read is good enough.
    """

    def __init__(self, redis: Any, *keys: str, seconds: float) -> None:
        self._redis = redis
        self._keys = keys
        self._seconds = seconds
        self._until = 0.0
        self._found: dict[str, list[str]] = {}

    async def families(self, key: str) -> list[str]:
        """Give the families in one of the sets."""
        if time.monotonic() >= self._until:
            await self.look()
        return self._found.get(key, [])

    async def look(self) -> None:
        """Read them now."""
        self._found = await self._read()
        self._until = time.monotonic() + self._seconds

    async def _read(self) -> dict[str, list[str]]:
        together = len({place_of(self._redis, key) for key in self._keys}) == 1
        if together and not await self._redis.exists(*self._keys):
            return {}
        return {key: [name.decode() for name in await self._redis.smembers(key)] for key in self._keys}
