"""What a producer gets back: status, progress, the result without polling, abort."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daemon.broker import Broker
from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import (
    InvalidJob,
    JobFailed,
    JobNotFound,
    ResultTimeout,
)
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.payload import Payload
from daemon.producer import JobHandle, Producer
from daemon.producing.options import JobOptions
from tests.asking import FUNCTIONS, NOW, Answer, Ask, Plain, producing
from tests.engine import eventually, make_family, run_burst, until, working
from tests.marks import one_server
from tests.servers import looking_at

# ---------------------------------------------------------------- the handle


async def test_a_result_comes_in_its_declared_type(redis_url: str) -> None:
    async with working(redis_url, make_family("t", *FUNCTIONS)), producing(redis_url) as producer:
        job = await producer.enqueue(Ask(question="why"))
        assert await job.result(30) == Answer(text="WHY", at=NOW)
        untyped = producer.job(job.id)
        assert await untyped.result(30) == {"text": "WHY", "at": "2026-03-01T00:00:00Z"}
        assert await producer.job(job.id, returns=Answer).result(30) == Answer(text="WHY", at=NOW)


async def test_a_failure_carries_type_message_and_traceback(redis_url: str) -> None:
    async with working(redis_url, make_family("t", *FUNCTIONS, max_tries=1)), producing(redis_url) as producer:
        job = await producer.enqueue(Ask(question="", fail="no such address"))
        with pytest.raises(JobFailed, match="ValueError: no such address") as caught:
            await job.result(30)
        assert "in ask" in caught.value.traceback
        assert await job.status() is JobState.FAILED
        error = (await job.info()).error
        assert error is not None
        assert (error["type"], error["reason"]) == ("ValueError", "tries")


async def test_status_and_progress_over_a_jobs_life(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        unknown = producer.job("t:nothing")
        assert await unknown.status() is JobState.NOT_FOUND
        with pytest.raises(JobNotFound):
            await unknown.progress()
        delayed = await producer.enqueue(Plain(), delay=60)
        assert await delayed.status() is JobState.DELAYED
        job = await producer.enqueue("wait_for_end", [40], family="t")
        assert (await job.status(), await job.progress()) == (JobState.WAITING, None)
        done = await producer.enqueue(Plain())
        async with working(redis_url, make_family("t", *FUNCTIONS)):

            async def reported() -> bool:
                return await job.progress() == 40

            await eventually(reported)
            assert await job.status() is JobState.ACTIVE
            assert (await job.info()).note == "waiting"
            await done.result(30)
            assert (await done.status(), await done.progress()) == (JobState.COMPLETED, 100)


async def test_an_id_without_a_family_is_refused(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        with pytest.raises(InvalidJob, match="family:id"):
            producer.job("0123abcd")
        assert producer.job("0123abcd", family="t").id == "t:0123abcd"


async def test_a_result_that_does_not_come_in_time(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        job = await producer.enqueue(Plain())
        with pytest.raises(ResultTimeout, match=r"has not ended within 0\.05 s; it goes on"):
            await job.result(0.05)
        with pytest.raises(TimeoutError):
            await job.result(0)
        assert await job.status() is JobState.WAITING


async def test_no_result_where_there_is_no_job_or_none_was_kept(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        with pytest.raises(JobNotFound, match="there is no job t:nothing"):
            await producer.job("t:nothing").result(30)
        async with working(redis_url, make_family("t", *FUNCTIONS, keep_result=0)):
            job = await producer.enqueue(Plain(n=5), delay=0.2)
            assert await job.result(30) == 5
            with pytest.raises(JobNotFound, match="its result was not kept"):
                await job.result(30)


async def test_who_waits_for_one_job_after_the_other_asks_for_the_first_result_only(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long it listens on behind the last result.
    monkeypatch.setattr("daemon.producing.replies.BLOCK_SECONDS", 60)
    async with producing(redis_url) as producer, working(redis_url, make_family("t", *FUNCTIONS)):
        asked: list[str] = []
        ask = producer.replies._ask

        async def asks(job_id: str, *channel: Any) -> bool:
            asked.append(job_id)
            return await ask(job_id, *channel)

        monkeypatch.setattr(producer.replies, "_ask", asks)
        jobs = []
        for n in range(4):
            jobs.append(await producer.enqueue(Plain(n=n)))
            assert await jobs[-1].result(30) == n
        assert asked == [jobs[0].job_id]
        # What nobody waited for is at hand for a moment, once, and then asked for. It is not told of in advance again.
        monkeypatch.setattr("daemon.producing.replies.EARLY_SECONDS", 60)
        jobs.append(await producer.enqueue(Plain(n=4)))
        await until(lambda: not producer.replies._ahead)
        assert await jobs[4].result(30) == await jobs[4].result(30) == 4
        assert asked[1:] == [jobs[4].job_id]
        jobs.append(await producer.enqueue(Plain(n=4)))
        await until(lambda: not producer.replies._ahead)
        monkeypatch.setattr("daemon.producing.replies.EARLY_SECONDS", 0)
        assert await jobs[5].result(30) == 4
        assert asked[2:] == [jobs[5].job_id]
        twice = [await producer.enqueue(Plain(n=5), job_id="five") for _ in range(2)]
        assert [job.created for job in twice] == [True, False]
        assert [await job.result(30) for job in reversed(twice)] == [5, 5]
        assert not producer.replies._ahead
        assert not producer.replies._waiting


@pytest.mark.parametrize("options", [{}, {"delay": 0.1}])
async def test_a_result_that_came_early_is_not_taken_for_that_of_a_later_job_with_its_id(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, options: JobOptions
) -> None:
    monkeypatch.setattr("daemon.producing.replies.EARLY_SECONDS", 60)
    # So long it listens on behind the last result.
    monkeypatch.setattr("daemon.producing.replies.BLOCK_SECONDS", 60)
    async with producing(redis_url) as producer, working(redis_url, make_family("t", *FUNCTIONS)):
        # One that has not ended when it is asked for: it is listened for.
        assert await (await producer.enqueue(Plain(n=1), delay=0.3)).result(30) == 1
        await producer.enqueue(Plain(n=2), job_id="same", keep={"completed": "none"})
        await until(lambda: not producer.replies._ahead)
        assert producer.replies._early
        again = await producer.enqueue(Plain(n=3), job_id="same", **options)
        assert again.created
        assert await again.result(30) == 3


async def test_a_wait_without_a_question_ends_in_time(redis_url: str) -> None:
    async with producing(redis_url) as producer, working(redis_url, make_family("t", *FUNCTIONS)):
        assert await (await producer.enqueue(Plain(n=1))).result(30) == 1
        job = await producer.enqueue("wait_for_end", family="t")
        assert job.job_id in producer.replies._ahead
        with pytest.raises(ResultTimeout, match=r"has not ended within 0\.05 s; it goes on"):
            await job.result(0.05)
        assert not producer.replies._waiting
        assert await job.abort()


async def test_an_announcement_of_before_a_lost_connection_or_long_ago_is_not_relied_on(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with producing(redis_url) as producer:
        async with working(redis_url, make_family("t", *FUNCTIONS)):
            for n in range(3):
                assert await (await producer.enqueue(Plain(n=n))).result(30) == n
        job = await producer.enqueue(Plain(n=7))
        assert job.job_id in producer.replies._ahead
        # As a server that takes another's place may not know of it.
        await producer.redis.delete("{t}:waiters")
        if producer.channel is None:
            monkeypatch.setattr("daemon.producing.replies.REMIND_SECONDS", 0)
        else:
            producer.channel.close()
        waiting = asyncio.create_task(job.result(30))
        await registered(producer, job)
        async with working(redis_url, make_family("t", *FUNCTIONS)):
            assert await waiting == 7


async def test_a_waiting_result_is_told_when_its_job_is_removed(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        job = await producer.enqueue(Plain())
        waiting = asyncio.create_task(job.result(30))
        await registered(producer, job)
        assert await Control(producer.redis, ["t"]).remove([job.id]) == {job.id: "removed"}
        with pytest.raises(JobNotFound, match="was removed"):
            await waiting


async def registered(producer: Producer, job: JobHandle) -> None:
    async def known() -> bool:
        return bool(await producer.redis.hexists("{t}:waiters", job.job_id))

    await eventually(known)


def last_commands(url: str, after: int) -> list[str]:
    """The last command of each client that came after one."""
    with looking_at(url) as client:
        return [c["cmd"] for c in client.client_list() if int(c["id"]) > after]


def counted_commands(url: str) -> dict[str, int]:
    """How often each command was called, without those that the test looks with."""
    with looking_at(url) as client:
        found = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in client.info("commandstats").items()}
        return {name: n for name, n in found.items() if name.partition("|")[0] not in ("info", "client")}


@one_server
async def test_waiting_for_results_costs_no_polling(redis_url: str) -> None:
    with looking_at(redis_url) as client:
        before = client.client_id()
    async with producing(redis_url) as producer:
        jobs = await producer.enqueue_many([Plain(n=n) for n in range(5)])
        waiting = [asyncio.create_task(job.result(60)) for job in jobs for _ in range(2)]
        for job in jobs:
            await registered(producer, job)

        def blocked() -> bool:
            return "blpop" in last_commands(redis_url, before)

        await until(blocked)
        quiet = counted_commands(redis_url)
        for _ in range(10):
            await asyncio.sleep(0.02)
            assert counted_commands(redis_url) == quiet
        await run_burst(redis_url, make_family("t", *FUNCTIONS))
        assert await asyncio.gather(*waiting) == [n for n in range(5) for _ in range(2)]
        assert last_commands(redis_url, before).count("blpop") <= 1


async def test_results_of_several_families_are_awaited_at_once(redis_url: str) -> None:
    class Other(Payload, family="other"):
        pass

    async def other(ctx: JobContext, job: dict[str, Any]) -> str:
        return "other"

    async with producing(redis_url) as producer:
        first = await producer.enqueue(Plain(n=1))
        first_result = asyncio.create_task(first.result(30))
        await registered(producer, first)
        second = await producer.enqueue(Other())
        second_result = asyncio.create_task(second.result(30))
        async with working(redis_url, make_family("t", *FUNCTIONS), make_family("other", other)):
            assert await asyncio.gather(first_result, second_result) == [1, "other"]


async def test_a_result_that_is_not_awaited_any_more_leaves_the_others_alone(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        job = await producer.enqueue(Plain(n=1))
        given_up, kept = asyncio.create_task(job.result(30)), asyncio.create_task(job.result(60))
        await registered(producer, job)
        given_up.cancel()
        async with working(redis_url, make_family("t", *FUNCTIONS)):
            assert await kept == 1
        assert given_up.cancelled()


async def test_a_producer_closes_at_any_moment_of_waiting(redis_url: str) -> None:
    for turns in range(40):
        async with producing(redis_url) as producer:
            job = await producer.enqueue(Plain())
            waiting = asyncio.create_task(job.result(60))
            await registered(producer, job)
            for _ in range(turns):
                await asyncio.sleep(0)
            # A cancellation is lost when it meets redis-py taking a connection from its pool.
            async with asyncio.timeout(30):
                await producer.close()
            waiting.cancel()


# ---------------------------------------------------------------- abort


async def test_a_waiting_and_a_delayed_job_are_aborted_at_once(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        for options in ({}, {"delay": 60}):
            job = await producer.enqueue(Plain(), **options)  # type: ignore[arg-type]
            assert await job.abort() is True
            assert await job.status() is JobState.ABORTED
            with pytest.raises(asyncio.CancelledError):
                await job.result(30)
            assert await job.abort() is True
        assert (await Inspector(producer.redis, ["t"]).queue("t")).aborted == 2


@pytest.mark.parametrize("keep_result", [3600, 0])
async def test_a_running_job_is_cancelled(redis_url: str, keep_result: float) -> None:
    cancelled = asyncio.Event()

    async def endless(ctx: JobContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    family = make_family("t", endless, keep_result=keep_result)
    async with working(redis_url, family) as supervisor, producing(redis_url) as producer:
        job = await producer.enqueue("endless", [], family="t")
        await until(lambda: any(run.begun for run in supervisor.workers[0].running.values()))
        assert await job.abort(timeout=60) is True
        assert cancelled.is_set()
        assert await job.status() is (JobState.ABORTED if keep_result else JobState.NOT_FOUND)
        assert (await Inspector(producer.redis, ["t"]).queue("t")).totals["aborted"] == 1


async def test_a_job_that_ends_before_the_reply_to_its_abort_is_heard(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept of it: only what the worker sends tells that it was aborted."""
    real = Broker.abort

    async def slow(self: Broker, job_id: str, *args: Any) -> str:
        word = await real(self, job_id, *args)

        async def gone() -> bool:
            return await self.redis.zscore(self.keys.queue, job_id) is None

        await eventually(gone)
        return word

    async def endless(ctx: JobContext) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Broker, "abort", slow)
    async with (
        working(redis_url, make_family("t", endless, keep_result=0)) as supervisor,
        producing(redis_url) as producer,
    ):
        job = await producer.enqueue("endless", [], family="t")
        await until(lambda: any(run.begun for run in supervisor.workers[0].running.values()))
        assert await job.abort(timeout=60) is True


async def test_an_abort_that_came_too_late_says_so(redis_url: str) -> None:
    async with working(redis_url, make_family("t", *FUNCTIONS)), producing(redis_url) as producer:
        job = await producer.enqueue(Plain(n=2))
        await job.result(30)
        assert await job.abort() is False
        assert await job.result(30) == 2
        with pytest.raises(JobNotFound, match="nothing was aborted"):
            await producer.job("t:nothing").abort()


async def test_a_handler_that_will_not_end_is_told_about(redis_url: str) -> None:
    release = asyncio.Event()

    async def stubborn(ctx: JobContext) -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "done"

    async with working(redis_url, make_family("t", stubborn)) as supervisor, producing(redis_url) as producer:
        job = await producer.enqueue("stubborn", [], family="t")
        await until(lambda: any(run.begun for run in supervisor.workers[0].running.values()))
        with pytest.raises(ResultTimeout, match=r"was told to stop but still runs after 0\.1 s"):
            await job.abort(timeout=0.1)
        release.set()
        assert await job.result(30) == "done"
        assert await job.abort() is False


async def test_a_handler_busy_with_redis_is_cancelled_too(redis_url: str) -> None:
    begun = 0

    async def asks(ctx: JobContext) -> None:
        nonlocal begun
        begun += 1
        while True:
            await ctx.redis.ping()

    async with working(redis_url, make_family("t", asks)), producing(redis_url) as producer:
        for n in range(1, 11):
            job = await producer.enqueue("asks", [], family="t")
            await until(lambda n=n: begun == n)
            assert await job.abort(timeout=60) is True
