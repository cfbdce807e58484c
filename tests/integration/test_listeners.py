"""on_failure and on_dead: told once what happened is recorded, for every way a job becomes a dead letter."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from arq.worker import Retry

import daemon.running.listeners
from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import PermanentError, RetryAfter
from daemon.family import Family, func
from daemon.job import JobState
from daemon.payload import Payload
from daemon.producer import Producer
from daemon.retry import Fixed
from tests.engine import in_state, make_family, run_burst, until, working


class Told:
    """Listeners that note what they are told, and the job's state then."""

    def __init__(self, producer: Producer) -> None:
        self.notes: list[tuple[Any, ...]] = []
        self.contexts: list[JobContext] = []
        self._producer = producer

    async def failure(self, ctx: JobContext, error: BaseException) -> None:
        await self._note("failure", ctx, error)

    async def dead(self, ctx: JobContext, error: BaseException) -> None:
        await self._note("dead", ctx, error)

    async def _note(self, what: str, ctx: JobContext, error: BaseException) -> None:
        self.contexts.append(ctx)
        state = await self._producer.job(ctx.job_id).status()
        self.notes.append((what, ctx.job_try, type(error).__name__, str(error), str(state)))

    def family(self, *functions: Any, **values: Any) -> Family:
        values = {"backoff": Fixed(3600), **values}
        return make_family("t", *functions, on_failure=self.failure, on_dead=self.dead, **values)


@pytest.fixture
def told(producer: Producer) -> Told:
    return Told(producer)


class Pay(Payload, family="t"):
    amount: int


async def test_every_failed_try_and_the_end(redis_url: str, producer: Producer, told: Told) -> None:
    async def pay(ctx: JobContext, job: Pay) -> None:
        raise ValueError(f"no {ctx.job_try}")

    job = await producer.enqueue(Pay(amount=3), max_tries=2, tags=["x"])
    async with working(redis_url, told.family(pay)):
        await until(lambda: len(told.notes) == 1)
        assert told.notes == [("failure", 1, "ValueError", "no 1", "delayed")]
    async with working(redis_url, told.family(pay, backoff=Fixed(0))):
        await Control(producer.redis, ["t"]).promote([job.id])
        await until(lambda: len(told.notes) == 3)
    assert told.notes[1:] == [
        ("failure", 2, "ValueError", "no 2", "failed"),
        ("dead", 2, "ValueError", "no 2", "failed"),
    ]
    last = told.contexts[-1]
    assert (last.job_id, last.function, last.payload, last.tags) == (job.job_id, "pay", Pay(amount=3), ["x"])
    assert last.is_last_try


@pytest.mark.parametrize(
    ("way", "wanted"),
    [
        ("permanent", ["failure PermanentError: bad card", "dead PermanentError: bad card"]),
        ("too_large", ["failure TooLarge: the result is ", "dead TooLarge: the result is "]),
        ("timeout", ["failure TimeoutError: timed out after 0.02 s", "dead TimeoutError: timed out after 0.02 s"]),
        ("retry", ["failure Retry: "]),
        ("wait", []),
        ("done", []),
    ],
)
async def test_ways_a_try_ends(redis_url: str, producer: Producer, told: Told, way: str, wanted: list[str]) -> None:
    async def work(ctx: JobContext) -> Any:
        match way:
            case "permanent":
                raise PermanentError("bad card")
            case "too_large":
                return "x" * 200
            case "timeout":
                await asyncio.Event().wait()
            case "retry":
                raise Retry(3600)
            case "wait":
                raise RetryAfter(3600, "job")
        return None

    limit, tries = (0.02, 1) if way == "timeout" else (30, 5)
    job = await producer.enqueue("work", [], family="t")
    family = told.family(func(work, name="work", timeout=limit, max_tries=tries), max_result=100)
    async with working(redis_url, family) as supervisor:
        await until(lambda: supervisor.workers[0].progress.last_claim and not supervisor.workers[0].busy)
    notes = [f"{what} {kind}: {text}" for what, _, kind, text, _ in told.notes]
    assert len(notes) == len(wanted)
    assert all(note.startswith(want) for note, want in zip(notes, wanted, strict=True)), notes
    assert await job.status() in (JobState.FAILED, JobState.DELAYED, JobState.COMPLETED)


async def test_a_bad_payload_is_told_once_without_a_payload(redis_url: str, producer: Producer, told: Told) -> None:
    async def pay(ctx: JobContext, job: Pay) -> None: ...

    job = await producer.enqueue("pay", [{"amount": "much"}], family="t")
    await run_burst(redis_url, told.family(pay))
    ((what, job_try, kind, _, state),) = told.notes
    assert (what, job_try, kind, state) == ("dead", 1, "ValidationError", "failed")
    (ctx,) = told.contexts
    assert (ctx.job_id, ctx.function, ctx.payload, ctx.tags) == (job.job_id, "pay", None, [])


async def test_an_unreadable_entry_is_told(redis_url: str, producer: Producer, told: Told) -> None:
    async def work(ctx: JobContext) -> None: ...

    await producer.redis.set("arq:job:{t}:odd", b"\x80\x04 not ours")
    await producer.redis.zadd("arq:{t}", {"{t}:odd": 1000})
    await run_burst(redis_url, told.family(work))
    ((what, _, kind, _, state),) = told.notes
    assert (what, kind, state) == ("dead", "Unreadable", "failed")
    (ctx,) = told.contexts
    assert (ctx.job_id, ctx.function, ctx.payload, ctx.expires_at) == ("{t}:odd", "?", None, None)
    assert ctx.previous_error is None


async def test_a_job_that_killed_its_workers_is_told(redis_url: str, producer: Producer, told: Told) -> None:
    async def work(ctx: JobContext) -> None: ...

    job = await producer.enqueue("work", [], family="t")
    await producer.redis.hset("{t}:crashes", job.job_id, 3)
    await run_burst(redis_url, told.family(work))
    assert told.notes == [("dead", 1, "JobFailed", "WorkerCrashed: its worker died 3 times while it ran", "failed")]
    assert told.contexts[0].crashes == 3


async def test_what_a_listener_raises_or_how_long_it_takes_changes_nothing(
    redis_url: str, producer: Producer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon.running.listeners, "LIMIT", 0.05)
    shut: list[str] = []

    async def work(ctx: JobContext) -> None:
        raise ValueError("broken")

    async def failure(ctx: JobContext, error: BaseException) -> None:
        raise RuntimeError("listener broke")

    async def dead(ctx: JobContext, error: BaseException) -> None:
        shut.append("waits")
        await asyncio.Event().wait()

    async def shutdown(ctx: Any) -> None:
        shut.append("shutdown")

    hooks = {"on_failure": failure, "on_dead": dead, "on_shutdown": shutdown}
    job = await producer.enqueue("work", [], family="t")
    await run_burst(redis_url, make_family("t", work, max_tries=1, **hooks))
    info = await job.info()
    assert (info.state, info.tries, (info.error or {})["message"]) == (JobState.FAILED, 1, "broken")
    assert "on_failure failed" in caplog.text
    assert "listener broke" in caplog.text
    assert "on_dead took longer than 0.05 s and was cancelled" in caplog.text
    assert shut == ["waits", "shutdown"], "what on_startup opened is there as long as listeners run"


async def test_hooks_that_hang_hold_neither_the_job_nor_the_worker(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(daemon.running.listeners, "LIMIT", 0.05)

    async def work(ctx: JobContext) -> int:
        return 1

    async def hang(ctx: JobContext) -> None:
        await asyncio.Event().wait()

    job = await producer.enqueue("work", [], family="t")
    await run_burst(redis_url, make_family("t", work, on_job_end=hang, after_job_end=hang))
    assert await job.result(timeout=5) == 1
    for name in ("on_job_end", "after_job_end"):
        assert f"{name} took longer than 0.05 s and was cancelled" in caplog.text


async def test_what_a_dead_letters_listener_does_is_of_its_own(redis_url: str, producer: Producer) -> None:
    """It may enqueue other jobs; the job itself is not its worker's any more."""

    async def work(ctx: JobContext) -> None:
        raise ValueError

    async def repair(ctx: JobContext, what: str) -> str:
        return what

    async def dead(ctx: JobContext, error: BaseException) -> None:
        await ctx.log("not kept")
        await ctx.producer.enqueue("repair", [ctx.job_id], family="t", job_id="repair")

    async with working(redis_url, make_family("t", work, repair, max_tries=1, on_dead=dead)):
        job = await producer.enqueue("work", [], family="t")
        repaired = await in_state(producer.job("t:repair"), JobState.COMPLETED)
    assert repaired.result == job.job_id
    assert (await job.logs()).lines == []
