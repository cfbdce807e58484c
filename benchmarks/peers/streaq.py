"""streaq."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import uvloop
from streaq import Worker

from benchmarks.driver import WAIT_SECONDS, Counter, serve, setting, tell_start, url

count = Counter()
worker: Worker[Any] = Worker(redis_url=url(), concurrency=setting("concurrency", 16), anyio_kwargs={"use_uvloop": True})


@worker.task(name="noop")
async def noop(user: int, name: str) -> int:
    """Do nothing."""
    count()
    return user


@worker.task(name="wait")
async def wait(user: int, name: str) -> int:
    """Wait."""
    await asyncio.sleep(WAIT_SECONDS)
    count()
    return user


@worker.task(name="started")
async def started(sent: int) -> int:
    """Tell when it started."""
    return tell_start(sent)


JOBS: dict[str, Any] = {"noop": noop, "wait": wait, "started": started}


class Producer:
    """The producer."""

    async def enqueue(self, job: str, **values: Any) -> Any:
        return await JOBS[job].enqueue(**values)

    async def enqueue_many(self, job: str, values: list[dict[str, Any]], delay: float) -> None:
        tasks = [JOBS[job].enqueue(**each) for each in values]
        if delay:
            tasks = [task.start(delay=delay) for task in tasks]
        await worker.enqueue_many(tasks)

    async def result(self, handle: Any) -> Any:
        return (await handle.result(30)).result


def _inside_worker(coroutine: Any) -> None:
    async def run() -> None:
        async with worker:
            await coroutine

    uvloop.run(run())


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    if sys.argv[1] == "work":
        worker.run_sync()
    else:
        serve(Producer, _inside_worker)
