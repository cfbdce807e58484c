"""Stock arq."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Any
from uuid import uuid4

import uvloop
from arq.connections import ArqRedis, RedisSettings, create_pool
from arq.jobs import Job, serialize_job
from arq.worker import run_worker

from benchmarks.driver import WAIT_SECONDS, Counter, gathered, serve, setting, tell_start, url

QUEUE = "arq:queue"
EXPIRES_MS = 86_400_000
POLL = float(setting("poll_delay", 0.5))
count = Counter()


async def noop(ctx: dict[Any, Any], user: int, name: str) -> int:
    """Do nothing."""
    count()
    return user


async def wait(ctx: dict[Any, Any], user: int, name: str) -> int:
    """Wait."""
    await asyncio.sleep(WAIT_SECONDS)
    count()
    return user


async def started(ctx: dict[Any, Any], sent: int) -> int:
    """Tell when it started."""
    return tell_start(sent)


class WorkerSettings:
    """The worker."""

    functions = (noop, wait, started)
    redis_settings = RedisSettings.from_dsn(url())
    max_jobs = setting("max_jobs", 10)
    poll_delay = POLL
    job_completion_wait = 10


class Producer:
    """The producer."""

    def __init__(self) -> None:
        self._pool: ArqRedis | None = None

    async def _connected(self) -> ArqRedis:
        if self._pool is None:
            self._pool = await create_pool(RedisSettings.from_dsn(url()))
        return self._pool

    async def enqueue(self, job: str, **values: Any) -> Job:
        return await (await self._connected()).enqueue_job(job, **values)

    async def enqueue_many(self, job: str, values: list[dict[str, Any]], delay: float) -> None:
        pool = await self._connected()
        await gathered(lambda each: pool.enqueue_job(job, _defer_by=delay or None, **each), values)

    async def fill(self, job: str, values: list[dict[str, Any]], delay: float) -> None:
        """The two writes of ``enqueue_job`` without its look whether the id exists, pipelined: for large backlogs."""
        pipe = (await self._connected()).pipeline(transaction=False)
        now = time.time_ns() // 1_000_000
        for each in values:
            job_id = uuid4().hex
            pipe.psetex(f"arq:job:{job_id}", EXPIRES_MS + int(delay * 1000), serialize_job(job, (), each, None, now))
            pipe.zadd(QUEUE, {job_id: now + int(delay * 1000)})
        await pipe.execute()

    async def result(self, handle: Job) -> Any:
        return await handle.result(timeout=30, poll_delay=POLL)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    if sys.argv[1] == "work":
        asyncio.set_event_loop(uvloop.new_event_loop())
        run_worker(WorkerSettings)
    else:
        serve(Producer, uvloop.run)
