"""Workers killed with -9 while they run jobs in steps: no step whose receipt was seen runs again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from daemon.connecting.connections import connect
from daemon.keys import FamilyKeys
from tests.faults.conftest import WorkshopFactory
from tests.faults.family import Steps
from tests.servers import Servers

KEYS = FamilyKeys.of("faults")


@asynccontextmanager
async def receipts_seen(server: Servers) -> AsyncIterator[dict[tuple[str, str], float]]:
    """Watch the receipts: when each was first seen, by id and step."""
    seen: dict[tuple[str, str], float] = {}

    async def watch() -> None:
        async with aclosing(connect(server.url, decode_responses=True)) as client:
            while True:
                for job_id, lines in (await client.hgetall(KEYS.key("receipts"))).items():
                    for line in lines.splitlines():
                        seen.setdefault((job_id, line.split("\t")[0]), time.time())
                await asyncio.sleep(0.01)

    task = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        task.cancel()


async def test_killed_workers_repeat_no_step_that_has_a_receipt(workshop: WorkshopFactory) -> None:
    kills, portion = 5, 40
    count = portion * (kills + 1)
    shop = workshop(lease=1, max_jobs=5)
    workers = [shop.start(), shop.start()]
    await shop.ready(*workers)
    async with shop.producer() as producer, receipts_seen(shop.server) as seen:
        jobs = await producer.enqueue_many([Steps(name=str(n)) for n in range(portion)])
        for _ in range(kills):
            first = len(jobs)
            jobs += await producer.enqueue_many([Steps(name=str(n)) for n in range(first, first + portion)])
            victim = workers.pop(0)
            await shop.until(lambda worker=victim: len(shop.running(worker)) >= 4, "the worker is at work")
            victim.kill()
            workers.append(await shop.started())
        results = await asyncio.gather(*(job.result(timeout=100) for job in jobs))
        with shop.server.client() as client:
            assert not client.exists(KEYS.key("receipts"))

    repeated = 0
    for name, job, result in zip(map(str, range(count)), jobs, results, strict=True):
        for step, value in zip(("one", "two", "three"), result, strict=True):
            did = shop.events(f"did-{step}", name)
            repeated += len(did) - 1
            assert all(event.at <= seen.get((job.job_id, step), event.at) for event in did), "ran after its receipt"
            assert value == f"{step} by {did[-1].pid}", "the result is that of the run that was kept"
    again = sum(1 for times in shop.starts().values() if times > 1)
    print(
        f"\njobs {count}, kills {kills}, receipts seen {len(seen)}, jobs run again {again}, effects repeated {repeated}"
    )
    assert again >= kills
    # Only what was under way when its worker died: one step of a job for each kill.
    assert repeated <= sum(times - 1 for times in shop.starts().values())
