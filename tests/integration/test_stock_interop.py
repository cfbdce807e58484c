"""Stock arq 0.28 clients beside arqd: its producer's jobs run here, its `Job` reads and aborts them truthfully."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.jobs import Job, JobStatus, ResultNotFound

from daemon import codec
from daemon.context import JobContext
from daemon.errors import JobFailed
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.payload import Payload
from daemon.producer import Producer
from tests.engine import eventually, make_family, run_burst, until, working
from tests.marks import one_url

pytestmark = one_url

QUEUE = "arq:{t}"


class Sum(Payload, family="t", function="total"):
    a: int
    b: Decimal


async def total(ctx: JobContext, job: Sum) -> Decimal:
    return job.a + job.b


async def at(ctx: JobContext, when: datetime, *, days: int = 0) -> datetime:
    return when + timedelta(days=days)


async def fail(ctx: JobContext) -> None:
    raise ValueError("no such thing")


async def endless(ctx: JobContext) -> None:
    await asyncio.Event().wait()


def family(**values: Any) -> Any:
    # A short lease: it is when an idle worker first notices a producer that does not wake it.
    return make_family("t", total, at, fail, endless, lease=1, **{"max_tries": 1, **values})


@pytest.fixture
async def stock(redis_url: str) -> AsyncIterator[ArqRedis]:
    settings = RedisSettings.from_dsn(redis_url)
    pool = await create_pool(
        settings, job_serializer=codec.dumps, job_deserializer=codec.loads, default_queue_name=QUEUE
    )
    yield pool
    await pool.aclose()


async def enqueued(stock: ArqRedis, *args: Any, **kwargs: Any) -> Job:
    job = await stock.enqueue_job(*args, **kwargs)
    assert job is not None
    return job


# ---------------------------------------------------------------- its producer


async def test_positional_and_keyword_arguments_come_in_their_types(redis_url: str, stock: ArqRedis) -> None:
    when = datetime(2026, 3, 1, tzinfo=UTC)
    async with working(redis_url, family()):
        by_position = await enqueued(stock, "at", when, days=1)
        by_name = await enqueued(stock, "at", when=when)
        fields = await enqueued(stock, "total", a=1, b=Decimal("0.50"))
        payload = await enqueued(stock, "total", Sum(a=2, b=Decimal("0.50")))
        assert await by_position.result(60, poll_delay=0.02) == "2026-03-02T00:00:00Z"
        assert await by_name.result(60, poll_delay=0.02) == "2026-03-01T00:00:00Z"
        assert await fields.result(60, poll_delay=0.02) == "1.50"
        assert await payload.result(60, poll_delay=0.02) == "2.50"


async def test_deferred_jobs_and_ids_of_ones_own(redis_url: str, stock: ArqRedis) -> None:
    async with working(redis_url, family()):
        deferred = await enqueued(stock, "total", a=1, b=1, _defer_by=2)
        until_later = await enqueued(stock, "total", a=1, b=1, _defer_until=datetime.now(UTC) + timedelta(days=2))
        named = await enqueued(stock, "total", a=2, b=2, _job_id="mine")
        assert await stock.enqueue_job("total", a=2, b=2, _job_id="mine") is None
        assert await deferred.status() in (JobStatus.deferred, JobStatus.queued)
        assert await named.result(60, poll_delay=0.02) == "4"
        assert await stock.enqueue_job("total", a=2, b=2, _job_id="mine") is None
        assert await deferred.result(60, poll_delay=0.02) == "2"
        assert await until_later.status() is JobStatus.deferred


async def test_an_expiry_of_ones_own_is_kept_and_arqs_default_is_not(redis_url: str, stock: ArqRedis) -> None:
    short = await enqueued(stock, "total", a=1, b=1, _expires=600)
    default = await enqueued(stock, "total", a=1, b=1)
    await stock.hset("{t}:conf", "paused", "1")
    async with working(redis_url, family()):

        async def promoted() -> bool:
            return await stock.zcount(QUEUE, "-inf", 0) == 2

        await eventually(promoted)
        async with Producer.connect(redis_url) as producer:
            inspector = Inspector(producer.redis, ["t"])
            found = {info.id: info for info in await inspector.jobs("t", "waiting")}
        assert await stock.pttl("arq:job:" + default.job_id) == -1
        assert found[default.job_id].expires_at is None
        deadline = found[short.job_id].expires_at
        assert deadline is not None
        assert timedelta(seconds=500) < deadline - datetime.now(UTC) < timedelta(seconds=601)


async def test_an_idle_worker_finds_a_stock_producers_first_job(redis_url: str, stock: ArqRedis) -> None:
    async with working(redis_url, family()) as supervisor:
        await until(lambda: supervisor.workers[0].listening)
        job = await enqueued(stock, "total", a=1, b=1)
        assert await job.result(60, poll_delay=0.02) == "2"


async def test_arqs_producer_and_arqds_share_a_queue(redis_url: str, stock: ArqRedis) -> None:
    async with Producer.connect(redis_url) as producer:
        theirs = await enqueued(stock, "total", a=1, b=1)
        ours = await producer.enqueue(Sum(a=1, b=Decimal(2)))
        assert {definition.function for definition in await stock.queued_jobs()} == {"total"}
        assert len(await stock.queued_jobs()) == 2
        await run_burst(redis_url, family())
        assert await ours.result(30) == "3"
        assert await theirs.result(30) == "2"
        assert await Job(ours.job_id, stock, QUEUE, codec.loads).result(30) == "3"
        info = await Inspector(producer.redis, ["t"]).job(theirs.job_id)
        assert (info.state, info.result) == (JobState.COMPLETED, "2")


# ---------------------------------------------------------------- its reader


async def test_status_and_info_are_right_over_a_jobs_life(redis_url: str, stock: ArqRedis) -> None:
    async with Producer.connect(redis_url) as producer:
        handles = {
            "queued": await producer.enqueue("total", {"a": 1, "b": 1}, family="t"),
            "deferred": await producer.enqueue(Sum(a=1, b=Decimal(1)), delay=600),
            "running": await producer.enqueue("endless", [], family="t", priority=1),
        }
        jobs = {name: Job(handle.job_id, stock, QUEUE, codec.loads) for name, handle in handles.items()}
        assert await Job("nothing", stock, QUEUE, codec.loads).status() is JobStatus.not_found
        assert await jobs["queued"].status() is JobStatus.queued
        assert await jobs["deferred"].status() is JobStatus.deferred
        info = await jobs["queued"].info()
        assert info is not None
        assert (info.function, info.args, info.kwargs) == ("total", [{"a": 1, "b": 1}], {})
        assert abs(info.enqueue_time - datetime.now(UTC)) < timedelta(minutes=1)
        async with working(redis_url, family(max_jobs=1)) as supervisor:
            await until(lambda: any(run.begun for run in supervisor.workers[0].running.values()))
            assert await jobs["running"].status() is JobStatus.in_progress
            assert await jobs["running"].result_info() is None
            assert (await jobs["running"].info()) is not None
            assert await handles["running"].abort()
            assert await jobs["queued"].result(60, poll_delay=0.02) == "2"
        assert await jobs["queued"].status() is JobStatus.complete
        ended = await jobs["queued"].result_info()
        assert ended is not None
        assert (ended.success, ended.result, ended.job_try, ended.queue_name) == (True, "2", 1, QUEUE)
        assert ended.enqueue_time <= ended.start_time <= ended.finish_time
        with pytest.raises(asyncio.CancelledError):
            await jobs["running"].result(30)


async def test_a_failed_jobs_exception_is_read_as_job_failed(redis_url: str, stock: ArqRedis) -> None:
    job = await enqueued(stock, "fail")
    await run_burst(redis_url, family())
    with pytest.raises(JobFailed, match="ValueError: no such thing") as caught:
        await job.result(30)
    assert "in fail" in caught.value.traceback
    info = await job.result_info()
    assert info is not None
    assert not info.success
    assert isinstance(info.result, JobFailed)


async def test_all_results_are_read_by_arqs_own_listing(redis_url: str, stock: ArqRedis) -> None:
    async with Producer.connect(redis_url) as producer:
        await producer.enqueue(Sum(a=1, b=Decimal(1)))
        await producer.enqueue("fail", [], family="t")
        aborted = await producer.enqueue(Sum(a=3, b=Decimal(1)))
        await aborted.abort()
        await enqueued(stock, "total", a=2, b=2)
        await run_burst(redis_url, family())
        results = await stock.all_job_results()
        assert sorted((found.function, found.success) for found in results) == [
            ("fail", False), ("total", False), ("total", True), ("total", True),
        ]  # fmt: skip
        assert aborted.job_id in {found.job_id for found in results}


# ---------------------------------------------------------------- its abort


async def test_abort_of_a_waiting_job(redis_url: str, stock: ArqRedis) -> None:
    job = await enqueued(stock, "total", a=1, b=1)
    abort = asyncio.create_task(job.abort(timeout=60, poll_delay=0.02))

    async def asked() -> bool:
        return bool(await stock.zcard("arq:abort"))

    await eventually(asked)
    async with working(redis_url, family()):
        assert await abort is True
        assert (await job.result_info()).success is False  # type: ignore[union-attr]
        assert await stock.zcard("arq:abort") == 0


@pytest.mark.parametrize("ours", [True, False], ids=["arqds producer", "stock producer"])
async def test_abort_of_a_delayed_job(redis_url: str, stock: ArqRedis, ours: bool) -> None:
    async with working(redis_url, family()), Producer.connect(redis_url) as producer:
        if ours:
            handle = await producer.enqueue(Sum(a=1, b=Decimal(1)), delay=600)
            job = Job(handle.job_id, stock, QUEUE, codec.loads)
        else:
            job = await enqueued(stock, "total", a=1, b=1, _defer_by=600)
        assert await job.abort(timeout=60, poll_delay=0.02) is True
        assert await job.status() is JobStatus.complete
        stats = await Inspector(producer.redis, ["t"]).queue("t")
        assert (stats.aborted, stats.delayed, stats.waiting) == (1, 0, 0)


@pytest.mark.parametrize("ours", [True, False], ids=["arqds producer", "stock producer"])
async def test_abort_of_a_running_job_stops_it_and_runs_it_no_second_time(
    redis_url: str, stock: ArqRedis, ours: bool
) -> None:
    begun: list[str] = []

    async def runs(ctx: JobContext) -> None:
        begun.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            begun.append("stopped")

    async with working(redis_url, make_family("t", runs, lease=1)), Producer.connect(redis_url) as producer:
        if ours:
            job = Job((await producer.enqueue("runs", [], family="t")).job_id, stock, QUEUE, codec.loads)
        else:
            job = await enqueued(stock, "runs")
        await until(lambda: begun == ["begun"])
        assert await job.abort(timeout=60, poll_delay=0.02) is True
        assert begun == ["begun", "stopped"]
        stats = await Inspector(producer.redis, ["t"]).queue("t")
        assert (stats.active, stats.waiting, stats.aborted) == (0, 0, 1)


async def test_abort_of_what_is_over_or_never_was_says_no(redis_url: str, stock: ArqRedis) -> None:
    async with working(redis_url, family()):
        job = await enqueued(stock, "total", a=1, b=1)
        await job.result(60, poll_delay=0.02)
        assert await job.abort(timeout=60, poll_delay=0.02) is False
        assert await Job("nothing", stock, QUEUE, codec.loads).abort(timeout=60, poll_delay=0.02) is False
        assert await job.result(30) == "2"


async def test_an_abort_of_an_id_that_was_not_there_does_not_kill_a_later_job(redis_url: str, stock: ArqRedis) -> None:
    assert await Job("{t}:later", stock, QUEUE, codec.loads).abort(timeout=60, poll_delay=0.02) is False
    await asyncio.sleep(0.005)
    async with working(redis_url, family()), Producer.connect(redis_url) as producer:
        job = await producer.enqueue(Sum(a=1, b=Decimal(1)), job_id="later")
        assert await job.result(30) == "2"


async def test_a_result_that_was_not_kept_is_not_found(redis_url: str, stock: ArqRedis) -> None:
    job = await enqueued(stock, "total", a=1, b=1)
    await run_burst(redis_url, family(keep_result=0))
    with pytest.raises(ResultNotFound):
        await job.result(30)
