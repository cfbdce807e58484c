"""What a handler knows of its tries and its time, and the lines it logs."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from arq.connections import ArqRedis
from redis.exceptions import ConnectionError as RedisConnectionError

from daemon import codec
from daemon.broker import Broker
from daemon.context import JobContext
from daemon.errors import JobNotFound, RetryAfter
from daemon.family import func
from daemon.inspector import Inspector
from daemon.job import JobLogs, JobState
from daemon.payload import Payload
from daemon.producer import Producer
from daemon.retry import Fixed
from tests.engine import in_state, make_family, run_burst, until, working
from tests.marks import stock_arq


class Greet(Payload, family="t"):
    name: str


# ---------------------------------------------------------------- tries


async def test_a_handler_knows_its_tries_and_the_error_before(redis_url: str, producer: Producer) -> None:
    seen: list[tuple[Any, ...]] = []
    errors: list[dict[str, Any] | None] = []

    async def work(ctx: JobContext) -> None:
        seen.append((ctx.job_try, ctx.tries, ctx.max_tries, ctx.is_last_try, ctx.crashes))
        errors.append(ctx.previous_error)
        if ctx.job_try == 2 and len(seen) == 2:
            raise RetryAfter(0, "job")
        raise ValueError(f"number {ctx.job_try}")

    before = datetime.now(UTC) - timedelta(seconds=1)
    async with working(redis_url, make_family("t", work, max_tries=7, backoff=Fixed(0))):
        job = await producer.enqueue("work", [], family="t", max_tries=3)
        await in_state(job, JobState.FAILED)
    assert seen == [(1, 0, 3, False, 0), (2, 1, 3, False, 0), (2, 1, 3, False, 0), (3, 2, 3, True, 0)]
    assert errors[0] is None
    for error, job_try in zip(errors[1:], (1, 1, 2), strict=True):
        assert error is not None
        assert before < error.pop("at") < datetime.now(UTC) + timedelta(seconds=1)
        assert error == {"try": job_try, "type": "ValueError", "message": f"number {job_try}"}


async def test_a_handler_knows_how_often_its_worker_died(redis_url: str, producer: Producer) -> None:
    seen: list[int] = []

    async def work(ctx: JobContext) -> None:
        seen.append(ctx.crashes)
        if len(seen) == 1:
            await asyncio.Event().wait()

    family = make_family("t", work)
    job = await producer.enqueue("work", [], family="t")
    async with working(redis_url, family) as first:
        await until(lambda: seen)
        first.drain()
        await producer.redis.zadd("{t}:workers", {first.session: 1})
        await run_burst(redis_url, family)
    assert (await job.status(), seen) == (JobState.COMPLETED, [0, 1])


# ---------------------------------------------------------------- time


async def test_a_handler_knows_how_long_it_has(redis_url: str, producer: Producer) -> None:
    seen: list[Any] = []

    async def work(ctx: JobContext) -> None:
        first, deadline = ctx.remaining, ctx.deadline
        await asyncio.sleep(0.01)
        seen.append((first, ctx.remaining, deadline, ctx.deadline, ctx.expires_at))

    def plain(ctx: JobContext) -> None:
        seen.append(ctx.remaining)

    families = make_family("t", func(work, name="work", timeout=60), plain, job_timeout=30)
    before = datetime.now(UTC)
    await producer.enqueue("work", [], family="t", job_id="never")
    await producer.enqueue("work", [], family="t", job_id="late", expires=3600, timeout=5, delay=0.01)
    async with working(redis_url, families):
        await until(lambda: len(seen) == 2)
        await producer.enqueue("plain", [], family="t")
        await until(lambda: len(seen) == 3)
    for (first, then, deadline, again, expires), limit in zip(seen[:2], (60, 5), strict=True):
        assert limit >= first > then > 0
        assert deadline == again
        assert before < deadline - timedelta(seconds=limit) < datetime.now(UTC)
        assert expires is None if limit == 60 else expires - before > timedelta(seconds=3590)
    assert 30 >= seen[2] > 0


async def test_past_its_limit_nothing_remains(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However early the timer is: here the short job's is that of the other, too."""
    monkeypatch.setattr("daemon.running.deadlines.EARLY", 60)
    seen: dict[str, float] = {}

    async def work(ctx: JobContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen[ctx.function] = ctx.remaining

    functions = func(work, name="short", timeout=0.02), func(work, name="long", timeout=30)
    for name in ("long", "short"):
        await producer.enqueue(name, [], family="t")
    await run_burst(redis_url, make_family("t", *functions, max_tries=1))
    assert seen == {"short": 0, "long": 0}


@stock_arq
@pytest.mark.parametrize(
    ("args", "kwargs", "payload"),
    [([1], {}, 1), ([1, 2], {}, [1, 2]), ([], {"a": 1}, {"a": 1}), ([1], {"b": 2}, {"args": [1], "kwargs": {"b": 2}})],
)
async def test_the_payload_is_in_the_context(
    redis_url: str, producer: Producer, args: list[Any], kwargs: dict[str, Any], payload: Any
) -> None:
    seen: list[Any] = []

    async def work(ctx: JobContext, *args: Any, **kwargs: Any) -> None:
        seen.append(ctx.payload)

    async def greet(ctx: JobContext, job: Greet) -> None:
        seen.append(ctx.payload)

    await producer.enqueue(Greet(name="ada"))
    stock = ArqRedis(
        connection_pool=producer.redis.connection_pool, job_serializer=codec.dumps, job_deserializer=codec.loads
    )
    await stock.enqueue_job("work", *args, _queue_name="arq:{t}", _job_id="{t}:stock", **kwargs)
    await run_burst(redis_url, make_family("t", work, greet, max_jobs=1))
    assert seen[0] == Greet(name="ada")
    assert seen[1] == payload


# ---------------------------------------------------------------- lines


async def test_lines_are_kept_with_the_job_and_go_to_the_log(
    redis_url: str, producer: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "arqd.job")

    async def work(ctx: JobContext) -> None:
        await ctx.log(f"try {ctx.job_try} begins")
        if ctx.job_try == 1:
            raise RuntimeError
        await ctx.log("two\nlines, 100 % \ud800 ünïcode")
        await ctx.log("y" * 3000)

    async with working(redis_url, make_family("t", work, backoff=Fixed(0))):
        job = await producer.enqueue("work", [], family="t")
        quiet = await producer.enqueue("work", [], family="t", delay=3600)
        await in_state(job, JobState.COMPLETED)
    logs = await job.logs()
    wanted = [(1, "try 1 begins"), (2, "try 2 begins"), (2, "two\nlines, 100 % \\ud800 ünïcode"), (2, "y" * 2000)]
    assert [(line.job_try, line.text) for line in logs.lines] == wanted
    assert all(datetime.now(UTC) - line.at < timedelta(minutes=1) for line in logs.lines)
    assert "two\nlines, 100 % \\ud800 ünïcode" in [record.getMessage() for record in caplog.records]
    inspector = Inspector(producer.redis, ["t"])
    assert await inspector.logs(job.id) == logs
    assert await inspector.logs(quiet.id) == JobLogs()
    with pytest.raises(JobNotFound):
        await inspector.logs("t:never")


async def test_a_line_that_cannot_be_kept_does_not_fail_the_job(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def away(*args: Any) -> bool:
        raise RedisConnectionError("gone")

    async def work(ctx: JobContext) -> str:
        await ctx.log("text")
        return "done"

    monkeypatch.setattr(Broker, "log", away)
    job = await producer.enqueue("work", [], family="t")
    await run_burst(redis_url, make_family("t", work))
    assert await job.result(30) == "done"
    assert "not kept with the job: gone" in caplog.text
