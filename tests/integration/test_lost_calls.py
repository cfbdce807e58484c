"""Calls that are lost in the middle of something else: nothing is lost with them, and nothing runs twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from redis.exceptions import ConnectionError as LostConnection

from daemon.channel import Channel
from daemon.context import JobContext
from daemon.errors import RedisUnavailable, ResultTimeout
from daemon.lua import SCRIPTS
from daemon.producer import Producer
from tests.engine import make_family, until, working

JOBS, LOSSES = 600, 3


async def test_claims_not_yet_started_when_a_call_is_lost_run_once(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: Counter[int] = Counter()

    async def count(ctx: JobContext, n: int) -> int:
        started[n] += 1
        return n

    start, lost = Channel.start, 0
    jobs = await producer.enqueue_many("count", [[n] for n in range(JOBS)], family="t")
    async with working(redis_url, make_family("t", count, max_jobs=500, keep_completed=None)) as supervisor:
        worker = supervisor.workers[0]

        async def losing(channel: Channel, *command: Any) -> Any:
            nonlocal lost
            if command[1] == SCRIPTS["tick"].sha and worker._claimed and lost < LOSSES:
                lost += 1
                channel.close()
                raise LostConnection("cut")
            return await start(channel, *command)

        monkeypatch.setattr(Channel, "start", losing)
        more = await producer.enqueue_many("count", [[n] for n in range(JOBS, 2 * JOBS)], family="t")
        async with asyncio.timeout(20):
            results = [await job.result() for job in (*jobs, *more)]
    assert lost == LOSSES, "no call was lost while claims were waiting to be started"
    assert results == list(range(2 * JOBS))
    assert set(started.values()) == {1}


async def test_who_gives_up_while_the_reader_asks_again_does_not_end_it(redis_url: str, producer: Producer) -> None:
    jobs = [await producer.enqueue("count", [n], family="t") for n in range(2)]
    reader = producer.replies
    waits = [asyncio.create_task(job.result(timeout)) for job, timeout in zip(jobs, (0.1, 20), strict=True)]
    await until(lambda: len(reader._waiting) == 2)
    reader._away = RedisUnavailable()
    asking = asyncio.create_task(reader._again(None))
    with pytest.raises((ResultTimeout, RedisUnavailable)):
        await waits[0]
    await asking
    waits[1].cancel()
    await asyncio.gather(waits[1], return_exceptions=True)
