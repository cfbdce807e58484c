"""Calls that are lost in the middle of something else: nothing is lost with them, and nothing runs twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from redis.exceptions import ConnectionError as LostConnection

from daemon.connecting.channel import Channel
from daemon.context import JobContext
from daemon.errors import RedisUnavailable, ResultTimeout
from daemon.keys import FamilyKeys
from daemon.lua import SCRIPTS
from daemon.producer import Producer
from tests.engine import each_node, eventually, make_family, until, working

JOBS, LOSSES = 600, 3


async def double(ctx: JobContext, n: int) -> int:
    return 2 * n


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
        async with asyncio.timeout(60):
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


async def test_a_question_that_the_server_has_forgotten_is_asked_again(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.producing.replies.REMIND_SECONDS", 0.1)
    monkeypatch.setattr("daemon.producing.replies.BLOCK_SECONDS", 0.1)
    waiters = FamilyKeys.of("t").key("waiters")
    jobs = await producer.enqueue_many("double", [(n,) for n in range(3)], family="t")
    waits = [asyncio.create_task(job.result(30)) for job in jobs]
    try:
        await until(lambda: len(producer.replies._waiting) == 3)

        async def asked() -> bool:
            return bool(await producer.redis.hlen(waiters) == 3)

        await eventually(asked)
        forgotten = await producer.redis.delete(waiters)
        async with working(redis_url, make_family("t", double)):
            assert [await wait for wait in waits] == [0, 2, 4]
        assert forgotten == 1
    finally:
        for wait in waits:
            wait.cancel()


async def test_a_pop_that_the_server_ends_loses_no_result(redis_url: str, producer: Producer) -> None:
    (job,) = await producer.enqueue_many("double", [(4,)], family="t")
    wait = asyncio.create_task(job.result(30))

    nodes = list(each_node(redis_url))
    # An error is what every blocked client hears when its server becomes a replica.
    await until(
        lambda: any(
            node.client_unblock(client["id"], error=True)
            for node in nodes
            for client in node.client_list()
            if client["cmd"] == "blpop"
        )
    )
    async with working(redis_url, make_family("t", double)):
        assert await wait == 8
