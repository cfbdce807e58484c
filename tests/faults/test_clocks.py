"""Wrong clocks of producers and workers: Redis's clock is the only one that counts."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from tests.faults.conftest import WorkshopFactory
from tests.faults.figures import within
from tests.faults.workshop import KEYS, ROOT, Workshop

COUNT = 20
PRODUCER = """
import asyncio, sys
from daemon.producer import Producer
from tests.faults.family import Work

async def main():
    async with Producer.connect(sys.argv[1]) as producer:
        for n in range(int(sys.argv[2])):
            await producer.enqueue(Work(name=str(n)), delay=4 + n * 0.1)

asyncio.run(main())
"""


def faked(clock: str) -> dict[str, str]:
    """Give the variables that show a process another time of day; what measures durations goes on as always."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": clock,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
    }


def jumping(file: Path) -> dict[str, str]:
    """Give the variables for a clock that a file moves: see `jump`."""
    variables = faked("+0")
    del variables["FAKETIME"]
    return {**variables, "FAKETIME_TIMESTAMP_FILE": str(file)}


def jump(file: Path, clock: str) -> None:
    """Move that clock; whole, since it is read at any moment."""
    draft = file.with_suffix(".new")
    draft.write_text(clock + "\n")
    draft.replace(file)


async def lateness(shop: Workshop, environ: dict[str, str]) -> dict[str, float]:
    """Hand delayed jobs over from a process with these variables and give how late each was seen to start, seconds.

    Both times are of the server's clock.
    """
    command = [sys.executable, "-c", PRODUCER, shop.server.url, str(COUNT)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env={**os.environ, **environ})
    handing_over = asyncio.create_task(process.wait())
    due: dict[str, float] = {}
    late: dict[str, float] = {}
    with shop.server.client() as redis:

        def started() -> bool:
            # While they are handed over, too: a process may take longer to end than the first of them wait.
            entries = redis.zrange(KEYS.queue, 0, -1, withscores=True)
            waiting = {job.decode(): score for job, score in entries if 0 < score < 2**45}
            due.update(waiting)
            # Asked last: what has started was due by then, however long this process stood still.
            seconds, micros = redis.time()
            now = seconds * 1000 + micros / 1000
            for job in due.keys() - waiting.keys() - late.keys():
                late[job] = (now - due[job]) / 1000
            return handing_over.done() and len(late) == len(due)

        await shop.until(started, "all have started", 30)
    assert await handing_over == 0
    assert len(due) > COUNT / 2, "most were seen while they waited"
    await shop.until(lambda: len(shop.events("end")) == COUNT, "all have ended")
    return late


def judge(what: str, shop: Workshop, late: dict[str, float]) -> None:
    early = sum(seconds < 0 for seconds in late.values())
    assert early == 0
    within(f"{what}: {len(late)} delayed jobs, {early} early, the latest by", max(late.values()), 1.5)
    assert set(shop.starts().values()) == {1}
    assert all(worker.status is None for worker in shop.workers)


@pytest.mark.parametrize(("producing", "working"), [("-300s", "+300s"), ("+300s", "-300s")])
async def test_clocks_apart(workshop: WorkshopFactory, producing: str, working: str) -> None:
    shop = workshop(lease=2)
    await shop.started(environ=faked(working))
    late = await lateness(shop, faked(producing))
    assert abs(shop.events("start")[0].at - time.time()) > 200, "the worker's clock is wrong"
    judge(f"producer's clock {producing}, worker's {working}", shop, late)


async def test_clocks_that_jump(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=2)
    clock = shop.folder / "clock"
    jump(clock, "+0")
    await shop.ready(*(shop.start(environ=jumping(clock)) for _ in range(2)))

    async def move() -> None:
        while True:
            for hour in ("+1h", "-1h"):
                jump(clock, hour)
                await asyncio.sleep(0.7)

    moving = asyncio.create_task(move())
    late = await lateness(shop, jumping(clock))
    moving.cancel()
    judge("all clocks jumping by an hour", shop, late)
