"""A small server with a budget of bytes: results of more than it could ever hold pass through it.

``FULL_SERVER=1`` runs it with 64 MB and 30,000 jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from daemon.errors import QueueFull
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.producer import Producer
from tests.conftest import RedisServerFactory
from tests.engine import eventually, make_family, working

MB = 1_000_000
SERVER, BUDGET, JOBS = (64, 48, 30_000) if os.environ.get("FULL_SERVER") else (24, 18, 7_500)
RESULT = "r" * 20_000


async def make(ctx: object, job: dict[str, str]) -> str:
    return RESULT


class Watch:
    """The most memory the server used."""

    highest = 0

    async def look(self, redis: Redis) -> None:
        while True:
            self.highest = max(self.highest, (await redis.info("memory"))["used_memory"])
            await asyncio.sleep(0.002)


@asynccontextmanager
async def watched(redis: Redis) -> AsyncIterator[Watch]:
    watch = Watch()
    looking = asyncio.create_task(watch.look(redis))
    yield watch
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)


async def ooms(redis: Redis) -> int:
    """How many replies the server has refused for want of memory, whoever asked."""
    return int((await redis.info("errorstats")).get("errorstat_OOM", {}).get("count", 0))


@pytest.mark.timeout(300)
async def test_more_than_it_can_hold_passes_through(redis_server: RedisServerFactory) -> None:
    server = redis_server(maxmemory=f"{SERVER}mb", maxmemory_policy="noeviction")
    family = make_family("t", make, max_bytes=BUDGET * MB, keep_completed=None, max_jobs=20)
    payloads = [{"text": "p" * 3000}] * 100
    async with Producer.connect(server.url) as producer, watched(producer.redis) as watch:
        # The worker publishes the budget, and pauses.
        async with working(server.url, family):
            pass
        # What the server takes with nothing in it weighs more the smaller it is.
        empty = 0 if SERVER == 64 else watch.highest
        handed, refused = 0, 0
        with contextlib.suppress(QueueFull):
            while handed < JOBS:
                await producer.enqueue_many("make", payloads, family="t")
                handed += len(payloads)
        assert handed < JOBS, "nothing was refused"
        assert handed > 0.5 * BUDGET * MB / 4000
        async with working(server.url, family), Inspector.connect(server.url, ["t"]) as inspector:
            while handed < JOBS:
                try:
                    await producer.enqueue_many("make", payloads, family="t")
                    handed += len(payloads)
                except QueueFull as error:
                    refused += 1
                    await asyncio.sleep(min(error.retry_after, 0.2))

            async def done() -> bool:
                return (await inspector.queue("t")).totals.get("completed") == handed

            await eventually(done, 60)
            stats = await inspector.queue("t")
            assert (stats.waiting, stats.failed) == (0, 0)
            assert stats.completed > 0.5 * BUDGET * MB / 21_000, "what fits is kept"
            assert (stats.bytes or 0) <= BUDGET * MB
            assert (await inspector.jobs("t", JobState.COMPLETED, limit=1))[0].result == RESULT
        assert await ooms(producer.redis) == 0
    assert watch.highest - empty < 1.1 * BUDGET * MB, f"{watch.highest:,}"
    print(f"{handed} jobs, {refused} refusals, at most {watch.highest:,} bytes of {BUDGET * MB:,}")
