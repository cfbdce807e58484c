"""A rolling deploy: workers of two releases side by side, and jobs only one of them can run."""

from __future__ import annotations

import asyncio

from daemon.context import JobContext
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.producer import Producer
from tests.engine import eventually, in_state, make_family, working


async def old(ctx: JobContext, n: int) -> int:
    return n


async def new(ctx: JobContext, n: int) -> int:
    return -n


async def test_jobs_of_a_new_function_all_run_where_it_is_known(redis_url: str, producer: Producer) -> None:
    async with working(redis_url, make_family("t", old)), working(redis_url, make_family("t", old, new)):
        jobs = []
        for number in range(100):
            jobs.append(await producer.enqueue("new", [number], family="t"))
            jobs.append(await producer.enqueue("old", [number], family="t"))
        results = await asyncio.gather(*(job.result(20) for job in jobs))
    assert results == [value for number in range(100) for value in (-number, number)]
    stats = await Inspector(producer.redis, ["t"]).queue("t")
    assert (stats.failed, stats.parked, stats.totals["completed"]) == (0, 0, 200)
    assert not await producer.redis.exists("{t}:parked", "{t}:parked:new")


async def test_what_is_parked_is_listed_counted_and_no_backlog(redis_url: str, producer: Producer) -> None:
    inspector = Inspector(producer.redis, ["t"])
    async with working(redis_url, make_family("t", old)):
        job = await producer.enqueue("new", [1], family="t")
        await in_state(job, JobState.PARKED)
        (listed,) = await inspector.jobs("t", "parked")
        assert (listed.id, listed.function, listed.note) == (job.id, "new", "no worker knows the function 'new'")
        stats, backlog = await inspector.queue("t"), await inspector.backlog("t")
        assert (stats.parked, stats.waiting, backlog["backlog"], backlog["load"]) == (1, 0, 0, 0)


async def test_what_is_parked_can_be_aborted(redis_url: str, producer: Producer) -> None:
    async with working(redis_url, make_family("t", old, lease=1)):
        job = await producer.enqueue("new", [1], family="t")
        await in_state(job, JobState.PARKED)
        assert await job.abort()
        assert await job.status() is JobState.ABORTED

        async def forgotten() -> bool:
            return not await producer.redis.exists("{t}:parked", "{t}:parked:new")

        await eventually(forgotten, 15)
