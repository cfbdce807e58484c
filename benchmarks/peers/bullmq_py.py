"""BullMQ's package for Python."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import Any

import uvloop
from bullmq import Queue, QueueEvents, Worker

from benchmarks.driver import WAIT_SECONDS, Counter, serve, setting, tell_start, url

count = Counter()


async def process(job: Any, token: str) -> int:
    """Run a job of any name."""
    if job.name == "started":
        return tell_start(job.data["sent"])
    if job.name == "wait":
        await asyncio.sleep(WAIT_SECONDS)
    count()
    return int(job.data["user"])


class Producer:
    """The producer."""

    def __init__(self) -> None:
        self._queue = Queue("bench", {"connection": url()})
        self._events: Any = None
        self._results: dict[str, asyncio.Future[Any]] = {}

    def _result_of(self, job_id: str) -> asyncio.Future[Any]:
        return self._results.setdefault(job_id, asyncio.get_running_loop().create_future())

    async def enqueue(self, job: str, **values: Any) -> Any:
        if self._events is None:
            self._events = QueueEvents("bench", {"connection": url(), "lastEventId": "0"})
            self._events.on(
                "completed", lambda event, _: self._result_of(event["jobId"]).set_result(event["returnvalue"])
            )
        return await self._queue.add(job, values)

    async def enqueue_many(self, job: str, values: list[dict[str, Any]], delay: float) -> None:
        options = {"delay": int(delay * 1000)} if delay else {}
        await self._queue.addBulk([{"name": job, "data": each, "opts": options} for each in values])

    async def result(self, handle: Any) -> Any:
        return await asyncio.wait_for(self._result_of(str(handle.id)), 30)


async def work() -> None:
    """Run the worker until SIGTERM."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    worker = Worker("bench", process, {"connection": url(), "concurrency": setting("concurrency", 1)})
    await ended.wait()
    await worker.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    if sys.argv[1] == "work":
        uvloop.run(work())
    else:
        serve(Producer, uvloop.run)
