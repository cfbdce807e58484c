"""Sentinels that are asked for the primary with each new connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from daemon.connecting.connections import connect
from tests.servers import SentinelServers


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelServers]:
    servers = SentinelServers(tmp_path_factory.mktemp("sentinel"), replicas=0).start()
    yield servers
    servers.kill()


async def test_whoever_is_cancelled_while_the_primary_is_looked_for_hears_of_it(sentinel: SentinelServers) -> None:
    client = connect(sentinel.url)
    cancelled = 0
    for steps in range(100):
        await client.connection_pool.disconnect()
        call = asyncio.create_task(client.ping())
        for _ in range(steps):
            await asyncio.sleep(0)
        cancelled += call.cancel()
        await asyncio.wait({call})
        assert call.cancelled() or not call.cancelling(), f"after {steps} steps"
    assert cancelled > 5
    await client.aclose()
