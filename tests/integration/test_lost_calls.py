"""A worker's call that is lost before it was sent: what came with the last reply is neither lost nor run twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from redis.exceptions import ConnectionError as LostConnection

from daemon.connections import Channel
from daemon.context import JobContext
from daemon.producer import Producer
from tests.engine import make_family, working

JOBS, LOSSES = 600, 3


async def test_claims_not_yet_started_when_a_call_is_lost_run_once(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: Counter[int] = Counter()

    async def count(ctx: JobContext, n: int) -> int:
        started[n] += 1
        return n

    send, lost = Channel.send, 0
    jobs = await producer.enqueue_many("count", [[n] for n in range(JOBS)], family="t")
    async with working(redis_url, make_family("t", count, max_jobs=500, keep_completed=None)) as supervisor:
        worker = supervisor.workers[0]

        async def losing(channel: Channel, *command: Any) -> None:
            nonlocal lost
            if worker._claimed and lost < LOSSES:
                lost += 1
                await channel.close()
                raise LostConnection("cut")
            await send(channel, *command)

        monkeypatch.setattr(Channel, "send", losing)
        more = await producer.enqueue_many("count", [[n] for n in range(JOBS, 2 * JOBS)], family="t")
        async with asyncio.timeout(20):
            results = [await job.result() for job in (*jobs, *more)]
    assert lost == LOSSES, "no call was lost while claims were waiting to be started"
    assert results == list(range(2 * JOBS))
    assert set(started.values()) == {1}
