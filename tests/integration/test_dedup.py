"""Dedup keys as a service uses them: many producers at once, the three modes, and wrong options."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from daemon.context import JobContext
from daemon.errors import InvalidJob
from daemon.family import Family
from daemon.payload import Payload
from daemon.producer import Producer, SyncProducer
from daemon.producing.handle import SyncJobHandle
from tests.engine import eventually, make_family, run_burst, working

PRODUCERS = 50


class Index(Payload, family="t", function="index"):
    page: str
    version: int = 0
    scope: str | None = "site"

    def dedup_key(self) -> str | None:
        return None if self.scope is None else f"{self.scope}:{self.page}"


async def index(ctx: JobContext, job: Index) -> int:
    return job.version


@pytest.fixture
def family() -> Family:
    return make_family("t", index)


@pytest.mark.parametrize("mode", ["drop", "replace", "debounce"])
def test_of_fifty_producers_at_once_one_is_accepted_and_the_others_are_told_which_job_it_is(
    redis_url: str, mode: Any
) -> None:
    start = threading.Barrier(PRODUCERS)

    def hand_over(version: int) -> SyncJobHandle:
        with SyncProducer.connect(redis_url) as producer:
            assert producer.health()
            start.wait(60)
            return producer.enqueue(Index(page="home", version=version), dedup_mode=mode, delay=0.01)

    with ThreadPoolExecutor(PRODUCERS) as pool:
        handles = list(pool.map(hand_over, range(PRODUCERS)))
    (accepted,) = [handle for handle in handles if handle.created]
    assert {handle.id for handle in handles} == {accepted.id}
    assert [handle.replaced for handle in handles] == [
        mode != "drop" and handle is not accepted for handle in handles
    ]  # fmt: skip
    with SyncProducer.connect(redis_url) as producer:
        again = producer.enqueue(Index(page="home"))
        assert (again.id, again.created) == (accepted.id, False)


async def test_producers_at_once_while_workers_run_what_was_accepted(redis_url: str) -> None:
    """Every repeat is either told of a job that has not ended when it was handed over, or makes one of its own."""
    running = most = 0

    async def index(ctx: JobContext, job: Index) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(0)
        finally:
            # Also when it is handed back: the other worker runs it again.
            running -= 1

    async def hand_over() -> list[tuple[str, bool]]:
        async with Producer.connect(redis_url) as producer:
            handles = [await producer.enqueue(Index(page="home")) for _ in range(20)]
            return [(handle.id, handle.created) for handle in handles]

    families = [make_family("t", index, max_jobs=5) for _ in range(2)]
    async with working(redis_url, families[0]), working(redis_url, families[1]):
        told = [entry for entries in await asyncio.gather(*(hand_over() for _ in range(10))) for entry in entries]
    accepted = [job_id for job_id, created in told if created]
    assert len(accepted) == len(set(accepted)) > 1
    assert {job_id for job_id, _ in told} == set(accepted)
    assert most == 1, "two jobs with the same key never live at the same time"


async def test_the_key_is_free_when_the_job_has_ended(redis_url: str, producer: Producer, family: Family) -> None:
    first = await producer.enqueue(Index(page="home", version=1))
    repeat = await producer.enqueue(Index(page="home", version=2))
    assert (repeat.id, repeat.created, repeat.replaced) == (first.id, False, False)
    await run_burst(redis_url, family)
    assert await repeat.result(30) == 1
    assert (await producer.enqueue(Index(page="home", version=3))).created


async def test_a_window_goes_on_after_the_end(redis_url: str, producer: Producer, family: Family) -> None:
    first = await producer.enqueue(Index(page="home", version=1), dedup_window=4)
    await run_burst(redis_url, family)
    repeat = await producer.enqueue(Index(page="home", version=2), dedup_window=4)
    assert (repeat.id, await repeat.result(30)) == (first.id, 1)

    async def accepted() -> bool:
        return (await producer.enqueue(Index(page="home"), dedup_window=4)).created

    await eventually(accepted)


async def test_the_latest_payload_runs_once(redis_url: str, producer: Producer, family: Family) -> None:
    for version in range(10):
        job = await producer.enqueue(Index(page="home", version=version), dedup_mode="replace")
        assert (job.created, job.replaced) == (version == 0, version > 0)
    supervisor = await run_burst(redis_url, family)
    assert await job.result(30) == 9
    assert supervisor.workers[0].jobs_complete == 1


async def test_a_debounced_job_runs_with_the_latest_payload_after_a_pause(
    redis_url: str, producer: Producer, family: Family
) -> None:
    async with working(redis_url, family):
        due = []
        for version in range(5):
            job = await producer.enqueue(Index(page="home", version=version), dedup_mode="debounce", delay=2)
            due.append((await job.info()).due_at)
        assert await job.result(30) == 4
    assert due == sorted(due)  # type: ignore[type-var]
    assert due[0] != due[-1]


async def test_many_at_once(producer: Producer) -> None:
    pages = [Index(page=f"page {number % 700}", version=number) for number in range(2100)]
    handles = await producer.enqueue_many(pages)
    assert [handle.created for handle in handles] == [number < 700 for number in range(2100)]
    assert [handle.id for handle in handles] == [handle.id for handle in handles[:700]] * 3


async def test_the_callers_key_wins_over_the_payloads(producer: Producer) -> None:
    first = await producer.enqueue(Index(page="home"))
    assert (await producer.enqueue(Index(page="home"), dedup_key="mine")).created
    assert (await producer.enqueue(Index(page="other"), dedup_key="site:home")).id == first.id
    assert (await producer.enqueue(Index(page="home"), dedup_key="")).created
    assert (await producer.enqueue("index", {"page": "home"}, family="t")).created, "the worker's class is not asked"
    for _ in range(2):
        assert (await producer.enqueue(Index(page="home", scope=None), dedup_mode="replace")).created


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dedup_key": 17}, "plain text"),
        ({"dedup_key": "a\nb"}, "plain text"),
        ({"dedup_key": "x" * 257}, "256"),
        ({"dedup_key": "x", "dedup_mode": "keep"}, "drop, replace, debounce"),
        ({"dedup_key": "x", "dedup_window": 0}, "more than 0 seconds"),
        ({"dedup_key": "x", "dedup_window": "soon"}, "duration"),
        ({"dedup_key": "x", "dedup_mode": "debounce"}, "delay"),
        ({"dedup_mode": "replace"}, "dedup_key"),
        ({"dedup_window": 5}, "dedup_key"),
    ],
)
async def test_a_wrong_option_is_refused(producer: Producer, options: Any, told: str) -> None:
    with pytest.raises(InvalidJob, match=told):
        await producer.enqueue("index", {"page": "x"}, family="t", **options)
    assert await producer.redis.dbsize() == 0
