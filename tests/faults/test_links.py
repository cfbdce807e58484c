"""The link to Redis freezes, is cut, or half opens, and Redis restarts under idle workers: all heals by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from daemon.producer import Producer
from tests.faults.conftest import WorkshopFactory
from tests.faults.family import Hold, Work
from tests.faults.figures import within
from tests.faults.link import Link
from tests.faults.workshop import WorkerProcess, Workshop

SLOTS = 5
#: Longer than any fault here: nobody takes the jobs over, and all that heals does so by itself.
LEASE = 20


@pytest.fixture
def shop(workshop: WorkshopFactory) -> Workshop:
    return workshop(lease=LEASE, max_jobs=SLOTS, redis={"appendonly": "yes"})


@pytest.fixture
def link(shop: Workshop) -> Iterator[Link]:
    with Link(shop.server.port) as link:
        yield link


async def behind(shop: Workshop, link: Link) -> WorkerProcess:
    """Start a worker that reaches Redis through the link."""
    return await shop.started(environ={"ARQD_REDIS_URL": link.url})


async def all_slots_work(shop: Workshop, producer: Producer) -> None:
    """Check that as many jobs run at the same time as before."""
    names = [f"slot-{n}" for n in range(SLOTS)]
    jobs = await producer.enqueue_many([Hold(name=name) for name in names])
    await shop.until_started(*names)
    for name in names:
        shop.release(name)
    await asyncio.gather(*(job.result(timeout=60) for job in jobs))


async def first_after(shop: Workshop, moment: float, seconds: float = 40) -> float:
    """Give how long after a moment the next job starts."""
    event = await shop.until(
        lambda: next((event for event in shop.events("start") if event.at > moment), None), "a job starts", seconds
    )
    return float(event.at) - moment


@pytest.mark.parametrize("how", ["frozen", "cut"])
async def test_a_link_that_is_gone_for_four_seconds(shop: Workshop, link: Link, how: str) -> None:
    worker = await behind(shop, link)
    async with shop.producer() as producer:
        jobs = await producer.enqueue_many([Work(name=str(n), seconds=0.1) for n in range(150)])
        await shop.until(lambda: len(shop.events("end")) >= 20, "the worker is at work")
        link.freeze() if how == "frozen" else link.cut()
        await asyncio.sleep(4)
        link.thaw() if how == "frozen" else link.mend()
        healed = await first_after(shop, time.time())
        done = await asyncio.gather(*(job.result(timeout=60) for job in jobs))
        twice = sum(times > 1 for times in shop.starts().values())
        within(f"link {how} for 4 s ({len(jobs) - len(done)} lost, {twice} twice), first job after", healed, 1.5)
        await all_slots_work(shop, producer)
    assert twice == 0
    assert worker.status is None


async def test_half_open_connections_of_an_idle_worker(shop: Workshop, link: Link) -> None:
    worker = await behind(shop, link)
    async with shop.producer() as producer:
        await (await producer.enqueue(Work(name="before"))).result(timeout=60)
        assert link.half_open() >= 2
        moment = time.time()
        job = await producer.enqueue(Work(name="job"))
        found = await first_after(shop, moment)
        assert (await job.result(timeout=60)).pid == worker.pid
        within("half-open connections, idle: the job starts after", found, 10)
        await all_slots_work(shop, producer)
    assert set(shop.starts().values()) == {1}


async def test_half_open_connections_of_a_busy_worker(shop: Workshop, link: Link) -> None:
    worker = await behind(shop, link)
    async with shop.producer() as producer:
        jobs = await producer.enqueue_many([Work(name=str(n), seconds=0.1) for n in range(100)])
        await shop.until(lambda: len(shop.events("end")) >= 20, "the worker is at work")
        link.half_open()
        running = time.time()
        # What runs ends, and then nothing goes on until the worker has noticed.
        await asyncio.sleep(0.5)
        found = await first_after(shop, running + 0.5)
        await asyncio.gather(*(job.result(timeout=60) for job in jobs))
        within("half-open connections, busy: the next job starts after", found + 0.5, 10)
        await all_slots_work(shop, producer)
    assert set(shop.starts().values()) == {1}
    assert worker.status is None


async def test_redis_restarts_under_idle_workers(shop: Workshop) -> None:
    workers = [await shop.started(), await shop.started()]
    async with shop.producer() as producer:
        await (await producer.enqueue(Work(name="before"))).result(timeout=60)
    shop.server.kill()
    await asyncio.sleep(1.5)
    shop.server.start()
    up = time.time()
    async with shop.producer() as producer:
        await (await producer.enqueue(Work(name="after"))).result(timeout=60)
        within("Valkey restarted while idle, first job after", await first_after(shop, up), 1.5)
        await all_slots_work(shop, producer)
    assert [worker.status for worker in workers] == [None, None]
    assert set(shop.starts().values()) == {1}
