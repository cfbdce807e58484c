"""SIGTERM drains a worker: what runs may end, the rest goes back at once and uncounted."""

from __future__ import annotations

import asyncio
import signal

from daemon.job import JobState
from daemon.producer import JobHandle
from tests.faults.conftest import WorkshopFactory
from tests.faults.family import Cling, Crunch, Done, Hold, Plain, Work
from tests.faults.figures import within
from tests.faults.workshop import WorkerProcess, Workshop

#: A job that is back sooner than this was handed back: it did not wait for the end of a lease.
LEASE = 60


async def drained(shop: Workshop, worker: WorkerProcess, number: signal.Signals = signal.SIGTERM) -> None:
    """Tell a worker to drain and wait until it does."""
    worker.send(number)
    await shop.until(lambda: worker.state == "draining", "the worker drains")


async def test_a_running_job_may_end_and_nothing_more_is_claimed(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=LEASE, drain_timeout=200)
    async with shop.producer() as producer:
        first = await shop.started()
        short = await producer.enqueue(Hold(name="short"))
        await shop.until_started("short")
        await drained(shop, first)
        late = await producer.enqueue(Work(name="late"))
        second = await shop.started()
        assert (await late.result(timeout=40)).pid == second.pid
        assert first.status is None
        shop.release("short")
        assert await short.result(timeout=40) == Done(name="short", pid=first.pid)
        assert await shop.ended(first, 5) == 0
    assert shop.starts() == {"short": 1, "late": 1}
    assert not shop.events("cancelled")


async def test_workers_replaced_one_after_the_other_under_load(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=LEASE, drain_timeout=30, max_jobs=5)
    async with shop.producer() as producer:
        workers = [await shop.started(), await shop.started()]
        jobs: list[JobHandle] = []
        for old in workers:
            # More for each: what there was may have ended before a new worker has started.
            jobs += await producer.enqueue_many(
                [Work(name=str(n), seconds=0.1 + n % 5 * 0.05) for n in range(len(jobs), len(jobs) + 100)]
            )
            await shop.until(lambda worker=old: shop.running(worker), "the worker is at work")
            old.send(signal.SIGTERM)
            await shop.started()
            assert await shop.ended(old, 10) == 0
        await asyncio.gather(*(job.result(timeout=40) for job in jobs))
    twice = sum(times > 1 for times in shop.starts().values())
    print(f"\nrolling SIGTERM under load: {len(jobs)} jobs, 0 lost, {twice} twice, none cancelled")
    assert twice == 0
    assert not shop.events("cancelled")
    totals = (await shop.queue()).totals
    assert (totals["completed"], totals.get("retried", 0)) == (len(jobs), 0)


async def test_what_has_not_ended_in_time_is_handed_back_at_once_and_uncounted(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=LEASE, drain_timeout=2)
    async with shop.producer() as producer:
        first = await shop.started()
        long = await producer.enqueue(Hold(name="long"))
        await shop.until_started("long")
        second = await shop.started()
        await drained(shop, first)
        await shop.until_started("long", worker=second, seconds=6)
        info = await long.info()
        assert (info.state, info.tries, info.crashes) == (JobState.ACTIVE, 0, 0)
        assert await shop.ended(first, 5) == 0
        shop.release("long")
        assert (await long.result(timeout=40)).pid == second.pid
    start, again = shop.events("start", "long")
    (cancelled,) = shop.events("cancelled", "long")
    assert (start.job_try, again.job_try) == (1, 1)
    assert cancelled.pid == first.pid
    assert cancelled.at - start.at > 1.5
    within("SIGTERM past the grace: handed back, uncounted, and started elsewhere after", again.at - cancelled.at, 2)
    totals = (await shop.queue()).totals
    assert (totals["released"], totals.get("retried", 0), totals["completed"]) == (1, 0, 1)


async def test_a_second_sigterm_is_immediate(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=LEASE, drain_timeout=60)
    async with shop.producer() as producer:
        first = await shop.started()
        long = await producer.enqueue(Hold(name="long"))
        await shop.until_started("long")
        await drained(shop, first)
        first.send(signal.SIGTERM)
        assert await shop.ended(first, 4) == 0
        assert await long.status() is JobState.WAITING
        assert (await shop.queue()).workers == 0


async def test_sigint_drains_too(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=LEASE, drain_timeout=60)
    async with shop.producer() as producer:
        first = await shop.started()
        job = await producer.enqueue(Hold(name="job"))
        await shop.until_started("job")
        await drained(shop, first, signal.SIGINT)
        shop.release("job")
        assert await job.result(timeout=40) == Done(name="job", pid=first.pid)
        assert await shop.ended(first, 5) == 0


async def test_an_idle_worker_ends_at_once(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=LEASE, drain_timeout=60)
    first = await shop.started()
    first.send(signal.SIGTERM)
    assert await shop.ended(first, 4) == 0
    assert (await shop.queue()).workers == 0


async def test_a_worker_can_be_drained_while_redis_is_away(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=LEASE, drain_timeout=1)
    async with shop.producer() as producer:
        first = await shop.started()
        await producer.enqueue(Hold(name="long"))
        await shop.until_started("long")
        shop.server.kill()
        first.send(signal.SIGTERM)
        # What could not be told is an error.
        assert await shop.ended(first, 12) == 1
    assert [event.what for event in shop.events(name="long")] == ["start", "cancelled"]


async def test_a_job_that_ignores_its_cancellation_does_not_keep_the_process(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=LEASE, drain_timeout=1)
    async with shop.producer() as producer:
        first = await shop.started()
        job = await producer.enqueue(Cling(name="cling"))
        await shop.until_started("cling")
        await drained(shop, first)
        assert await shop.ended(first, 8) == 0
        assert await job.status() is JobState.WAITING


async def test_a_job_in_a_thread_does_not_keep_a_process_without_redis(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=LEASE, drain_timeout=1)
    async with shop.producer() as producer:
        first = await shop.started()
        await producer.enqueue(Plain(name="plain"))
        await shop.until_started("plain")
        shop.server.kill()
        first.send(signal.SIGTERM)
        assert await shop.ended(first, 12) == 1


async def test_a_job_in_a_thread_does_not_keep_the_process(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=LEASE, drain_timeout=1)
    async with shop.producer() as producer:
        first = await shop.started()
        job = await producer.enqueue(Plain(name="plain"))
        await shop.until_started("plain")
        await drained(shop, first)
        assert await shop.ended(first, 8) == 0
        assert await job.status() is JobState.WAITING


async def test_a_job_in_the_process_pool_does_not_keep_the_process(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=LEASE, drain_timeout=1)
    async with shop.producer() as producer:
        first = await shop.started()
        job = await producer.enqueue(Crunch(name="crunch"))
        await shop.until(lambda: shop.events("child"), "the child is at work")
        await drained(shop, first)
        assert await shop.ended(first, 8) == 0
        assert await job.status() is JobState.WAITING
