"""A process without jobs renews its leases lightly, and still hears and tells what it has to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from daemon.context import JobContext
from daemon.keys import JOB, RESULT, FamilyKeys
from daemon.producer import Producer
from daemon.supervisor import Supervisor
from tests.engine import eventually, make_family, working

KEYS = FamilyKeys.of("t")


async def number(ctx: JobContext, n: int) -> int:
    return n


@pytest.fixture
async def producer(redis_url: str) -> AsyncIterator[Producer]:
    async with Producer.connect(redis_url) as producer:
        yield producer


async def rested(producer: Producer, supervisor: Supervisor) -> None:
    """Wait until leases have been renewed lightly: whole renewals note that the server is there."""
    seen: Any = None
    ends: set[float] = set()

    async def renewed() -> bool:
        nonlocal seen
        now = await producer.redis.hget(KEYS.key("clock"), "seen")
        if now != seen:
            seen = now
            ends.clear()
        ends.add(await producer.redis.zscore(KEYS.key("workers"), supervisor.session))
        return len(ends) > 2

    await eventually(renewed)


async def test_a_job_that_nobody_was_told_of_is_found_by_the_next_renewal(redis_url: str, producer: Producer) -> None:
    await producer.enqueue("number", [1], family="u", job_id="x")
    record = await producer.redis.get(JOB + FamilyKeys.of("u").job_id("x"))
    async with working(redis_url, make_family("t", number, lease=1)) as supervisor:
        await rested(producer, supervisor)
        await producer.redis.set(JOB + KEYS.job_id("x"), record)
        await producer.redis.zadd(KEYS.queue, {KEYS.job_id("x"): 5})

        async def ended() -> bool:
            return bool(await producer.redis.exists(RESULT + KEYS.job_id("x")))

        await eventually(ended)


async def test_what_is_published_of_a_worker_is_as_new_as_its_last_job(redis_url: str, producer: Producer) -> None:
    async with working(redis_url, make_family("t", number, lease=1)) as supervisor:
        await rested(producer, supervisor)
        await (await producer.enqueue("number", [1], family="t")).result(30)

        async def told() -> bool:
            info = json.loads(await producer.redis.hget(KEYS.key("session", supervisor.session), "info"))
            return bool(info["mean_seconds"]) and info["running"] == 0

        await eventually(told)


async def test_who_has_died_is_missed_though_there_are_no_jobs(redis_url: str, producer: Producer) -> None:
    async with working(redis_url, make_family("t", number, lease=1)) as supervisor:
        await rested(producer, supervisor)
        await producer.redis.zadd(KEYS.key("workers"), {"d" * 16: 1})

        async def gone() -> bool:
            return await producer.redis.zscore(KEYS.key("workers"), "d" * 16) is None

        await eventually(gone)
        assert await producer.redis.hget(KEYS.key("totals"), "lost") == b"1"
