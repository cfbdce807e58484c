"""Limits over several workers, from the handler's side: never more than allowed, and who waits for a RetryAfter."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from daemon.context import JobContext
from daemon.errors import RetryAfter
from daemon.family import Family, RateLimit, func
from daemon.inspecting.job_info import HELD
from daemon.keys import FamilyKeys
from daemon.producer import Producer
from tests.engine import eventually, make_family, working


class Recorder:
    """Handlers that note when they were claimed by Redis's clock, and how many of a group or function run at once."""

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self.starts: list[float] = []
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def start(self, ctx: JobContext) -> None:
        # An active job's score says when the script claimed it, in ms: the moment that counts for a rate.
        self.starts.append(await self.producer.redis.zscore(FamilyKeys.of("t").queue, ctx.job_id) - HELD)

    async def stay(self, ctx: JobContext, who: str) -> None:
        self.now[who] += 1
        self.most[who] = max(self.most[who], self.now[who])
        try:
            await asyncio.sleep(0.004)
        finally:
            self.now[who] -= 1


async def run_all(redis_url: str, families: list[Family], jobs: list[Any]) -> None:
    """Run each family on a supervisor of its own until these jobs have ended."""
    async with AsyncExitStack() as stack:
        for family in families:
            await stack.enter_async_context(working(redis_url, family))
        await asyncio.gather(*(job.result(60) for job in jobs))


async def test_jobs_of_a_group_at_the_same_time_over_two_supervisors(redis_url: str, producer: Producer) -> None:
    recorder = Recorder(producer)
    groups = ["a"] * 40 + ["b"] * 20 + ["c"] * 3
    jobs = [await producer.enqueue("stay", [group], family="t", group=group) for group in groups]
    await run_all(redis_url, [make_family("t", recorder.stay, max_jobs=10, group_limit=3) for _ in range(2)], jobs)
    assert recorder.most == {"a": 3, "b": 3, "c": 3}


async def test_groups_of_a_kind_have_a_limit_of_their_own(redis_url: str, producer: Producer) -> None:
    recorder = Recorder(producer)
    groups = ["ordered:a"] * 12 + ["ordered:b"] * 12 + ["c"] * 40
    jobs = [await producer.enqueue("stay", [group], family="t", group=group) for group in groups]
    limits: dict[str, Any] = {"max_jobs": 10, "group_limit": 3, "group_limits": {"ordered:*": 1}}
    await run_all(redis_url, [make_family("t", recorder.stay, **limits) for _ in range(2)], jobs)
    assert recorder.most == {"ordered:a": 1, "ordered:b": 1, "c": 3}


async def test_jobs_of_a_function_at_the_same_time_over_two_supervisors(redis_url: str, producer: Producer) -> None:
    recorder = Recorder(producer)
    registered = (func(recorder.stay, name="slow", global_limit=2), func(recorder.stay, name="quick"))
    jobs = [await producer.enqueue(name, [name], family="t") for _ in range(30) for name in ("slow", "quick")]
    await run_all(redis_url, [make_family("t", *registered, max_jobs=10) for _ in range(2)], jobs)
    assert recorder.most["slow"] == 2
    assert recorder.most["quick"] > 2


async def test_a_binding_rate_over_three_supervisors(redis_url: str, producer: Producer) -> None:
    recorder = Recorder(producer)
    jobs = [await producer.enqueue("start", family="t") for _ in range(75)]
    families = [make_family("t", recorder.start, rate_limit=RateLimit(30)) for _ in range(3)]
    await run_all(redis_url, families, jobs)
    starts = sorted(recorder.starts)
    assert len(starts) == 75
    # The script counts in microseconds.
    assert all(later - earlier >= 999 for earlier, later in zip(starts, starts[30:], strict=False))


@pytest.mark.parametrize(
    ("scope", "waiting"),
    [
        ("queue", {"other a", "other b", "told b", "told a"}),
        ("group", {"other a", "told a"}),
        ("function", {"told a", "told b"}),
        ("job", set[str]()),
    ],
)
async def test_who_waits_for_a_handler_that_was_told_to(
    redis_url: str, producer: Producer, scope: Any, waiting: set[str]
) -> None:
    """A handler of group a is told to wait; what else waits then is asked after the others have run."""
    tries: list[int] = []

    async def told(ctx: JobContext, name: str) -> None:
        if name == "first":
            tries.append(ctx.job_try)
            raise RetryAfter(3600, scope=scope)

    async def other(ctx: JobContext, name: str) -> None: ...

    async with working(redis_url, make_family("t", told, other)):
        first = await producer.enqueue("told", ["first"], family="t", group="a")

        async def was_told() -> bool:
            return (await first.info()).state == "delayed"

        await eventually(was_told)
        jobs = {
            f"{function} {group}": await producer.enqueue(function, ["rest"], family="t", group=group)
            for function in ("told", "other")
            for group in "ab"
        }

        async def states() -> set[str]:
            return {name for name, job in jobs.items() if await job.status() != "completed"}

        async def settled() -> bool:
            return await states() == waiting

        await eventually(settled)
        info = await first.info()
        assert (tries, info.tries) == ([1], 0), "no try is counted"
        for job in [first, *jobs.values()]:
            await job.abort()


async def test_it_goes_on_after_the_wait(redis_url: str, producer: Producer) -> None:
    at: list[float] = []

    async def told(ctx: JobContext) -> None:
        at.append(asyncio.get_running_loop().time())
        if len(at) == 1:
            raise RetryAfter(0.3, scope="group")

    async with working(redis_url, make_family("t", told)):
        jobs = [await producer.enqueue("told", family="t", group="a") for _ in range(2)]
        for job in jobs:
            await job.result(30)
    assert len(at) == 3
    assert at[2] - at[0] >= 0.3
