"""What is warmed: values in Redis, as JSON, that readers find without ever waiting for the source."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Mapping
from typing import Any

from daemon import codec
from daemon.dotted import resolve
from daemon.errors import ConfigurationError, PermanentError

#: Deletes a lock if it is still its holder's.
_UNLOCK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class UnknownSource(PermanentError):
    """There is no data source of this name: see ARQD_MAINTENANCE__SOURCES."""


class Cache:
    """Warms keys.

    Args:
        prefix: what the keys in Redis begin with.
        sources: name to ``module:function``, a function of the job's context, asynchronous or not, that gives what
            JSON can carry.

    Raises:
        ConfigurationError: when one of them cannot be imported or called.
    """

    def __init__(self, prefix: str, sources: Mapping[str, str]) -> None:
        self._prefix = prefix
        self._sources = {name.lower(): resolve(dotted) for name, dotted in sources.items()}
        for name, source in self._sources.items():
            if not callable(source):
                raise ConfigurationError(f"ARQD_MAINTENANCE__SOURCES: {sources.get(name)} of {name} is no function")

    async def warm(self, ctx: Any, key: str, source: str, ttl: float) -> int | None:
        """Write what a source gives now; the old value stays until then, and if the source fails.

        Only one at a time asks the source for a key, however many jobs or processes want to.

        Returns:
            How many bytes were written; None when another one was at it.

        Raises:
            UnknownSource: permanent.
        """
        function = self._sources.get(source.lower())
        if function is None:
            known = ", ".join(self._sources) or "none"
            raise UnknownSource(f"there is no data source {source[:40]!r}: known are {known}")
        place, lock, holder = self._prefix + key, f"{self._prefix}{key}:warming", secrets.token_hex(8)
        if not await ctx.redis.set(lock, holder, nx=True, px=max(1000, round(ctx.remaining * 1000))):
            return None
        try:
            value = function(ctx)
            value = await value if inspect.isawaitable(value) else value
            data = codec.encode(value, f"what {source} gives")
            await ctx.redis.set(place, data, px=round(ttl * 1000))
        finally:
            await ctx.redis.eval(_UNLOCK, 1, lock, holder)
        return len(data)
