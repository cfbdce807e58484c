"""Stock arq: its jobs, and its worker process (``python -m benchmarks.arq_side default|tuned``)."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Iterable
from typing import Any, cast
from uuid import uuid4

import redis
import uvloop
from arq.connections import ArqRedis, RedisSettings, create_pool
from arq.jobs import Job, serialize_job
from arq.worker import run_worker

from benchmarks.side import NAME, URL_VARIABLE, Producer

QUEUE = f"{NAME}:arq"
EXPIRES_MS = 86_400_000
CHUNK = 1000


async def noop(ctx: dict[Any, Any], user: int, name: str) -> int:
    """The job whose rate is measured."""
    return user


async def started(ctx: dict[Any, Any]) -> int:
    """Tell when it started."""
    return time.monotonic_ns()


class Default:
    """What arq does when nothing is set."""

    functions = (noop, started)
    queue_name = QUEUE
    # Only for the end of a run: cancelled jobs would stay marked as running and slow the next worker down.
    job_completion_wait = 10


class Tuned:
    """What makes arq fastest; uvloop comes on top of it."""

    functions = (noop, started)
    queue_name = QUEUE
    job_completion_wait = 10
    max_jobs = 500
    poll_delay = 0.01


def _id() -> str:
    return f"{NAME}-{uuid4().hex}"


class _Producer:
    def __init__(self, pool: ArqRedis) -> None:
        self._pool = pool

    async def enqueue(self) -> Job:
        job = await self._pool.enqueue_job("started", _job_id=_id(), _queue_name=QUEUE)
        assert job is not None
        return job

    async def result(self, handle: Job, poll_delay: float) -> int:
        return cast(int, await handle.result(timeout=30, poll_delay=poll_delay))

    async def close(self) -> None:
        await self._pool.aclose()


class ArqSide:
    """Stock arq."""

    name = "arq"
    module = "benchmarks.arq_side"
    queue = QUEUE
    client_commands: frozenset[str] | None = None

    def fill(self, url: str, count: int) -> None:
        """Add jobs with the writes of arq's own ``enqueue_job``, pipelined: one at a time takes minutes."""
        with redis.Redis.from_url(url) as client:
            for done in range(0, count, CHUNK):
                pipe = client.pipeline(transaction=False)
                for command in self.commands(min(CHUNK, count - done)):
                    pipe.execute_command(*command)
                pipe.execute()

    def commands(self, count: int) -> Iterable[tuple[Any, ...]]:
        """Two per job, as ``enqueue_job`` writes them (without its look whether the id exists)."""
        for number in range(count):
            job_id, now = _id(), time.time_ns() // 1_000_000
            job = serialize_job("noop", (), {"user": number, "name": "Ada"}, None, now)
            yield "PSETEX", f"arq:job:{job_id}", EXPIRES_MS, job
            yield "ZADD", QUEUE, now, job_id

    async def producer(self, url: str) -> Producer:
        """Connect as a service does."""
        return _Producer(await create_pool(RedisSettings.from_dsn(url)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    tuned = sys.argv[1] == "tuned"
    asyncio.set_event_loop(uvloop.new_event_loop() if tuned else asyncio.new_event_loop())
    settings = RedisSettings.from_dsn(os.environ[URL_VARIABLE])
    run_worker(Tuned if tuned else Default, redis_settings=settings)  # type: ignore[arg-type]
