"""Redis reaches its memory limit under noeviction, and producers that are faster than the workers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from daemon.errors import QueueFull, RedisFull
from daemon.producer import Producer
from tests.faults.conftest import WorkshopFactory
from tests.faults.family import Quiet, Work
from tests.faults.workshop import WorkerProcess, Workshop

BUDGET = 2_000_000


async def test_a_full_server_is_worked_empty(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=2, max_jobs=5, redis={"maxmemory": "200mb", "maxmemory_policy": "noeviction"})
    async with shop.producer() as producer:
        workers = [await shop.started(), await shop.started()]
        jobs = await producer.enqueue_many([Work(name=str(n), seconds=0.1) for n in range(150)])
        await shop.until(lambda: len(shop.events("end")) >= 20, "the workers are at work")
        with shop.server.client() as redis:
            redis.config_set("maxmemory", 1)
            with pytest.raises(RedisFull):
                await producer.enqueue(Work(name="refused"))
            await shop.until(lambda: len(shop.events("end")) == len(jobs), "all run on the full server", 20)
            redis.config_set("maxmemory", 0)
        await asyncio.gather(*(job.result(timeout=60) for job in jobs))
        assert (await (await producer.enqueue(Work(name="after"))).result(timeout=60)).name == "after"
    assert set(shop.starts().values()) == {1}
    assert [worker.status for worker in workers] == [None, None]
    print(f"\nmaxmemory reached: {len(jobs)} jobs ended on the full server, 0 deaths, 0 twice, producers refused")


def resident(pid: int) -> int:
    """Give a process's memory, bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def push(producer: Producer, stop: asyncio.Event) -> tuple[list[str], int]:
    """Hand jobs over as fast as they are taken; give the ids of those that were, and the number of refusals."""
    ids: list[str] = []
    refused = 0
    while not stop.is_set():
        try:
            ids += [job.job_id for job in await producer.enqueue_many([Quiet(seconds=0.01, tail="x" * 1000)] * 20)]
        except QueueFull as error:
            refused += 1
            ids += error.added
            await asyncio.sleep(min(error.retry_after, 0.05))
    return ids, refused


async def watch(shop: Workshop, worker: WorkerProcess, stop: asyncio.Event) -> list[tuple[int, int]]:
    """Give the memory of the server and of the worker over the time."""
    found = []
    with shop.server.client() as redis:
        while not stop.is_set():
            found.append((int(redis.info("memory")["used_memory"]), resident(worker.pid)))
            await asyncio.sleep(0.1)
    return found


@pytest.mark.timeout(480)
@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.slow)])
async def test_producers_faster_than_the_worker_are_told_and_nothing_is_lost(
    workshop: WorkshopFactory, seconds: int
) -> None:
    shop = workshop(lease=5, max_jobs=10, max_bytes=BUDGET)
    worker = await shop.started()
    stop = asyncio.Event()
    async with shop.producer() as one, shop.producer() as two:
        pushing = [asyncio.create_task(push(producer, stop)) for producer in (one, two)]
        watching = asyncio.create_task(watch(shop, worker, stop))
        await asyncio.sleep(seconds)
        stop.set()
        pushed, memory = await asyncio.gather(*pushing), await watching
    ids = [job_id for added, _ in pushed for job_id in added]

    async def settled() -> int:
        return (await shop.queue()).totals.get("completed", 0)

    for _ in range(600):
        if await settled() == len(ids):
            break
        await asyncio.sleep(0.1)
    queue = await shop.queue()
    assert (queue.totals["completed"], queue.waiting, queue.active, queue.failed) == (len(ids), 0, 0, 0)
    assert len(set(ids)) == len(ids)
    assert all(refused > 0 for _, refused in pushed), "each is told"
    # From when the budget is full on nothing grows.
    later = memory[len(memory) // 3 :]
    server, process = ([sample[which] for sample in later] for which in (0, 1))
    print(
        f"\noverload for {seconds} s: {len(ids)} accepted, 0 lost, refused {[refused for _, refused in pushed]} times; "
        f"server {min(server) / 1e6:.1f} to {max(server) / 1e6:.1f} MB (budget {BUDGET / 1e6:g} MB), "
        f"worker {min(process) / 1e6:.1f} to {max(process) / 1e6:.1f} MB"
    )
    assert max(server) - min(server) < BUDGET
    assert max(process) - min(process) < 15_000_000
