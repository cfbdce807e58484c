"""SAQ."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Any

import saq
import uvloop

from benchmarks.driver import WAIT_SECONDS, Counter, gathered, serve, setting, tell_start, url

count = Counter()


async def noop(ctx: dict[str, Any], *, user: int, name: str) -> int:
    """Do nothing."""
    count()
    return user


async def wait(ctx: dict[str, Any], *, user: int, name: str) -> int:
    """Wait."""
    await asyncio.sleep(WAIT_SECONDS)
    count()
    return user


async def started(ctx: dict[str, Any], *, sent: int) -> int:
    """Tell when it started."""
    return tell_start(sent)


class Producer:
    """The producer."""

    def __init__(self) -> None:
        self._queue = saq.Queue.from_url(url())

    async def enqueue(self, job: str, **values: Any) -> Any:
        return await self._queue.enqueue(job, **values)

    async def enqueue_many(self, job: str, values: list[dict[str, Any]], delay: float) -> None:
        options = {"scheduled": int(time.time() + delay)} if delay else {}
        await gathered(lambda each: self._queue.enqueue(job, **options, **each), values)

    async def trip(self, **values: Any) -> Any:
        return await self._queue.apply("noop", timeout=30, poll_interval=0.005, **values)


async def work() -> None:
    """Run the worker."""
    queue = saq.Queue.from_url(url())
    await queue.connect()
    worker = saq.Worker(queue, [noop, wait, started], concurrency=setting("concurrency", 10))
    await worker.start()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    if sys.argv[1] == "work":
        uvloop.run(work())
    else:
        serve(Producer, uvloop.run)
