"""A service hands jobs over: every option, the handle, the result without polling, and clear errors."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from daemon.context import JobContext
from daemon.errors import (
    InvalidJob,
    JobExpired,
    JobFailed,
    JobNotFound,
    RedisFull,
    RedisRefused,
    RedisUnavailable,
    ResultTimeout,
    TooLarge,
)
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.payload import Payload, PayloadModel
from daemon.producer import JobHandle, Producer, SyncProducer
from daemon.retry import Fixed
from tests.conftest import RedisServerFactory
from tests.engine import calls, eventually, make_family, run_burst, until, working
from tests.servers import free_port


class Answer(PayloadModel):
    text: str
    at: datetime


class Ask(Payload, family="t", returns=Answer):
    question: str
    fail: str | None = None


class Plain(Payload, family="t"):
    n: int = 0


NOW = datetime(2026, 3, 1, tzinfo=UTC)


async def ask(ctx: JobContext, job: Ask) -> Answer:
    if job.fail:
        raise ValueError(job.fail)
    return Answer(text=job.question.upper(), at=NOW)


async def plain(ctx: JobContext, job: Plain) -> int:
    return job.n


async def wait_for_end(ctx: JobContext, percent: int = 0) -> None:
    await ctx.progress(percent, "waiting")
    await asyncio.Event().wait()


FUNCTIONS = (ask, plain, wait_for_end)


@asynccontextmanager
async def producing(url: str, **options: Any) -> AsyncIterator[Producer]:
    async with Producer.connect(url, **options) as producer:
        yield producer


# ---------------------------------------------------------------- options


async def test_delay_and_run_at_say_when_it_is_due(redis_url: str) -> None:
    at = datetime.now(UTC) + timedelta(days=3)
    async with producing(redis_url) as producer:
        before = datetime.now(UTC)
        delayed = await (await producer.enqueue(Plain(), delay="15m")).info()
        timed = await (await producer.enqueue(Plain(), run_at=at.astimezone())).info()
    assert (delayed.state, timed.state) == (JobState.DELAYED, JobState.DELAYED)
    assert delayed.due_at is not None
    assert timed.due_at is not None
    assert timedelta(minutes=14) < delayed.due_at - before < timedelta(minutes=16)
    assert abs(timed.due_at - at) < timedelta(milliseconds=2)


async def test_a_run_at_in_the_past_runs_at_once(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        for past in (datetime.now(UTC) - timedelta(days=1), datetime(1960, 1, 1, tzinfo=UTC)):
            job = await producer.enqueue(Plain(n=4), run_at=past)
            assert await job.status() is JobState.WAITING
        await run_burst(redis_url, make_family("t", *FUNCTIONS))
        assert await job.result(1) == 4


async def test_priorities_decide_the_order_and_equal_ones_keep_theirs(redis_url: str) -> None:
    order: list[str] = []

    async def note(ctx: JobContext, name: str) -> None:
        order.append(name)

    async with producing(redis_url) as producer:
        for name, options in [
            ("family", {}), ("last", {"priority": 10}), ("high", {"priority": "high"}), ("first", {"priority": 1}),
            ("family2", {}), ("high2", {"priority": "3"}),
        ]:  # fmt: skip
            await producer.enqueue("note", [name], family="t", **options)  # type: ignore[arg-type]
        await run_burst(redis_url, make_family("t", note, max_jobs=1))
    assert order == ["first", "high", "high2", "family", "family2", "last"]


async def test_a_job_without_a_priority_takes_its_familys(redis_url: str) -> None:
    async with working(redis_url, make_family("t", plain, priority=2)), producing(redis_url) as producer:
        by_name = await producer.enqueue("plain", {"n": 1}, family="t", delay=60)
        await (await producer.enqueue("plain", {"n": 1}, family="t")).result(5)
        assert (await by_name.info()).priority == 2


async def test_a_job_id_is_taken_while_the_job_its_result_or_its_dead_letter_is_there(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        family = make_family("t", *FUNCTIONS, max_tries=1)
        first = await producer.enqueue(Ask(question="a"), job_id="one")
        again = await producer.enqueue(Ask(question="b"), job_id="one")
        failing = await producer.enqueue(Ask(question="a", fail="no"), job_id="two")
        assert (first.created, again.created, first.id, again.id) == (True, False, "t:one", "t:one")
        await run_burst(redis_url, family)
        for handle, question in ((first, "a"), (failing, "a")):
            name = handle.id.removeprefix("t:")
            assert not (await producer.enqueue(Ask(question=question), job_id=name)).created
        assert (await first.result(1)).text == "A"
        assert await failing.status() is JobState.FAILED
        await Inspector(producer.redis, ["t"]).remove([first.id, failing.id])
        assert (await producer.enqueue(Ask(question="c"), job_id="one")).created
        assert (await producer.enqueue(Ask(question="c"), job_id="two")).created


async def test_a_job_of_the_same_id_gives_the_first_ones_result(redis_url: str) -> None:
    async with working(redis_url, make_family("t", *FUNCTIONS)), producing(redis_url) as producer:
        await producer.enqueue(Ask(question="first"), job_id="one")
        second = await producer.enqueue(Ask(question="second"), job_id="one")
        assert (await second.result(5)).text == "FIRST"


async def test_what_is_too_late_to_start_expires(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        late = await producer.enqueue(Plain(), expires="1ms")
        early = await producer.enqueue(Plain(n=3), expires=600)
        await asyncio.sleep(0.002)
        await run_burst(redis_url, make_family("t", *FUNCTIONS))
        with pytest.raises(JobExpired, match="deadline"):
            await late.result(1)
        assert await late.status() is JobState.EXPIRED
        assert await early.result(1) == 3


async def test_max_tries_timeout_backoff_and_tags_travel_with_the_job(redis_url: str) -> None:
    async with working(redis_url, make_family("t", *FUNCTIONS)), producing(redis_url) as producer:
        once = await producer.enqueue(Ask(question="", fail="no"), max_tries=1, tags=["a", "b"])
        with pytest.raises(JobFailed) as caught:
            await once.result(5)
        assert (caught.value.reason, caught.value.tries) == ("tries", 1)
        assert (await once.info()).tags == ["a", "b"]

        slow = await producer.enqueue("wait_for_end", [], family="t", timeout=0.05, max_tries=1)
        with pytest.raises(JobFailed) as caught:
            await slow.result(5)
        assert (caught.value.type, caught.value.message) == ("TimeoutError", "timed out after 0.05 s")

        later = await producer.enqueue(Ask(question="", fail="no"), backoff=Fixed(5000), max_tries=9)

        async def retried() -> Any:
            info = await later.info()
            return info if info.state is JobState.DELAYED else None

        info = await eventually(retried)
        assert (info.tries, info.max_tries) == (1, 9)
        assert timedelta(seconds=4900) < info.due_at - datetime.now(UTC) < timedelta(seconds=5100)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dealy": 3}, r"unknown options \['dealy'\]; known are .*delay"),
        ({"priority": 11}, "priority 11 is not a level"),
        ({"priority": "soon"}, "'soon' is not a level: use 1 .* high=3"),
        ({"delay": 1, "run_at": datetime.now(UTC)}, "delay or run_at, not both"),
        ({"delay": -1}, "not a duration"),
        ({"delay": "soon"}, "not a duration"),
        ({"delay": timedelta(seconds=3)}, "not a duration"),
        ({"run_at": datetime(2026, 3, 1)}, "no time zone: pass an aware datetime"),  # noqa: DTZ001
        ({"run_at": "2026-03-01T00:00:00Z"}, "aware datetime"),
        ({"run_at": datetime(3500, 1, 1, tzinfo=UTC)}, "too far away"),
        ({"job_id": "a\nb"}, "plain text"),
        ({"job_id": "x" * 257}, "at most 256"),
        ({"job_id": 17}, "job_id"),
        ({"expires": 0}, "expires must be more than 0"),
        ({"timeout": 0}, "timeout must be more than 0"),
        ({"timeout": "x"}, "not a duration"),
        ({"max_tries": 0}, "max_tries .* at least 1"),
        ({"max_tries": "3"}, "max_tries"),
        ({"backoff": "fixed 5s"}, "backoff"),
        ({"tags": "one"}, "tags"),
    ],
)
async def test_a_wrong_option_is_refused_and_nothing_is_written(redis_url: str, options: Any, said: str) -> None:
    async with producing(redis_url) as producer:
        with pytest.raises(InvalidJob, match=said):
            await producer.enqueue(Plain(), **options)
        assert await producer.redis.dbsize() == 0


# ---------------------------------------------------------------- enqueue


async def test_by_name_with_fields_or_with_positional_arguments(redis_url: str) -> None:
    async def add(ctx: JobContext, a: int, b: int) -> int:
        return a + b

    async def ping(ctx: JobContext) -> str:
        return "pong"

    async with working(redis_url, make_family("t", add, ping, plain)), producing(redis_url) as producer:
        assert await (await producer.enqueue("plain", {"n": 2}, family="t")).result(5) == 2
        assert await (await producer.enqueue("plain", family="t")).result(5) == 0
        assert await (await producer.enqueue("add", [1, 2], family="t")).result(5) == 3
        assert await (await producer.enqueue("ping", [], family="t")).result(5) == "pong"
        assert await (await producer.enqueue("ping", family="t")).result(5) == "pong"


@pytest.mark.parametrize(
    ("args", "options", "said"),
    [
        (("plain", {}), {}, "which family runs 'plain'"),
        (("plain", {}), {"family": "E mail"}, r"must match \[a-z0-9_-\]"),
        ((Plain(), {}), {}, "not both"),
        (({"n": 1},), {}, "dict is no payload"),
        (("plain", {"n": object()}), {"family": "t"}, "payload cannot be written as JSON"),
    ],
)
async def test_a_job_without_an_addressee_or_a_readable_payload_is_refused(
    redis_url: str, args: Any, options: Any, said: str
) -> None:
    async with producing(redis_url) as producer:
        with pytest.raises(InvalidJob, match=said):
            await producer.enqueue(*args, **options)
        assert await producer.redis.dbsize() == 0


async def test_the_payload_limit_can_be_set(redis_url: str) -> None:
    async with producing(redis_url, max_payload=100) as producer:
        with pytest.raises(TooLarge, match="the limit is 100"):
            await producer.enqueue(Ask(question="x" * 100))
        assert (await producer.enqueue(Ask(question="x" * 50))).created


async def test_a_thousand_jobs_go_in_one_round_trip_in_their_order(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        await producer.enqueue(Plain())
        before = calls(redis_url, "eval", "evalsha", "script|load")
        jobs = await producer.enqueue_many([Plain(n=n) for n in range(1000)], priority="low", tags=["batch"])
        assert calls(redis_url, "eval", "evalsha", "script|load") - before == 1
        assert len({job.id for job in jobs}) == 1000
        assert all(job.created for job in jobs)
        waiting = await Inspector(producer.redis, ["t"]).jobs("t", "waiting", limit=500, offset=1)
        assert [(info.payload["n"], info.priority, info.tags) for info in waiting] == [
            (n, 7, ["batch"]) for n in range(500)
        ]


async def test_many_by_name_and_each_with_options_of_its_own(redis_url: str) -> None:
    async with working(redis_url, make_family("t", *FUNCTIONS)), producing(redis_url) as producer:
        named = await producer.enqueue_many("plain", ({"n": n} for n in range(3)), family="t")
        assert [await job.result(5) for job in named] == [0, 1, 2]
        each = await producer.enqueue_each([((Plain(n=n), None), {"job_id": f"j{n % 2}"}) for n in range(3)])
        assert [(job.id, job.created) for job in each] == [("t:j0", True), ("t:j1", True), ("t:j0", False)]
        assert await producer.enqueue_many([]) == []
        typed = await producer.enqueue_many([Ask(question="a")])
        assert await typed[0].result(5) == Answer(text="A", at=NOW)


async def test_many_jobs_are_refused_together(redis_url: str) -> None:
    class Elsewhere(Payload, family="other"):
        pass

    async with producing(redis_url, max_payload=200) as producer:
        with pytest.raises(InvalidJob, match="other, t"):
            await producer.enqueue_many([Plain(), Elsewhere()])
        with pytest.raises(InvalidJob, match="enqueue_each"):
            await producer.enqueue_many([Plain()], job_id="one")
        with pytest.raises(TooLarge):
            await producer.enqueue_many([Ask(question="a"), Ask(question="x" * 300)])
        assert await producer.redis.dbsize() == 0


# ---------------------------------------------------------------- the handle


async def test_a_result_comes_in_its_declared_type(redis_url: str) -> None:
    async with working(redis_url, make_family("t", *FUNCTIONS)), producing(redis_url) as producer:
        job = await producer.enqueue(Ask(question="why"))
        assert await job.result(5) == Answer(text="WHY", at=NOW)
        untyped = producer.job(job.id)
        assert await untyped.result(5) == {"text": "WHY", "at": "2026-03-01T00:00:00Z"}
        assert await producer.job(job.id, returns=Answer).result(5) == Answer(text="WHY", at=NOW)


async def test_a_failure_carries_type_message_and_traceback(redis_url: str) -> None:
    async with working(redis_url, make_family("t", *FUNCTIONS, max_tries=1)), producing(redis_url) as producer:
        job = await producer.enqueue(Ask(question="", fail="no such address"))
        with pytest.raises(JobFailed, match="ValueError: no such address") as caught:
            await job.result(5)
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
            await done.result(5)
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
            await producer.job("t:nothing").result(5)
        async with working(redis_url, make_family("t", *FUNCTIONS, keep_result=0)):
            job = await producer.enqueue(Plain(n=5), delay=0.2)
            assert await job.result(5) == 5
            with pytest.raises(JobNotFound, match="its result was not kept"):
                await job.result(5)


async def test_a_waiting_result_is_told_when_its_job_is_removed(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        job = await producer.enqueue(Plain())
        waiting = asyncio.create_task(job.result(10))
        await registered(producer, job)
        assert await Inspector(producer.redis, ["t"]).remove([job.id]) == {job.id: "removed"}
        with pytest.raises(JobNotFound, match="was removed"):
            await waiting


async def registered(producer: Producer, job: JobHandle) -> None:
    async def known() -> bool:
        return bool(await producer.redis.hexists("{t}:waiters", job.job_id))

    await eventually(known)


def sent_commands(url: str, after: int) -> dict[int, tuple[int, str]]:
    """Commands so far and the last one, of each client that came after one."""
    with redis.Redis.from_url(url) as client:
        own = client.client_id()
        return {
            int(c["id"]): (int(c["tot-cmds"]), c["cmd"])
            for c in client.client_list()
            if int(c["id"]) > after and int(c["id"]) != own
        }


async def test_waiting_for_results_costs_no_polling(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        before = client.client_id()
    async with producing(redis_url) as producer:
        jobs = await producer.enqueue_many([Plain(n=n) for n in range(5)])
        waiting = [asyncio.create_task(job.result(20)) for job in jobs for _ in range(2)]
        for job in jobs:
            await registered(producer, job)

        def blocked() -> bool:
            return any(last == "blpop" for _, last in sent_commands(redis_url, before).values())

        await until(blocked)
        quiet = sent_commands(redis_url, before)
        for _ in range(10):
            await asyncio.sleep(0.02)
            assert sent_commands(redis_url, before) == quiet
        await run_burst(redis_url, make_family("t", *FUNCTIONS))
        assert await asyncio.gather(*waiting) == [n for n in range(5) for _ in range(2)]
        assert sum(last == "blpop" for _, last in sent_commands(redis_url, before).values()) <= 1


async def test_results_of_several_families_are_awaited_at_once(redis_url: str) -> None:
    class Other(Payload, family="other"):
        pass

    async def other(ctx: JobContext, job: dict[str, Any]) -> str:
        return "other"

    async with producing(redis_url) as producer:
        first = await producer.enqueue(Plain(n=1))
        first_result = asyncio.create_task(first.result(10))
        await registered(producer, first)
        second = await producer.enqueue(Other())
        second_result = asyncio.create_task(second.result(10))
        async with working(redis_url, make_family("t", *FUNCTIONS), make_family("other", other)):
            assert await asyncio.gather(first_result, second_result) == [1, "other"]


async def test_a_result_that_is_not_awaited_any_more_leaves_the_others_alone(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        job = await producer.enqueue(Plain(n=1))
        given_up, kept = asyncio.create_task(job.result(10)), asyncio.create_task(job.result(10))
        await registered(producer, job)
        given_up.cancel()
        async with working(redis_url, make_family("t", *FUNCTIONS)):
            assert await kept == 1
        assert given_up.cancelled()


# ---------------------------------------------------------------- abort


async def test_a_waiting_and_a_delayed_job_are_aborted_at_once(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        for options in ({}, {"delay": 60}):
            job = await producer.enqueue(Plain(), **options)  # type: ignore[arg-type]
            assert await job.abort() is True
            assert await job.status() is JobState.ABORTED
            with pytest.raises(asyncio.CancelledError):
                await job.result(5)
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
        assert await job.abort(timeout=5) is True
        assert cancelled.is_set()
        assert await job.status() is (JobState.ABORTED if keep_result else JobState.NOT_FOUND)
        assert (await Inspector(producer.redis, ["t"]).queue("t")).totals["aborted"] == 1


async def test_an_abort_that_came_too_late_says_so(redis_url: str) -> None:
    async with working(redis_url, make_family("t", *FUNCTIONS)), producing(redis_url) as producer:
        job = await producer.enqueue(Plain(n=2))
        await job.result(5)
        assert await job.abort() is False
        assert await job.result(5) == 2
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
        assert await job.result(5) == "done"
        assert await job.abort() is False


# ---------------------------------------------------------------- connections


async def test_a_wrong_password_is_told_without_the_password(redis_server: RedisServerFactory) -> None:
    server = redis_server(password="right")
    for url in (f"redis://:wr0ng-secret@127.0.0.1:{server.port}", f"redis://127.0.0.1:{server.port}"):
        async with producing(url) as producer:
            calls_ = (
                producer.enqueue(Plain()),
                producer.enqueue_many([Plain()]),
                producer.job("t:x").result(5),
                producer.job("t:x").status(),
                producer.job("t:x").abort(),
                producer.health(),
            )
            for call in calls_:
                with pytest.raises(RedisRefused, match="check the user name, the password") as caught:
                    await call
                assert "wr0ng-secret" not in str(caught.value)
    with server.client() as client:
        assert client.dbsize() == 0


async def test_a_password_given_as_an_option_serves_results_too(redis_server: RedisServerFactory) -> None:
    server = redis_server(password="right")
    async with producing(f"redis://127.0.0.1:{server.port}", password="right") as producer:
        job = await producer.enqueue(Plain(n=3))
        result = asyncio.create_task(job.result(5))
        await registered(producer, job)

        def blocked() -> bool:
            with server.client() as client:
                return any(c["cmd"] == "blpop" for c in client.client_list())

        await until(blocked)
        await run_burst(server.url, make_family("t", *FUNCTIONS))
        assert await result == 3


async def test_no_server_is_told_with_what_to_check() -> None:
    url = f"redis://:s3cret@127.0.0.1:{free_port()}"
    async with producing(url) as producer:
        for call in (producer.enqueue(Plain()), producer.job("t:x").result(5), producer.job("t:x").abort()):
            with pytest.raises(RedisUnavailable, match="cannot be reached .*check ARQD_REDIS_URL") as caught:
                await call
            assert "s3cret" not in str(caught.value)
        assert await producer.health() is False


async def test_a_full_server_writes_nothing(redis_server: RedisServerFactory) -> None:
    server = redis_server(maxmemory_policy="noeviction")
    async with producing(server.url) as producer:
        assert await producer.health() is True
        kept = await producer.enqueue(Plain(n=1))
        with server.client() as client:
            client.config_set("maxmemory", "1")
            before = client.dbsize()
            for call in (producer.enqueue(Plain()), producer.enqueue_many([Plain()] * 2000)):
                with pytest.raises(RedisFull, match="nothing was written; free memory"):
                    await call
            assert client.dbsize() == before
            client.config_set("maxmemory", "0")
        assert await kept.status() is JobState.WAITING
        assert (await producer.enqueue(Plain())).created


async def test_a_lost_reply_does_not_enqueue_twice(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        original = producer.redis.execute_command
        lost = False

        async def loses_one_reply(*args: Any, **options: Any) -> Any:
            nonlocal lost
            reply = await original(*args, **options)
            if not lost and args[0] in ("EVAL", "EVALSHA"):
                lost = True
                raise redis.ConnectionError("reply lost")
            return reply

        producer.redis.execute_command = loses_one_reply
        job = await producer.enqueue(Plain(), job_id="one")
        assert lost
        assert job.created
        assert await producer.redis.zcard("arq:{t}") == 1
        assert not (await producer.enqueue(Plain(n=2), job_id="one")).created


# ---------------------------------------------------------------- without an event loop


def test_the_synchronous_producer_has_the_same_methods() -> None:
    def public(cls: type) -> set[str]:
        skipped = {"broker", "abort"}
        return {name for name, _ in inspect.getmembers(cls, inspect.isfunction) if name[0] != "_"} - skipped

    assert public(Producer) == public(SyncProducer)


@pytest.fixture
def worker_thread(redis_url: str) -> Any:
    """Run a worker in a thread of its own, as a service without an event loop sees it."""
    stop: list[Any] = []
    ready = threading.Event()

    async def run() -> None:
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with working(redis_url, make_family("t", *FUNCTIONS)):
            stop.append(lambda: loop.call_soon_threadsafe(done.set))
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(10)
    yield redis_url
    stop[0]()
    thread.join()


def test_the_synchronous_producer_serves_several_threads(worker_thread: str) -> None:
    with SyncProducer.connect(worker_thread) as producer:
        assert producer.health() is True

        def use(n: int) -> list[int]:
            jobs = [producer.enqueue(Plain(n=n)), *producer.enqueue_many([Plain(n=n)] * 3)]
            return [job.result(10) for job in jobs]

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert list(pool.map(use, range(8))) == [[n] * 4 for n in range(8)]


def test_the_synchronous_handle(worker_thread: str) -> None:
    with SyncProducer(worker_thread) as producer:
        job = producer.enqueue(Ask(question="why"), job_id="one")
        assert (job.id, job.family, job.created) == ("t:one", "t", True)
        assert job.result(10) == Answer(text="WHY", at=NOW)
        assert (job.status(), job.progress(), job.info().function) == (JobState.COMPLETED, 100, "ask")
        assert producer.job("t:one").status() is JobState.COMPLETED
        delayed = producer.enqueue("plain", {"n": 1}, family="t", delay=60)
        assert delayed.abort() is True
        with pytest.raises(concurrent.futures.CancelledError):
            delayed.result(5)
        failing = producer.enqueue(Ask(question="", fail="no"), max_tries=1)
        with pytest.raises(JobFailed, match="ValueError: no"):
            failing.result(10)
        with pytest.raises(InvalidJob):
            producer.enqueue(Plain(), priority="soon")
    producer.close()


async def test_the_synchronous_producer_works_beside_a_running_loop(redis_url: str) -> None:
    def use() -> str:
        with SyncProducer(redis_url) as producer:
            return producer.enqueue(Plain()).id

    assert (await asyncio.to_thread(use)).startswith("t:")
