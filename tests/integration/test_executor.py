"""One job: its context and hooks, its limits, and what becomes of each way it can end."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

import daemon.executor
from daemon.context import JobContext
from daemon.errors import JobFailed
from daemon.family import func
from daemon.job import JobInfo, JobState
from daemon.logs import configure_logging
from daemon.payload import Payload, PayloadModel
from daemon.producer import Producer
from daemon.retry import Fixed
from tests.engine import eventually, in_state, make_family, run_burst, until, working


class Bill(PayloadModel):
    price: Decimal
    key: UUID
    paid: datetime | None


class Pay(Payload, family="t", returns=list[Bill]):
    bill: Bill
    times: int


# ---------------------------------------------------------------- context and hooks


async def test_typed_payloads_and_results_survive(redis_url: str, producer: Producer) -> None:
    seen: list[Any] = []

    async def pay(ctx: JobContext, job: Pay) -> list[Bill]:
        seen.append(job)
        return [job.bill] * job.times

    bill = Bill(price=Decimal("0.10"), key=UUID(int=1), paid=datetime(2026, 3, 1, tzinfo=UTC))
    job = await producer.enqueue(Pay(bill=bill, times=2))
    await run_burst(redis_url, make_family("t", pay))
    assert await job.result(30) == [bill, bill]
    assert seen == [Pay(bill=bill, times=2)]


async def test_hooks_run_in_order_with_what_startup_opened(redis_url: str, producer: Producer) -> None:
    order: list[Any] = []

    async def startup(ctx: dict[str, Any]) -> None:
        ctx["opened"] = "database"
        order.append(("startup", ctx["given"], "redis" in ctx))

    async def job_start(ctx: JobContext) -> None:
        order.append(("start", ctx.job_id, ctx["opened"]))

    async def work(ctx: JobContext) -> None:
        order.append(("work", ctx["opened"]))

    async def job_end(ctx: JobContext) -> None:
        order.append(("end", await producer.job(ctx.job_id).status()))

    async def after(ctx: JobContext) -> None:
        order.append(("after", await producer.job(ctx.job_id).status()))

    async def shutdown(ctx: dict[str, Any]) -> None:
        order.append(("shutdown", ctx["opened"]))

    hooks = {
        "on_startup": startup, "on_shutdown": shutdown, "on_job_start": job_start, "on_job_end": job_end,
        "after_job_end": after, "ctx": {"given": 1},
    }  # fmt: skip
    async with working(redis_url, make_family("t", work, **hooks)):
        job = await producer.enqueue("work", [], family="t")
        await until(lambda: len(order) >= 5)
    assert order == [
        ("startup", 1, True),
        ("start", job.job_id, "database"),
        ("work", "database"),
        ("end", JobState.ACTIVE),
        ("after", JobState.COMPLETED),
        ("shutdown", "database"),
    ]


async def test_the_context_is_arqs_mapping_with_attributes(redis_url: str, producer: Producer) -> None:
    seen: list[JobContext] = []

    async def work(ctx: JobContext) -> str:
        seen.append(ctx)
        ctx["mine"] = len(seen)
        await ctx.redis.set(ctx.key("note"), "kept")
        follow = await ctx.producer.enqueue("follow", [1], family="t")
        return follow.id

    async def follow(ctx: JobContext, n: int) -> bool:
        return "mine" in ctx

    before = datetime.now(UTC) - timedelta(seconds=1)
    async with working(redis_url, make_family("t", work, follow, ctx={"shared": "x"})):
        job = await producer.enqueue("work", [], family="t", tags=["a"], priority=3)
        assert await producer.job(await job.result(30)).result(60) is False
    ctx = seen[0]
    assert (ctx.job_id, ctx.function, ctx.family, ctx.job_try, ctx.tags) == (job.job_id, "work", "t", 1, ["a"])
    assert (ctx["job_id"], ctx["job_try"], ctx["shared"]) == (job.job_id, 1, "x")
    assert ctx.enqueue_time == ctx["enqueue_time"]
    assert before < ctx.enqueue_time < datetime.now(UTC) + timedelta(seconds=1)
    assert isinstance(ctx["score"], int)
    assert await producer.redis.get("{t}:data:note") == b"kept"


async def test_an_error_in_on_job_start_fails_the_try(redis_url: str, producer: Producer) -> None:
    ran: list[int] = []

    async def refuse(ctx: JobContext) -> None:
        raise RuntimeError("no database")

    async def work(ctx: JobContext) -> None:
        ran.append(1)

    job = await producer.enqueue("work", [], family="t")
    await run_burst(redis_url, make_family("t", work, on_job_start=refuse, max_tries=1))
    with pytest.raises(JobFailed, match="RuntimeError: no database"):
        await job.result(30)
    assert ran == []


async def test_errors_in_hooks_at_the_end_do_not_lose_the_result(
    redis_url: str, producer: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(ctx: JobContext) -> None:
        raise RuntimeError("hook broke")

    async def work(ctx: JobContext) -> int:
        return 7

    async with working(redis_url, make_family("t", work, on_job_end=broken, after_job_end=broken)):
        assert await (await producer.enqueue("work", [], family="t")).result(30) == 7
        await until(lambda: "after_job_end failed" in caplog.text)
        assert await (await producer.enqueue("work", [], family="t")).result(30) == 7
    assert "on_job_end failed" in caplog.text


# ---------------------------------------------------------------- limits on time


async def test_a_timeout_cancels_and_is_tried_again(redis_url: str, producer: Producer) -> None:
    cancelled: list[int] = []

    async def slow(ctx: JobContext) -> int:
        if ctx.job_try < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(ctx.job_try)
                raise
        return ctx.job_try

    family = make_family("t", func(slow, name="slow", timeout=0.05), backoff=Fixed(0))
    async with working(redis_url, family):
        job = await producer.enqueue("slow", [], family="t")
        assert await job.result(30) == 2
    assert cancelled == [1]


async def test_a_handler_that_swallows_its_cancellation_is_cancelled_again_and_told(
    redis_url: str, producer: Producer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon.executor, "INSIST", 0.05)

    async def swallows(ctx: JobContext) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async with working(redis_url, make_family("t", swallows, job_timeout=0.05, max_tries=1, max_jobs=1)):
        job = await producer.enqueue("swallows", [], family="t")
        with pytest.raises(JobFailed, match=r"TimeoutError: timed out after 0\.05 s"):
            await job.result(30)
    told = [line for line in caplog.records if line.message == "does not end when it is cancelled"]
    assert {vars(line)["job_id"] for line in told} == {job.id}


async def test_a_cancelled_error_of_the_handlers_own_is_an_ordinary_failure(redis_url: str, producer: Producer) -> None:
    async def cancels(ctx: JobContext) -> None:
        raise asyncio.CancelledError

    job = await producer.enqueue("cancels", [], family="t")
    await run_burst(redis_url, make_family("t", cancels, max_tries=2, backoff=Fixed(0)))
    with pytest.raises(JobFailed) as caught:
        await job.result(30)
    assert (caught.value.type, caught.value.tries) == ("CancelledError", 2)


# ---------------------------------------------------------------- threads and processes


async def test_a_plain_function_runs_in_a_thread_inside_the_jobs_context(
    redis_url: str, producer: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def where(ctx: JobContext, n: int) -> list[Any]:
        logging.getLogger("mine").info("in the thread")
        return [threading.current_thread() is threading.main_thread(), ctx.job_try, n]

    async with working(redis_url, make_family("t", where)):
        assert await (await producer.enqueue("where", [3], family="t")).result(30) == [False, 1, 3]


async def test_a_thread_past_its_timeout_keeps_its_slot_and_that_is_told(
    redis_url: str, producer: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    release, started = threading.Event(), threading.Event()

    def stuck(ctx: JobContext) -> None:
        started.set()
        release.wait(60)

    async def quick(ctx: JobContext) -> str:
        return "quick"

    family = make_family("t", stuck, quick, max_jobs=1, job_timeout=0.05, max_tries=1)
    async with working(redis_url, family) as supervisor:
        job = await producer.enqueue("stuck", [], family="t")
        await until(started.is_set)
        other = await producer.enqueue("quick", [], family="t")
        await until(lambda: "its slot stays taken until it ends" in caplog.text)
        assert len(supervisor.workers[0].running) == 1
        assert (await job.status(), await other.status()) == (JobState.ACTIVE, JobState.WAITING)
        release.set()
        assert await other.result(30) == "quick"
        with pytest.raises(JobFailed, match="TimeoutError"):
            await job.result(30)


async def test_an_aborted_job_leaves_its_thread_behind_and_the_next_gets_another(
    redis_url: str, producer: Producer
) -> None:
    release, started = threading.Event(), threading.Event()

    def stuck(ctx: JobContext) -> None:
        started.set()
        release.wait(60)

    def quick(ctx: JobContext) -> str:
        return "quick"

    try:
        async with working(redis_url, make_family("t", stuck, quick, max_jobs=1)):
            job = await producer.enqueue("stuck", [], family="t")
            await until(started.is_set)
            assert await job.abort()
            assert await (await producer.enqueue("quick", [], family="t")).result(30) == "quick"
    finally:
        release.set()


async def test_cpu_work_runs_in_another_process_and_its_errors_come_back(redis_url: str, producer: Producer) -> None:
    async def compute(ctx: JobContext) -> list[Any]:
        try:
            await ctx.run_in_process(int, "x")
        except ValueError as error:
            return [await ctx.run_in_process(os.getpid), str(error)]
        return []

    async with working(redis_url, make_family("t", compute)):
        pid, error = await (await producer.enqueue("compute", [], family="t")).result(30)
    assert pid != os.getpid()
    assert "invalid literal" in error


async def test_a_process_that_dies_costs_its_job_a_try_and_not_the_pool(redis_url: str, producer: Producer) -> None:
    async def dies(ctx: JobContext) -> None:
        await ctx.run_in_process(os._exit, 3)

    async def lives(ctx: JobContext) -> int:
        return await ctx.run_in_process(os.getpid)

    async with working(redis_url, make_family("t", dies, lives, max_tries=1)):
        with pytest.raises(JobFailed, match="BrokenProcessPool"):
            await (await producer.enqueue("dies", [], family="t")).result(30)
        assert await (await producer.enqueue("lives", [], family="t")).result(30) != os.getpid()


async def test_work_that_goes_on_when_its_job_has_ended_takes_no_process_from_the_next(
    redis_url: str, producer: Producer
) -> None:
    async def stuck(ctx: JobContext) -> None:
        await ctx.run_in_process(time.sleep, 600)

    async def lives(ctx: JobContext) -> int:
        return await ctx.run_in_process(os.getpid)

    count = (os.cpu_count() or 1) + 2
    async with working(redis_url, make_family("t", stuck, lives, max_jobs=count)):
        before = set(multiprocessing.active_children())
        jobs = [await producer.enqueue("stuck", [], family="t") for _ in range(count)]
        await until(lambda: len(set(multiprocessing.active_children()) - before) == os.cpu_count())
        for job in jobs:
            assert await job.abort()
        pid = await (await producer.enqueue("lives", [], family="t")).result(30)
        await until(lambda: {child.pid for child in set(multiprocessing.active_children()) - before} == {pid})


# ---------------------------------------------------------------- progress and results


async def test_progress_is_seen_while_it_runs_and_starts_anew_with_a_retry(redis_url: str, producer: Producer) -> None:
    go = asyncio.Event()

    async def work(ctx: JobContext) -> None:
        if ctx.job_try == 1:
            await ctx.progress(12.9, "first\nline \ud83d")
            await go.wait()
            raise ValueError
        await asyncio.Event().wait()

    async with working(redis_url, make_family("t", work, backoff=Fixed(0))):
        job = await producer.enqueue("work", [], family="t")

        async def reported() -> JobInfo | None:
            info = await job.info()
            return info if info.progress is not None else None

        info = await eventually(reported)
        assert info is not None
        assert (info.progress, info.note, info.state) == (12, "first line \\ud83d", JobState.ACTIVE)
        go.set()
        info = await in_state(job, JobState.ACTIVE, 1)
        assert (info.progress, info.note) == (None, None)


@pytest.mark.parametrize("percent", [-1, 100.5, float("nan")])
async def test_progress_out_of_range_is_refused(redis_url: str, producer: Producer, percent: float) -> None:
    async def work(ctx: JobContext, percent: float) -> None:
        await ctx.progress(percent)

    job = await producer.enqueue("work", [percent], family="t")
    await run_burst(redis_url, make_family("t", work, max_tries=1))
    with pytest.raises(JobFailed, match=r"InvalidJob: progress .* is not 0 to 100"):
        await job.result(30)


async def test_a_result_over_the_limit_is_a_dead_letter_at_once(redis_url: str, producer: Producer) -> None:
    async def large(ctx: JobContext, size: int) -> str:
        return "x" * size

    family = make_family("t", large, max_result=1000, backoff=Fixed(999))
    ok = await producer.enqueue("large", [900], family="t")
    job = await producer.enqueue("large", [1000], family="t")
    await run_burst(redis_url, family)
    assert len(await ok.result(30)) == 900
    with pytest.raises(JobFailed, match=r"TooLarge: the result is 1,002 bytes, the limit is 1,000") as caught:
        await job.result(30)
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (threading.Event(), r"result cannot be written as JSON.*Event"),
        (10**4300, "the result has an integer of more than 4,300 digits"),
    ],
    ids=["type", "digits"],
)
async def test_a_result_json_cannot_carry_is_a_dead_letter_that_names_what_it_is(
    redis_url: str, producer: Producer, value: Any, said: str
) -> None:
    async def opaque(ctx: JobContext) -> Any:
        return {"a": value}

    job = await producer.enqueue("opaque", [], family="t")
    await run_burst(redis_url, make_family("t", opaque, backoff=Fixed(999)))
    with pytest.raises(JobFailed, match=said) as caught:
        await job.result(30)
    assert caught.value.reason == "permanent"


# ---------------------------------------------------------------- log lines


@pytest.fixture
def log_lines() -> Iterator[Any]:
    """Collect the process's log as `configure_logging` writes it."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("INFO", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.captureWarnings(False)
    root.handlers[:] = before
    root.setLevel(level)


async def test_every_line_of_a_job_carries_its_fields_and_the_last_one_the_duration(
    redis_url: str, producer: Producer, log_lines: Any
) -> None:
    async def work(ctx: JobContext, fail: bool) -> None:
        logging.getLogger("my.library").info("working")
        if fail:
            raise ValueError("no")

    fine = await producer.enqueue("work", [False], family="t")
    failing = await producer.enqueue("work", [True], family="t")
    await run_burst(redis_url, make_family("t", work, max_tries=2, backoff=Fixed(0)))
    for job, said in (
        (fine, [("working", 1), ("completed", 1)]),
        (
            failing,
            [("working", 1), ("try 1 of 2 failed", 1), ("working", 2), ("dead letter (tries): ValueError: no", 2)],
        ),
    ):
        lines = [line for line in log_lines() if line.get("job_id") == job.id]
        assert [(line["family"], line["function"]) for line in lines] == [("t", "work")] * len(said)
        assert [line["try"] for line in lines] == [attempt for _, attempt in said]
        assert all(line["message"].startswith(start) for line, (start, _) in zip(lines, said, strict=True))
        ends = [line for line in lines if line["message"] != "working"]
        assert all(0 <= line["duration"] < 60 for line in ends)
    assert "Traceback" in lines[-1]["exception"]


async def test_lines_of_jobs_that_did_not_run_carry_the_fields_too(
    redis_url: str, producer: Producer, log_lines: Any
) -> None:
    async def typed(ctx: JobContext, n: int) -> None: ...

    async with working(redis_url, make_family("t", typed)):
        unknown = await producer.enqueue("unknown", [], family="t")
        wrong = await producer.enqueue("typed", ["x"], family="t")
        await in_state(wrong, JobState.FAILED)
        await in_state(unknown, JobState.PARKED)
    for job, function in ((unknown, "unknown"), (wrong, "typed")):
        (line,) = [line for line in log_lines() if job.id in json.dumps(line)]
        assert (line["job_id"], line["family"], line["function"], line["try"]) == (job.id, "t", function, 1)


async def test_nothing_is_built_for_a_level_that_is_off(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(ctx: JobContext) -> None: ...

    logger = logging.getLogger("arqd.job")
    monkeypatch.setattr(logger, "level", logging.WARNING)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    built: list[Any] = []
    monkeypatch.setattr(logger, "makeRecord", lambda *args, **_: built.append(args))
    job = await producer.enqueue("work", [], family="t")
    await run_burst(redis_url, make_family("t", work))
    assert await job.status() is JobState.COMPLETED
    assert built == []
