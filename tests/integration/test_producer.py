"""A service hands jobs over: every option, one or many at once, and what is refused."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daemon import codec
from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import (
    InvalidJob,
    JobExpired,
    JobFailed,
    TooLarge,
)
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.payload import Payload, schema_mark
from daemon.retry import Fixed
from tests.asking import FUNCTIONS, NOW, Answer, Ask, Plain, plain, producing
from tests.engine import calls, eventually, make_family, run_burst, working

# ---------------------------------------------------------------- options


async def test_delay_and_run_at_say_when_it_is_due(redis_url: str) -> None:
    at = datetime.now(UTC) + timedelta(days=3)
    async with producing(redis_url) as producer:
        before = datetime.now(UTC)
        delayed = await (await producer.enqueue(Plain(), delay="15m")).info()
        same = await (await producer.enqueue(Plain(), delay=timedelta(minutes=15))).info()
        timed = await (await producer.enqueue(Plain(), run_at=at.astimezone())).info()
    assert (delayed.state, timed.state) == (JobState.DELAYED, JobState.DELAYED)
    assert delayed.due_at is not None
    assert timed.due_at is not None
    assert same.due_at is not None
    assert abs(same.due_at - delayed.due_at) < timedelta(minutes=1)
    assert timedelta(minutes=14) < delayed.due_at - before < timedelta(minutes=16)
    assert abs(timed.due_at - at) < timedelta(milliseconds=2)


async def test_a_run_at_in_the_past_runs_at_once(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        for past in (datetime.now(UTC) - timedelta(days=1), datetime(1960, 1, 1, tzinfo=UTC)):
            job = await producer.enqueue(Plain(n=4), run_at=past)
            assert await job.status() is JobState.WAITING
        await run_burst(redis_url, make_family("t", *FUNCTIONS))
        assert await job.result(30) == 4


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
        await (await producer.enqueue("plain", {"n": 1}, family="t")).result(30)
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
        assert (await first.result(30)).text == "A"
        assert await failing.status() is JobState.FAILED
        await Control(producer.redis, ["t"]).remove([first.id, failing.id])
        assert (await producer.enqueue(Ask(question="c"), job_id="one")).created
        assert (await producer.enqueue(Ask(question="c"), job_id="two")).created


async def test_a_job_of_the_same_id_gives_the_first_ones_result(redis_url: str) -> None:
    async with working(redis_url, make_family("t", *FUNCTIONS)), producing(redis_url) as producer:
        await producer.enqueue(Ask(question="first"), job_id="one")
        second = await producer.enqueue(Ask(question="second"), job_id="one")
        assert (await second.result(30)).text == "FIRST"


async def test_what_is_too_late_to_start_expires(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        late = await producer.enqueue(Plain(), expires="1ms")
        early = await producer.enqueue(Plain(n=3), expires=600)
        await asyncio.sleep(0.002)
        await run_burst(redis_url, make_family("t", *FUNCTIONS))
        with pytest.raises(JobExpired, match="deadline"):
            await late.result(30)
        assert await late.status() is JobState.EXPIRED
        assert await early.result(30) == 3


async def test_max_tries_timeout_backoff_and_tags_travel_with_the_job(redis_url: str) -> None:
    async with working(redis_url, make_family("t", *FUNCTIONS)), producing(redis_url) as producer:
        once = await producer.enqueue(Ask(question="", fail="no"), max_tries=1, tags=["a", "b"])
        with pytest.raises(JobFailed) as caught:
            await once.result(30)
        assert (caught.value.reason, caught.value.tries) == ("tries", 1)
        assert (await once.info()).tags == ["a", "b"]

        slow = await producer.enqueue("wait_for_end", [], family="t", timeout=0.05, max_tries=1)
        with pytest.raises(JobFailed) as caught:
            await slow.result(30)
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
        ({"run_at": datetime(2026, 3, 1)}, "no time zone: pass an aware datetime"),  # noqa: DTZ001
        ({"run_at": "2026-03-01T00:00:00Z"}, "aware datetime"),
        ({"run_at": datetime(3500, 1, 1, tzinfo=UTC)}, "too far away"),
        ({"job_id": "a\nb"}, "plain text"),
        ({"job_id": "x" * 257}, "1 to 256"),
        ({"job_id": ""}, "or left out"),
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
        assert await (await producer.enqueue("plain", {"n": 2}, family="t")).result(30) == 2
        assert await (await producer.enqueue("plain", family="t")).result(30) == 0
        assert await (await producer.enqueue("add", [1, 2], family="t")).result(30) == 3
        assert await (await producer.enqueue("ping", [], family="t")).result(30) == "pong"
        assert await (await producer.enqueue("ping", family="t")).result(30) == "pong"


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
        inspector = Inspector(producer.redis, ["t"])
        first = await inspector.jobs("t", "waiting", limit=1)
        waiting = await inspector.jobs("t", "waiting", limit=500, cursor=first.cursor)
        assert [(info.payload["n"], info.priority, info.tags) for info in waiting] == [
            (n, 7, ["batch"]) for n in range(500)
        ]


async def test_a_plain_job_takes_its_arguments_and_a_short_header(redis_url: str) -> None:
    async with producing(redis_url) as producer:
        one, *_ = jobs = [await producer.enqueue(Plain(n=1)), *await producer.enqueue_many([Plain(n=2)] * 2)]
        by_name = await producer.enqueue("plain", {"n": 1}, family="t")
        records = [await producer.redis.get("arq:job:" + job.job_id) for job in (*jobs, by_name)]
    mark, fields = schema_mark(Plain).encode(), codec.encode_model(Plain(n=1))
    assert len(one.id) == len("t:") + 32
    assert re.fullmatch(rb"q5[0-9a-f]{11} plain\t\t" + mark + rb"\n\[" + re.escape(fields) + rb"\]", records[0])
    assert {len(record) for record in records[:3]} == {len(records[0])}
    assert re.fullmatch(rb'q5[0-9a-f]{11} plain\t\n\[{"n":1}\]', records[3])


async def test_many_by_name_and_each_with_options_of_its_own(redis_url: str) -> None:
    async with working(redis_url, make_family("t", *FUNCTIONS)), producing(redis_url) as producer:
        named = await producer.enqueue_many("plain", ({"n": n} for n in range(3)), family="t")
        assert [await job.result(30) for job in named] == [0, 1, 2]
        each = await producer.enqueue_each([((Plain(n=n), None), {"job_id": f"j{n % 2}"}) for n in range(3)])
        assert [(job.id, job.created) for job in each] == [("t:j0", True), ("t:j1", True), ("t:j0", False)]
        assert await producer.enqueue_many([]) == []
        typed = await producer.enqueue_many([Ask(question="a")])
        assert await typed[0].result(30) == Answer(text="A", at=NOW)


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
