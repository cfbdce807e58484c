"""taskiq with taskiq-redis: a list, or a stream with acknowledgements."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import uvloop
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.driver import WAIT_SECONDS, Counter, gathered, serve, setting, tell_start, url

count = Counter()
# Results in a database of their own, so that they can be counted.
_results: Any = RedisAsyncResultBackend(redis_url=url(1))
if setting("broker", "list") == "stream":
    # From the first message on: by default a group made later than the jobs skips them.
    broker: Any = RedisStreamBroker(url=url(), consumer_id="0").with_result_backend(_results)
else:
    broker = ListQueueBroker(url=url()).with_result_backend(_results)


@broker.task(task_name="noop")
async def noop(user: int, name: str) -> int:
    """Do nothing."""
    count()
    return user


@broker.task(task_name="wait")
async def wait(user: int, name: str) -> int:
    """Wait."""
    await asyncio.sleep(WAIT_SECONDS)
    count()
    return user


@broker.task(task_name="started")
async def started(sent: int) -> int:
    """Tell when it started."""
    return tell_start(sent)


JOBS: dict[str, Any] = {"noop": noop, "wait": wait, "started": started}


class Producer:
    """The producer."""

    def __init__(self) -> None:
        self._ready = False

    async def enqueue(self, job: str, **values: Any) -> Any:
        if not self._ready:
            await broker.startup()
            self._ready = True
        return await JOBS[job].kiq(**values)

    async def enqueue_many(self, job: str, values: list[dict[str, Any]], delay: float) -> None:
        await gathered(lambda each: self.enqueue(job, **each), values)

    async def result(self, handle: Any) -> Any:
        return (await handle.wait_result(check_interval=setting("check_interval", 0.2), timeout=30)).return_value


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    serve(Producer, uvloop.run)
