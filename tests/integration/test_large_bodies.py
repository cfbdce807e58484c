"""Large payloads are validated in a thread: the rest of the process goes on, and all else is as with small ones."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator

from daemon.context import JobContext
from daemon.errors import JobFailed
from daemon.executor import LARGE
from daemon.family import func
from daemon.job import JobState
from daemon.payload import Payload, schema_mark
from daemon.producer import Producer
from daemon.retry import Fixed
from tests.engine import in_state, make_family, run_burst, until, working


class Checks:
    """The slow check of a field, of which a test says when it ends."""

    def __init__(self) -> None:
        self.begun = 0
        self.may_end = threading.Event()

    def check(self, text: str) -> str:
        self.begun += 1
        if not self.may_end.wait(20):
            raise ValueError("nothing else ran meanwhile")
        return text


checks = Checks()


class Letter(Payload, family="t", function="read"):
    text: Annotated[str, AfterValidator(lambda text: checks.check(text))]


class Newer(Payload, family="t", function="read", version=2):
    text: str


async def read(ctx: JobContext, job: Letter) -> int:
    return len(job.text)


async def small(ctx: JobContext) -> None: ...


LONG = {"text": "x" * LARGE}


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "checks", Checks())


async def test_the_loop_is_free_while_a_large_body_is_checked(redis_url: str, producer: Producer) -> None:
    async with working(redis_url, make_family("t", read, small)):
        large = await producer.enqueue("read", LONG, family="t")
        await until(lambda: checks.begun)
        other = await producer.enqueue("small", [], family="t")
        await other.result(15)
        checks.may_end.set()
        assert await large.result(30) == LARGE
    assert checks.begun == 1


async def test_what_a_large_job_carries_counts_for_it(redis_url: str, producer: Producer) -> None:
    seen: list[Any] = []
    checks.may_end.set()

    async def keep(ctx: JobContext, job: Letter) -> None:
        seen.append((ctx.job_try, ctx.max_tries, ctx.tags, ctx.payload == job, ctx.request_id))
        raise ValueError("no")

    job = await producer.enqueue("keep", LONG, family="t", max_tries=2, backoff=Fixed(0), tags=["a"], request_id="r-1")
    await run_burst(redis_url, make_family("t", keep))
    assert seen == [(1, 2, ["a"], True, "r-1"), (2, 2, ["a"], True, "r-1")]
    assert (await job.info()).state is JobState.FAILED


async def test_a_large_payload_of_a_newer_release_is_parked(redis_url: str, producer: Producer) -> None:
    assert schema_mark(Newer) != schema_mark(Letter)
    checks.may_end.set()
    async with working(redis_url, make_family("t", read)):
        job = await producer.enqueue(Newer(**LONG))
        await in_state(job, JobState.PARKED)


async def test_a_large_job_is_aborted_while_it_is_checked(redis_url: str, producer: Producer) -> None:
    async with working(redis_url, make_family("t", read)):
        job = await producer.enqueue("read", LONG, family="t")
        await until(lambda: checks.begun)
        await job.abort()
        with pytest.raises(asyncio.CancelledError):
            await job.result(30)
        assert (await job.info()).state is JobState.ABORTED
    checks.may_end.set()


async def test_a_check_that_takes_longer_than_the_job_may_costs_a_try(
    redis_url: str, producer: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    family = make_family("t", func(read, name="read", timeout=0.05), max_tries=2, backoff=Fixed(0))
    with caplog.at_level(logging.WARNING):
        async with working(redis_url, family):
            job = await producer.enqueue("read", LONG, family="t")
            with pytest.raises(JobFailed, match=r"timed out after 0\.05 s") as caught:
                await job.result(30)
    checks.may_end.set()
    assert (caught.value.reason, checks.begun) == ("tries", 2)
    assert "try 1 of 2 failed" in caplog.text
