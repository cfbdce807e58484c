"""A rolling deploy: workers of two releases side by side, and jobs only one of them can run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daemon.context import JobContext
from daemon.family import func
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.payload import Payload, schema_mark
from daemon.producer import Producer
from tests.engine import eventually, in_state, make_family, working


class First(Payload, family="t", function="send"):
    """What the release before sends."""

    to: str


class Optional(Payload, family="t", function="send"):
    """A field more, which need not be given; the version was not raised."""

    to: str
    copy_to: str = ""


class Second(Payload, family="t", function="send", version=2):
    """A field more that must be given."""

    to: str
    lang: str

    @classmethod
    def upgrade(cls, fields: dict[str, Any], version: int) -> dict[str, Any]:
        return {**fields, "lang": "en"}


class Both(Payload, family="t", function="send", version=2):
    """Both fields more; what the release before sends needs no change."""

    to: str
    lang: str = "en"
    copy_to: str = ""


async def send_first(ctx: JobContext, job: First) -> str:
    return job.to


async def send_optional(ctx: JobContext, job: Optional) -> str:
    return job.to + job.copy_to


async def send_second(ctx: JobContext, job: Second) -> str:
    return job.to + job.lang


async def send_both(ctx: JobContext, job: Both) -> str:
    return job.to


def release(send: Any, *functions: Any) -> Any:
    return make_family("t", func(send, name="send"), old, *functions, keep_completed=None)


async def old(ctx: JobContext, n: int) -> int:
    return n


async def new(ctx: JobContext, n: int) -> int:
    return -n


async def test_jobs_of_a_new_function_all_run_where_it_is_known(redis_url: str, producer: Producer) -> None:
    async with working(redis_url, make_family("t", old)), working(redis_url, make_family("t", old, new)):
        jobs = []
        for number in range(100):
            jobs.append(await producer.enqueue("new", [number], family="t"))
            jobs.append(await producer.enqueue("old", [number], family="t"))
        results = await asyncio.gather(*(job.result(60) for job in jobs))
    assert results == [value for number in range(100) for value in (-number, number)]
    stats = await Inspector(producer.redis, ["t"]).queue("t")
    assert (stats.failed, stats.parked, stats.totals["completed"]) == (0, 0, 200)
    assert not await producer.redis.exists("{t}:parked", "{t}:parked:new")


async def test_what_is_parked_is_listed_counted_and_no_backlog(redis_url: str, producer: Producer) -> None:
    inspector = Inspector(producer.redis, ["t"])
    async with working(redis_url, make_family("t", old)):
        job = await producer.enqueue("new", [1], family="t")
        await in_state(job, JobState.PARKED)
        (listed,) = await inspector.jobs("t", "parked")
        assert (listed.id, listed.function, listed.note) == (job.id, "new", "no worker knows the function 'new'")
        stats, backlog = await inspector.queue("t"), await inspector.backlog("t")
        assert (stats.parked, stats.waiting, backlog["backlog"], backlog["load"]) == (1, 0, 0, 0)


async def test_what_is_parked_can_be_aborted(redis_url: str, producer: Producer) -> None:
    async with working(redis_url, make_family("t", old, lease=1)):
        job = await producer.enqueue("new", [1], family="t")
        await in_state(job, JobState.PARKED)
        assert await job.abort()
        assert await job.status() is JobState.ABORTED

        async def forgotten() -> bool:
            return not await producer.redis.exists("{t}:parked", "{t}:parked:new")

        await eventually(forgotten)


# ---------------------------------------------------------------- payloads of two releases


def test_a_schema_is_told_from_another_by_what_it_takes_not_by_its_texts() -> None:
    class Again(Payload, family="t", function="send"):
        """Another text."""

        to: str

    assert schema_mark(Again) == schema_mark(First)
    assert len({schema_mark(model) for model in (First, Optional, Second)}) == 3
    assert [schema_mark(model)[:2] for model in (First, Optional, Second)] == ["1#", "1#", "2#"]


async def test_an_older_payload_is_upgraded(redis_url: str, producer: Producer) -> None:
    job = await producer.enqueue(First(to="a"))
    async with working(redis_url, release(send_second)):
        assert await job.result(30) == "aen"


async def test_a_newer_version_is_parked_until_a_worker_knows_it(redis_url: str, producer: Producer) -> None:
    job = await producer.enqueue(Second(to="a", lang="fr"))
    async with working(redis_url, release(send_first)):
        info = await in_state(job, JobState.PARKED)
        assert info.note == "version 2 of its payload is newer than 1, known here"
        async with working(redis_url, release(send_second)):
            assert await job.result(30) == "afr"


async def test_a_forgotten_version_costs_no_job(redis_url: str, producer: Producer) -> None:
    fits = await producer.enqueue(Optional(to="a"))
    job = await producer.enqueue(Optional(to="a", copy_to="b"))
    async with working(redis_url, release(send_first)):
        for waiting in (fits, job):
            info = await in_state(waiting, JobState.PARKED)
            assert info.note == "its payload was written for another schema than the one known here"
        async with working(redis_url, release(send_optional)):
            assert [await waiting.result(30) for waiting in (fits, job)] == ["a", "ab"]


async def test_a_payload_that_is_wrong_for_its_own_schema_is_a_dead_letter(redis_url: str, producer: Producer) -> None:
    job = await producer.enqueue("send", {"nobody": 1}, family="t")
    async with working(redis_url, release(send_second)):
        info = await in_state(job, JobState.FAILED)
    assert info.error is not None
    assert info.error["reason"] == "payload"


@pytest.mark.timeout(480)
@pytest.mark.parametrize("jobs", [5000])
async def test_a_rolling_deploy_loses_and_fails_nothing(redis_url: str, producer: Producer, jobs: int) -> None:
    """Both releases of the producers and of the workers at once: a new function, an optional and a required field."""
    made = {
        "first": [First(to=str(number)) for number in range(jobs // 5)],
        "optional": [Optional(to=str(number), copy_to="x") for number in range(jobs // 5)],
        "second": [Second(to=str(number), lang="fr") for number in range(jobs // 5)],
    }

    before, after = release(send_first), release(send_both, new)
    handles = []
    async with working(redis_url, before):
        handles += await producer.enqueue_many(made["first"][: jobs // 10])
        async with working(redis_url, after):
            for payloads in (made["first"][jobs // 10 :], made["optional"], made["second"]):
                handles += await producer.enqueue_many(payloads)
            for name in ("new", "old"):
                handles += await producer.enqueue_many(name, [[1]] * (jobs // 5), family="t")
            await asyncio.gather(*(handle.result(150) for handle in handles))
    stats = await Inspector(producer.redis, ["t"]).queue("t")
    assert (stats.failed, stats.waiting, stats.active, stats.parked) == (0, 0, 0, 0)
    assert stats.totals["completed"] == len(handles) == jobs
