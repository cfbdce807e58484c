"""Workers die in mid-run: nothing is lost, and a job that kills its worker does not take others with it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from daemon.errors import JobFailed
from daemon.events import EventReader
from daemon.job import JobState
from daemon.producer import JobHandle, Producer
from tests.faults.conftest import WorkshopFactory
from tests.faults.family import Block, Crash, CrashOnce, Crunch, Done, Work
from tests.faults.figures import LENIENCE, within
from tests.faults.workshop import Workshop, alive, children


async def test_jobs_of_killed_workers_run_again_within_the_lease(workshop: WorkshopFactory) -> None:
    lease, kills, slots, portion = 1.5, 5, 5, 60
    count = kills * portion
    shop = workshop(lease=lease, max_jobs=slots)
    workers = [shop.start(), shop.start()]
    await shop.ready(*workers)
    crashes: Counter[str] = Counter()
    delays = []
    async with shop.producer() as producer:
        jobs: list[JobHandle] = []
        with shop.server.client() as redis:
            for _ in range(kills):
                first = len(jobs)
                jobs += await producer.enqueue_many(
                    [Work(name=str(n), seconds=0.2 + n % 7 * 0.05) for n in range(first, first + portion)]
                )
                names = {job.job_id: str(n) for n, job in enumerate(jobs)}
                victim = workers.pop(0)
                await shop.until(lambda worker=victim: len(shop.running(worker)) >= slots - 1, "the worker is at work")
                killed = victim.kill()
                orphans = shop.held(victim)
                assert orphans
                crashes.update(orphans)
                workers.append(shop.start())
                results = ["arq:result:" + job_id for job_id in orphans]
                await shop.until(lambda keys=results: redis.exists(*keys) == len(keys), "the orphans have ended")
                again = {event.name: event.at for event in reversed(shop.events("start")) if event.at > killed}
                delays += [again[names[job_id]] - killed for job_id in orphans]
                await shop.ready(*workers)
        done = await asyncio.gather(*(job.result(timeout=60) for job in jobs))
        counted = await crashes_told(producer)

    twice = sum(1 for times in shop.starts().values() if times > 1)
    ends = Counter(event.name for event in shop.events("end"))
    finished_twice = sum(1 for times in ends.values() if times > 1)
    what = f"{kills} kills, {count} jobs: {count - len(done)} lost, {twice} started twice (required {kills * slots}), "
    within(f"{what}{finished_twice} finished twice (required 2), the last ran again after", max(delays), lease + 2)
    assert twice <= kills * slots
    # On a busy machine more have ended and not been settled when the kill comes.
    assert finished_twice <= 2 * LENIENCE
    assert [result.name for result in done] == [str(n) for n in range(count)]
    assert counted == crashes
    assert {names[job_id] for job_id in crashes} >= {name for name, times in shop.starts().items() if times > 1}
    assert (await shop.queue()).totals["completed"] == count


async def crashes_told(producer: Producer) -> Counter[str]:
    """Give how many crashes were counted for each job; the counts themselves go when it ends, seen by nobody or not."""
    async with aclosing(EventReader(producer.redis, None, ["faults"], "start").present()) as events:
        return Counter([producer.job(event.id).job_id async for event in events if event.kind == "crashed"])


@asynccontextmanager
async def restarted(shop: Workshop, count: int) -> AsyncIterator[None]:
    """Keep so many workers alive, as a supervisor of processes does."""

    async def watch() -> None:
        while True:
            for _ in range(count - sum(worker.status is None for worker in shop.workers)):
                shop.start()
            await asyncio.sleep(0.05)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()


async def test_a_job_that_kills_its_workers_ends_alone_and_takes_no_other_with_it(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=1, max_jobs=3)
    async with shop.producer() as producer, restarted(shop, 2):
        began = time.monotonic()
        poison = await producer.enqueue(Crash(name="poison"))
        # More than the workers get done in the time: the crash happens beside others, until it is tried alone.
        others = await producer.enqueue_many([Work(name=str(n), seconds=0.3) for n in range(100)])
        with pytest.raises(JobFailed) as failed:
            await poison.result(timeout=120)
        took = time.monotonic() - began
        info = await poison.info()
        done = await asyncio.gather(*(job.result(timeout=60) for job in others))

    starts = shop.events("start", "poison")
    assert len(starts) == 3
    within("a job that kills its process each time: 3 kills, 0 innocents, a dead letter after", took, 30)
    assert len({start.pid for start in starts}) == 3
    assert failed.value.reason == "crashes"
    assert (info.state, info.error and info.error["reason"]) == (JobState.FAILED, "crashes")
    last = starts[-1]
    in_its_process = [event for event in shop.events() if event.pid == last.pid and event.name != "poison"]
    began = {event.name for event in in_its_process if event.what == "start"}
    assert began == {event.name for event in in_its_process if event.what == "end" and event.at <= last.at}
    assert [result.name for result in done] == [str(n) for n in range(100)]
    assert (await shop.queue()).failed == 1


async def test_a_function_that_runs_at_most_once_is_not_run_again_after_a_crash(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=1)
    async with shop.producer() as producer, restarted(shop, 1):
        job = await producer.enqueue(CrashOnce(name="once"))
        with pytest.raises(JobFailed) as failed:
            await job.result(timeout=120)
    assert failed.value.reason == "crashes"
    assert shop.starts() == {"once": 1}


async def test_a_blocked_event_loop_does_not_cost_a_worker_its_job(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=2)
    async with shop.producer() as producer:
        first = await shop.started()
        job = await producer.enqueue(Block(name="block", seconds=4))
        await shop.until_started("block", worker=first)
        await shop.started()
        done = await job.result(timeout=60)
    assert done == Done(name="block", pid=first.pid)
    assert shop.starts() == {"block": 1}


async def test_processes_of_the_pool_die_with_their_worker(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=1)
    async with shop.producer() as producer:
        first = await shop.started()
        job = await producer.enqueue(Crunch(name="crunch"))
        await shop.until(lambda: shop.events("child"), "the child is at work")
        started = children(first.pid)
        assert {event.pid for event in shop.events("child")} <= started
        first.kill()
        await shop.until(lambda: not alive(started), "its processes have died", 5)
        shop.release("crunch")
        second = await shop.started()
        assert (await job.result(timeout=60)).pid == second.pid
