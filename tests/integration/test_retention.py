"""What a job's own keep does from end to end, and what a producer and an operator see of a budget."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.cli.command import main
from daemon.context import JobContext
from daemon.errors import ConfigurationError, InvalidJob, JobNotFound, PermanentError, QueueFull
from daemon.family import Family, FamilySettings, func
from daemon.flows import node
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.keys import FamilyKeys
from daemon.limits.queue_limits import read_limits
from daemon.pages import JobFilter
from daemon.producer import Producer, SyncProducer
from daemon.scheduling.schedule import Schedule
from tests.engine import eventually, make_family, run_burst, working

Arqd = Callable[..., tuple[int, str, str]]
KEPT = FamilyKeys.of("t").key("kept:completed")
DEAD = FamilyKeys.of("t").key("kept:dead")


async def send(ctx: JobContext, text: str = "") -> str:
    return text or "sent"


async def fail(ctx: JobContext) -> None:
    raise PermanentError("no")


def family(**values: Any) -> Family:
    return make_family("t", send, fail, **values)


@pytest.fixture
def arqd(redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Arqd:
    monkeypatch.setenv("ARQD_REDIS_URL", redis_url)
    monkeypatch.setenv("ARQD_FAMILIES", '{"t": "tests.integration.test_retention:WorkerSettings"}')

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(list(arguments))
        out, err = capsys.readouterr()
        return status, out, err

    return run


async def until_of(redis: Redis, key: str, job_id: str) -> float | None:
    """How many seconds from now a job is forgotten."""
    at = await redis.zscore(key, job_id)
    now, _ = await redis.time()
    return None if at is None else at / 1000 - now


async def test_a_job_brings_its_own_keep(redis_url: str) -> None:
    async with Producer.connect(redis_url) as producer:
        usual = await producer.enqueue("send", [], family="t")
        long = await producer.enqueue("send", [], family="t", keep={"completed": "2h"})
        failed = await producer.enqueue("fail", [], family="t", keep={"completed": "1s", "failed": "90d"})
        wrong = await producer.enqueue("send", [[1]], family="t", keep={"failed": "forever"})
        gone = await producer.enqueue("send", [], family="t", keep={"completed": "none"})
        gone_too = await producer.enqueue("fail", [], family="t", keep={"failed": "none"})
        waiting = asyncio.create_task(gone.result(30))
        await run_burst(redis_url, family())
        assert await waiting == "sent"
        assert await until_of(producer.redis, KEPT, usual.job_id) is None
        assert await until_of(producer.redis, KEPT, long.job_id) == pytest.approx(7200, abs=30)
        assert await until_of(producer.redis, DEAD, failed.job_id) == pytest.approx(90 * 86400, abs=30)
        assert await until_of(producer.redis, DEAD, wrong.job_id) == float("inf")
        for job in (gone, gone_too):
            with pytest.raises(JobNotFound):
                await job.info()
        inspector = Inspector(producer.redis, ["t"])
        stats = await inspector.queue("t")
        assert (stats.completed, stats.failed, stats.bytes, stats.max_bytes) == (2, 2, None, None)
        listed = await inspector.jobs("t", JobState.FAILED, where=JobFilter(error="PermanentError"))
        assert [info.id for info in listed] == [failed.id]


async def test_a_count_keeps_the_newest_that_bring_one(redis_url: str) -> None:
    async with Producer.connect(redis_url) as producer:
        for number in range(5):
            await producer.enqueue("send", [], family="t", job_id=f"j{number}", keep={"completed": 2})
        await producer.enqueue("send", [], family="t", job_id="usual")
        await run_burst(redis_url, family(max_jobs=1))
        listed = await Inspector(producer.redis, ["t"]).jobs("t", JobState.COMPLETED)
        assert {info.id for info in listed} == {"t:j3", "t:j4", "t:usual"}


@pytest.mark.parametrize(
    "keep",
    [
        "2h", {}, {"done": "2h"}, {"completed": "soon"}, {"completed": -1}, {"completed": True}, {"completed": "1 2"},
        {"failed": "1h 2h"}, {"failed": ""}, {"failed": None}, {"failed": "forever 3"}, {"failed": 1.5},
        {"failed": "10000000000"}, {"failed": "0s"},
    ],
)  # fmt: skip
async def test_a_wrong_keep_is_refused(redis_url: str, keep: Any) -> None:
    async with Producer.connect(redis_url) as producer:
        with pytest.raises(InvalidJob, match="keep"):
            await producer.enqueue("send", [], family="t", keep=keep)
        with pytest.raises(InvalidJob, match="template 'x': keep"):
            producer.template("x", keep=keep)


@pytest.mark.parametrize(
    ("value", "bounds"),
    [("2h", "7200000 -1"), (100, "-1 100"), ("100", "-1 100"), ("1d 5", "86400000 5"), ("none", "0 -1"), (0, "0 -1")],
)
async def test_templates_and_schedules_carry_it(redis_url: str, value: Any, bounds: str) -> None:
    schedule = Schedule("s", "send", "* * * * *", options={"keep": {"completed": value}}).checked()
    stored = Schedule.from_bytes(schedule.as_bytes())
    assert b'"k":{"c":"%s"}' % bounds.encode() in stored.job(FamilyKeys.of("t"), 0).tail
    async with Producer.connect(redis_url) as producer:
        producer.template("kept", keep={"failed": value})
        job = await producer.enqueue("send", [], family="t", template="kept")
        assert b'"k":{"b":"%s"}' % bounds.encode() in await producer.redis.get("arq:job:" + job.job_id)


async def test_a_full_queue_refuses_and_says_when(redis_url: str) -> None:
    async with working(redis_url, family(max_bytes=100_000, max_events=0)):
        pass
    async with Producer.connect(redis_url) as producer:
        await producer.enqueue("send", ["x" * 80_000], family="t")
        with pytest.raises(QueueFull, match=r"queue t is full.*nothing was added; try again in 5 s") as refused:
            await producer.enqueue("send", ["x" * 80_000], family="t")
        assert (refused.value.retry_after, refused.value.added) == (5.0, [])
        stats = await Inspector(producer.redis, ["t"]).queue("t")
        assert stats.max_bytes == 100_000
        assert 80_000 < (stats.bytes or 0) < 100_000
        await run_burst(redis_url, family(max_bytes=100_000, max_events=0))
        assert (await producer.enqueue("send", ["x" * 80_000], family="t")).created

    def from_a_thread() -> None:
        with SyncProducer.connect(redis_url) as threaded:
            threaded.enqueue("send", ["x" * 80_000], family="t")

    with pytest.raises(QueueFull):
        await asyncio.to_thread(from_a_thread)


async def test_a_handler_keeps_running_while_its_queue_is_full(redis_url: str) -> None:
    """Retries and results go on; only what a handler enqueues itself is refused, as anybody's."""
    refused: list[QueueFull] = []

    async def chain(ctx: JobContext) -> str:
        try:
            await ctx.producer.enqueue("send", ["x" * 9000], family="t")
        except QueueFull as error:
            refused.append(error)
        if ctx.job_try == 1:
            raise ValueError("once more")
        return "r" * 9000

    tight = make_family("t", chain, send, max_bytes=5000, max_events=0, backoff="fixed 1ms")
    async with Producer.connect(redis_url) as producer:
        job = await producer.enqueue("chain", [], family="t")
        # It is over the budget by itself, and goes as soon as whoever waits has got it.
        result = asyncio.create_task(job.result(30))
        await eventually(lambda: producer.redis.exists(FamilyKeys.of("t").key("waiters")))
        async with working(redis_url, tight):
            assert await result == "r" * 9000
    assert len(refused) == 2


async def test_a_flow_is_refused_or_made_as_a_whole(redis_url: str) -> None:
    async def gather(ctx: JobContext) -> int:
        return len(await ctx.children())

    tight = make_family("t", gather, send, max_bytes=100_000, max_events=0)
    async with working(redis_url, tight):
        pass
    async with Producer.connect(redis_url) as producer:
        large = [node("send", ["x" * 60_000], family="t", keep={"completed": "2h"}) for _ in range(2)]
        with pytest.raises(QueueFull):
            await producer.enqueue_flow(node("gather", [], family="t", children=large))
        stats = await Inspector(producer.redis, ["t"]).queue("t")
        assert (stats.blocked, stats.waiting) == (0, 0)
        flow = await producer.enqueue_flow(node("gather", [], family="t", children=large[:1]))
        async with working(redis_url, tight):
            assert await flow.result(30) == 1
        # The parent keeps the child's result.
        assert int(await producer.redis.hget("{t}:sizes", flow.job_id)) > 60_000


def test_a_wrong_budget_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_bytes"):
        family(max_bytes="much")


def test_enqueue_with_keep(arqd: Arqd) -> None:
    done = arqd("enqueue", "send", "--family", "other", "--keep", "completed=2h", "--keep", "failed=100")
    assert done[0] == 0
    status, _, err = arqd("enqueue", "send", "--family", "other", "--keep", "2h")
    assert (status, "completed=2h" in err) == (2, True)
    status, _, err = arqd("enqueue", "send", "--family", "other", "--keep", "completed=soon")
    assert status == 1
    assert "write an age (2h, 90d), a count (100)" in err


async def test_an_operators_budget(redis_url: str, arqd: Arqd) -> None:
    async with working(redis_url, family(max_bytes="10MB")):
        pass
    status, out, _ = await asyncio.to_thread(arqd, "limits", "t")
    assert status == 0
    assert "the queue may take 10.0MB in Redis (settings), and takes " in out
    status, out, _ = await asyncio.to_thread(arqd, "limits", "t", "--max-bytes", "1GiB", "--json")
    assert (status, json.loads(out)["budget"]["max_bytes"]) == (0, 2**30)
    async with Producer.connect(redis_url) as producer:
        found = (await read_limits(producer.redis, FamilyKeys.of("t"))).budget
        assert found is not None
        assert (found.max_bytes, found.source) == (2**30, "operator")
    status, out, _ = await asyncio.to_thread(arqd, "limits", "t", "--max-bytes", "none")
    assert "any number of bytes in Redis (operator)" in out
    status, out, _ = await asyncio.to_thread(arqd, "limits", "t", "--reset")
    assert "10.0MB in Redis (settings)" in out


@pytest.mark.parametrize("size", ["much", "0", "-5MB"])
async def test_a_wrong_budget_of_an_operator_is_refused(redis_url: str, arqd: Arqd, size: str) -> None:
    async with working(redis_url, family()):
        pass
    status, _, err = await asyncio.to_thread(arqd, "limits", "t", f"--max-bytes={size}")
    assert status == 1
    assert "is no budget: write a size" in err


def test_a_budget_is_of_the_whole_queue(arqd: Arqd) -> None:
    status, _, err = arqd("limits", "t", "--group", "acme", "--max-bytes", "1MB")
    assert (status, "whole queue" in err) == (2, True)


async def test_queues_show_bytes_where_there_is_a_budget(redis_url: str, arqd: Arqd) -> None:
    status, out, _ = await asyncio.to_thread(arqd, "queues")
    assert (status, "bytes" in out) == (0, False)
    async with working(redis_url, family(max_bytes="10MB")):
        pass
    status, out, _ = await asyncio.to_thread(arqd, "queues")
    assert out.splitlines()[0].split()[-1] == "bytes"
    assert [line.split()[-3:] for line in out.splitlines() if line.startswith("t ")] == [["0B", "of", "10.0MB"]]
    status, out, _ = await asyncio.to_thread(arqd, "queues", "--json")
    assert {queue["family"]: queue["max_bytes"] for queue in json.loads(out) if queue["max_bytes"]} == {"t": 10_000_000}


class WorkerSettings(FamilySettings):
    """What the commands know of the family."""

    family = "t"
    functions = (func(send, name="send"), func(fail, name="fail"))
