"""Connections are cut under load, while Redis itself goes on."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.conftest import WorkshopFactory
from tests.faults.family import Work
from tests.faults.workshop import CrashCounts

COUNT = 400


@pytest.mark.parametrize("which", ["normal", "one-by-one"])
async def test_killed_connections_lose_and_repeat_nothing(workshop: WorkshopFactory, which: str) -> None:
    shop = workshop(lease=2)
    async with shop.producer() as producer, CrashCounts(shop.server) as counts:
        await shop.ready(shop.start(), shop.start())
        jobs = await producer.enqueue_many([Work(name=str(n), seconds=0.02 + n % 5 * 0.03) for n in range(COUNT)])
        results = asyncio.gather(*(job.result(timeout=100) for job in jobs))
        kills = 0
        with shop.server.client() as redis:
            for share in range(1, 11):
                await shop.until(lambda n=share: len(shop.events("end")) >= n * COUNT // 12, "the workers are at work")
                if which == "normal":
                    kills += redis.client_kill_filter(_type="normal", skipme=True)
                else:
                    own = redis.client_id()
                    for client in redis.client_list():
                        if int(client["id"]) != own:
                            kills += redis.client_kill_filter(_id=client["id"])
        done = await results
    starts = shop.starts().total()
    print(f"\njobs {COUNT}, connections killed {kills}, lost {COUNT - len(done)}, starts {starts}")
    assert [result.name for result in done] == [str(n) for n in range(COUNT)]
    assert {name: times for name, times in shop.starts().items() if times != 1} == {}
    assert counts.highest == {}
    queue = await shop.queue()
    assert (queue.totals["completed"], queue.totals.get("retried", 0), queue.active) == (COUNT, 0, 0)
