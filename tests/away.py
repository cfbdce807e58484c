"""Three servers for tests of what is seen where some are away: one answers, one was killed, one hangs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon.servers import Servers
from tests.servers import RedisServer

#: Where they are their names say; ``near`` and ``other`` are on the one that answers, as is what belongs to no family.
FAMILIES = ("gone", "near", "other", "stuck")


@contextmanager
def near_gone_stuck(folder: Callable[[], Path]) -> Iterator[Servers]:
    """Start them, and end two of them in their ways."""
    near, gone, stuck = servers = [RedisServer(folder()).start() for _ in range(3)]
    try:
        gone.kill()
        stuck.pause()
        yield Servers(near.url, {"gone": gone.url, "stuck": stuck.url})
    finally:
        for server in servers:
            server.kill()
