"""Fixtures of the script tests: an engine on the shared server, and one on a server that can be filled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from arq.connections import ArqRedis

from daemon.connecting.connections import connect
from tests.conftest import RedisServerFactory
from tests.lua.state import A, Engine

Fill = Callable[[], Awaitable[None]]


def _client(url: str) -> Any:
    return connect(url, redis_class=ArqRedis)


@pytest.fixture
async def engine(redis_url: str) -> AsyncIterator[Engine]:
    """A family with one registered session, `A`, on an empty server; its clock stands still."""
    redis = _client(redis_url)
    made = Engine(redis)
    await made.sync(A)
    yield made
    await redis.aclose()


@pytest.fixture
async def full(redis_server: RedisServerFactory) -> AsyncIterator[tuple[Engine, Fill]]:
    """An engine on a server of its own, and the call that leaves it no memory for another key."""
    redis = _client(redis_server(maxmemory="100mb", maxmemory_policy="noeviction").url)
    made = Engine(redis)
    await made.sync(A)

    async def fill() -> None:
        await redis.config_set("maxmemory", 1)

    yield made, fill
    await redis.aclose()
