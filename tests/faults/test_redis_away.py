"""Redis dies, hangs, comes back: no job is lost, none runs twice, and whoever waits hears of it."""

from __future__ import annotations

import asyncio
import time

import pytest

from daemon.errors import RedisUnavailable
from daemon.job import JobState
from daemon.producer import JobHandle, Producer, SyncProducer
from tests.faults.conftest import WorkshopFactory
from tests.faults.family import Done, Hold, Work
from tests.faults.figures import within
from tests.faults.workshop import KEYS, CrashCounts, WorkerProcess, Workshop
from tests.servers import KEPT

LEASE = 2
COUNT = 120


async def at_work(shop: Workshop, producer: Producer) -> tuple[JobHandle, list[JobHandle]]:
    """Start two workers on many short jobs and a held one; return in mid-run."""
    workers: list[WorkerProcess] = [shop.start(), shop.start()]
    await shop.ready(*workers)
    held = await producer.enqueue(Hold(name="held"))
    await shop.until_started("held")
    jobs = await producer.enqueue_many([Work(name=str(n), seconds=0.15) for n in range(COUNT)])
    await shop.until(lambda: len(shop.events("end")) >= 20, "the workers are at work")
    return held, jobs


async def all_done_once(shop: Workshop, held: JobHandle, jobs: list[JobHandle], counts: CrashCounts) -> None:
    """Check that every job ends well, and has run once."""
    done = await asyncio.gather(*(job.result(timeout=60) for job in jobs), held.result(timeout=60))
    assert [result.name for result in done] == [*map(str, range(COUNT)), "held"]
    assert {name: times for name, times in shop.starts().items() if times != 1} == {}
    assert counts.highest == {}
    assert not shop.events("cancelled")
    assert all(worker.status is None for worker in shop.workers)
    queue = await shop.queue()
    print(f"\nRedis away and back: {len(done)} jobs, 0 lost, 0 twice, {len(shop.workers)} workers, 0 deaths")
    assert (queue.completed, queue.waiting, queue.active, queue.failed) == (COUNT + 1, 0, 0, 0)


@pytest.mark.parametrize("seconds", [0.5, 1.5 * LEASE])
async def test_redis_is_killed_and_comes_back(workshop: WorkshopFactory, seconds: float) -> None:
    shop = workshop(lease=LEASE, redis=KEPT)
    async with shop.producer() as producer, CrashCounts(shop.server) as counts:
        held, jobs = await at_work(shop, producer)
        shop.server.kill()
        away = time.monotonic() + seconds
        # It ends while nobody can be told.
        shop.release("held")
        await shop.until(lambda: shop.events("end", "held"), "the held job ends")
        await shop.until(lambda: time.monotonic() > away, "Redis has been away")
        shop.server.start()
        await all_done_once(shop, held, jobs, counts)


# The clients' own time limit is 5 s: after it, they have given up calls that the server still finds when it wakes.
@pytest.mark.parametrize("seconds", [0.6 * LEASE, 1.6 * LEASE, 6.5])
async def test_redis_hangs_and_goes_on(workshop: WorkshopFactory, seconds: float) -> None:
    shop = workshop(lease=LEASE)
    async with shop.producer() as producer, CrashCounts(shop.server) as counts:
        held, jobs = await at_work(shop, producer)
        shop.server.pause()
        away = time.monotonic() + seconds
        shop.release("held")
        await shop.until(lambda: shop.events("end", "held"), "the held job ends")
        await shop.until(lambda: time.monotonic() > away, "Redis has been away")
        shop.server.resume()
        await all_done_once(shop, held, jobs, counts)


async def test_a_worker_that_dies_with_redis_loses_its_jobs_a_lease_later(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=LEASE, redis=KEPT)
    async with shop.producer() as producer:
        first = await shop.started()
        job = await producer.enqueue(Hold(name="job"))
        await shop.until_started("job", worker=first)
        shop.server.kill()
        first.kill()
        shop.release("job")
        second = shop.start()
        await shop.until(lambda: "cannot be reached" in second.log.read_text(), "it tries")
        shop.server.start()
        await shop.ready(second)
        assert await job.result(timeout=3 * LEASE + 5) == Done(name="job", pid=second.pid)
    assert shop.starts() == {"job": 2}


def _waited_for(shop: Workshop) -> list[bytes]:
    with shop.server.client() as redis:
        return list(redis.hkeys(KEYS.key("waiters")))


async def test_who_waits_for_a_result_gets_it_over_a_restart(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=LEASE, redis=KEPT)
    async with shop.producer() as producer:
        worker = await shop.started()
        first, second = await producer.enqueue_many([Hold(name="first"), Hold(name="second")])
        waiting = [asyncio.create_task(job.result(timeout=100)) for job in (first, second)]
        await shop.until(lambda: len(_waited_for(shop)) == 2, "Redis knows who waits")
        await shop.until_started("first", "second")
        shop.server.kill()
        # One ends while Redis is away, one long after.
        shop.release("first")
        await shop.until(lambda: shop.events("end", "first"), "the first job ends")
        shop.server.start()
        assert await waiting[0] == Done(name="first", pid=worker.pid)
        assert await second.status() is JobState.ACTIVE
        shop.release("second")
        assert await waiting[1] == Done(name="second", pid=worker.pid)


async def test_who_waits_without_an_event_loop_gets_it_over_a_restart(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=LEASE, redis=KEPT)
    worker = await shop.started()
    with SyncProducer.connect(shop.server.url) as producer:
        job = producer.enqueue(Hold(name="job"))
        waiting = asyncio.create_task(asyncio.to_thread(job.result, 30))
        await shop.until(lambda: _waited_for(shop), "Redis knows who waits")
        await shop.until_started("job")
        shop.server.kill()
        shop.server.start()
        shop.release("job")
        assert await waiting == Done(name="job", pid=worker.pid)


@pytest.mark.parametrize("connected", [True, False], ids=["connection-lost", "never-connected"])
async def test_enqueue_without_redis_says_so_at_once(workshop: WorkshopFactory, connected: bool) -> None:
    shop = workshop()
    async with shop.producer() as producer:
        if connected:
            await producer.enqueue(Work(name="before"))
        shop.server.kill()
        began = time.monotonic()
        with pytest.raises(RedisUnavailable, match=r"Redis cannot be reached \(.*\): check ARQD_REDIS_URL"):
            await producer.enqueue(Work(name="away"))
        with pytest.raises(RedisUnavailable):
            await producer.enqueue_many([Work(name="away")] * 3000)
        within("enqueue without Redis is refused after", time.monotonic() - began, 3)
        shop.server.start()
        assert (await producer.enqueue(Work(name="after"))).created


async def test_asking_for_a_result_without_redis_says_so(workshop: WorkshopFactory) -> None:
    shop = workshop()
    async with shop.producer() as producer:
        job = await producer.enqueue(Work(name="before"))
        shop.server.kill()
        with pytest.raises(RedisUnavailable):
            await job.result(timeout=1)
        with pytest.raises(RedisUnavailable):
            await job.status()


async def test_who_waits_for_a_result_that_redis_does_not_come_back_with_is_told_so(workshop: WorkshopFactory) -> None:
    shop = workshop()
    async with shop.producer() as producer:
        job = await producer.enqueue(Work(name="job"))
        waiting = asyncio.create_task(job.result(timeout=4))
        await shop.until(lambda: _waited_for(shop), "Redis knows who waits")
        shop.server.kill()
        with pytest.raises(RedisUnavailable):
            await waiting


async def test_who_asks_for_a_result_before_redis_is_back_gets_it(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=LEASE, redis=KEPT)
    async with shop.producer() as producer:
        worker = await shop.started()
        job = await producer.enqueue(Work(name="job"))
        await shop.until(lambda: shop.events("end", "job"), "the job ends")
        shop.server.kill()
        waiting = asyncio.create_task(job.result(timeout=100))
        await asyncio.sleep(0)
        shop.server.start()
        assert await waiting == Done(name="job", pid=worker.pid)


async def test_a_worker_started_before_redis_waits_for_it(workshop: WorkshopFactory) -> None:
    shop = workshop()
    shop.server.kill()
    worker = shop.start()
    await shop.until(lambda: "cannot be reached" in worker.log.read_text(), "it tells that Redis is away")
    shop.server.start()
    async with shop.producer() as producer:
        job = await producer.enqueue(Work(name="job"))
        assert (await job.result(timeout=60)).pid == worker.pid
