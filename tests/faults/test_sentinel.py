"""A primary watched by Sentinel stalls, is replaced, and returns as if nothing had happened."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis import exceptions
from redis.sentinel import MasterNotFoundError

from tests.faults.family import Work
from tests.faults.figures import within
from tests.faults.workshop import Workshop
from tests.servers import SentinelServers

COUNT = 120


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Workshop]:
    servers = SentinelServers(tmp_path, down_ms=1000)
    servers.start()
    made = Workshop(servers, tmp_path, {"lease": 10, "max_jobs": 5})
    yield made
    made.close()
    assert await made.leaks() == {}
    servers.kill()


@pytest.mark.slow
@pytest.mark.timeout(480)
async def test_a_primary_that_stalls_is_replaced_and_returns(shop: Workshop) -> None:
    servers = shop.server
    assert isinstance(servers, SentinelServers)
    async with shop.producer() as producer:
        workers = [await shop.started(), await shop.started()]
        jobs = await producer.enqueue_many([Work(name=str(n), seconds=0.1) for n in range(COUNT)])
        await shop.until(lambda: len(shop.events("end")) >= 20, "the workers are at work")
        old = servers.primary()
        with old.client() as redis:
            redis.wait(1, 2000)
        old.pause()

        def replaced() -> bool:
            with contextlib.suppress(MasterNotFoundError):
                return servers.primary() is not old
            return False

        await shop.until(replaced, "another server is promoted", 30)
        promoted = time.time()
        event = await shop.until(
            lambda: next((event for event in shop.events("start") if event.at > promoted), None), "jobs start again", 30
        )
        old.resume()
        await asyncio.gather(*(job.result(timeout=90) for job in jobs))

        def demoted() -> bool:
            # Sentinel closes its clients' connections when it makes it a replica.
            with contextlib.suppress(exceptions.ConnectionError), old.client() as redis:
                return str(redis.info("replication")["role"]) == "slave"
            return False

        await shop.until(demoted, "the old primary follows the new one", 30)
        assert (await (await producer.enqueue(Work(name="after"))).result(timeout=60)).name == "after"
    twice = sum(times > 1 for times in shop.starts().values())
    what = f"the primary stalls and returns: {COUNT} jobs, 0 lost, {twice} twice, 0 deaths; jobs start again after"
    within(what, event.at - promoted, 3)
    assert [worker.status for worker in workers] == [None, None]
    assert twice <= 10, "what ran when it stalled, at most"
