"""Keys are added, put first and removed while producers and workers run, each with a ring of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from daemon.context import JobContext
from daemon.encryption import KeyRing, generate_key
from daemon.family import Family, Fixed
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.keys import FamilyKeys
from daemon.payload import Payload
from daemon.producer import JobHandle, Producer
from daemon.reencryption import reencrypt
from daemon.secret import Secret
from tests.engine import eventually, make_family, until, working

OLD, NEW = generate_key("2025b"), generate_key("2026a")
#: Old alone, the new one added, the new one first, the old one removed.
STEPS = (OLD, f"{OLD},{NEW}", f"{NEW},{OLD}", NEW)
KEYS = FamilyKeys.of("rotated")


class Turn(Payload, family="rotated", encrypted=True):
    number: int
    secret: Secret[str]


async def turn(ctx: JobContext, job: Turn) -> dict[str, int]:
    assert job.secret == f"secret {job.number}"
    kept = await ctx.once("step", lambda: job.number)
    await ctx.log(f"turn {job.number}")
    if ctx.job_try == 1 and job.number % 5 == 0:
        raise ValueError(f"once more {job.number}")
    return {"number": kept}


def family() -> Family:
    return make_family("rotated", turn, encrypted=True, keep_completed=None, backoff=Fixed(0.1), max_jobs=20)


class Load:
    """A producer that hands jobs over until it is told to stop."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.jobs: list[JobHandle] = []
        self.keys: str | None = STEPS[0]

    async def run(self) -> None:
        while (keys := self.keys) is not None:
            async with Producer.connect(self.url, keyring=KeyRing.parse(keys)) as producer:
                while keys == self.keys:
                    number = len(self.jobs)
                    turns = [Turn(number=n, secret=f"secret {n}") for n in range(number, number + 5)]
                    self.jobs += await producer.enqueue_many(turns)
                    await asyncio.sleep(0.005)

    async def more(self, count: int) -> None:
        """Wait for more jobs to be handed over."""
        so_far = len(self.jobs)
        await until(lambda: len(self.jobs) >= so_far + count)


@asynccontextmanager
async def producing(url: str) -> AsyncIterator[Load]:
    load = Load(url)
    task = asyncio.create_task(load.run())
    try:
        yield load
    finally:
        load.keys = None
        await task


async def test_rotation_under_load(redis_url: str) -> None:
    async with contextlib.AsyncExitStack() as producers:
        load = await producers.enter_async_context(producing(redis_url))
        redis: Any = (await producers.enter_async_context(Producer.connect(redis_url))).redis
        workers: list[contextlib.AsyncExitStack] = []
        for keys in STEPS:
            # One worker after the other is replaced while the others run, then the producer.
            for place in range(2):
                replaced = contextlib.AsyncExitStack()
                await replaced.enter_async_context(working(redis_url, family(), keyring=KeyRing.parse(keys)))
                workers.append(replaced)
                if len(workers) > 2:
                    await workers.pop(0).aclose()
                await load.more(40 + place)
            load.keys = keys
            await load.more(60)
            if keys == STEPS[2]:
                # What waits, failed or ended so far; jobs that are active now are done again below.
                await reencrypt(redis, KEYS, KeyRing.parse(keys))
        await producers.aclose()
        await finish(redis_url, load)
        for stack in workers:
            await stack.aclose()
    await check(redis_url, load)


async def finish(url: str, load: Load) -> None:
    async with Producer.connect(url) as producer:
        inspector = Inspector(producer.redis, ["rotated"])

        async def ended() -> bool:
            # A worker of the last step may have met a result or a receipt of a job that was active before.
            await reencrypt(producer.redis, KEYS, KeyRing.parse(STEPS[2]))
            stats = await inspector.queue("rotated")
            return stats.completed + stats.failed == len(load.jobs)

        await eventually(ended, 120)


async def check(url: str, load: Load) -> None:
    async with Producer.connect(url, keyring=KeyRing.parse(NEW)) as producer:
        stats = await Inspector(producer.redis, ["rotated"]).queue("rotated")
        assert (stats.failed, stats.parked, stats.completed) == (0, 0, len(load.jobs))
        assert stats.completed > 500
        found = await reencrypt(producer.redis, KEYS, KeyRing.parse(NEW))
        assert (found.changed, found.unreadable) == (0, 0), "the old key is needed no more"
        for number, job in enumerate(load.jobs):
            if number % 25 == 0:
                handle = producer.job(job.id)
                assert await handle.result(30) == {"number": number}
                assert (await handle.info(reveal=True)).state is JobState.COMPLETED
                assert (await handle.logs(reveal=True)).lines[0].text == f"turn {number}"
