"""`Inspector.stats` of real workers: right figures, whatever calls are lost."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.exceptions import ConnectionError as LostConnection

from daemon.broker import Outcome
from daemon.claiming.session import Session
from daemon.connecting.channel import Channel
from daemon.context import JobContext
from daemon.errors import InvalidJob, PermanentError
from daemon.family import Fixed
from daemon.inspector import Inspector
from daemon.lua import SCRIPTS
from daemon.producer import Producer
from tests.engine import calls, eventually, make_family, run_burst, until, working


async def work(ctx: JobContext, seconds: float) -> None:
    await asyncio.sleep(seconds)


async def fail(ctx: JobContext) -> None:
    raise OSError("busy") if ctx.job_try == 1 else PermanentError("no")


def inspector(producer: Producer) -> Inspector:
    return Inspector(producer.redis, ["t"])


async def test_what_a_worker_did(redis_url: str, producer: Producer) -> None:
    jobs = await producer.enqueue_many("work", [[0.01]] * 5, family="t")
    jobs.append(await producer.enqueue("fail", family="t"))
    async with working(redis_url, make_family("t", work, fail, backoff=Fixed(0))):
        await asyncio.gather(*(job.result(30) for job in jobs), return_exceptions=True)
    found = await inspector(producer).stats("t", last="10m")
    assert found.step == "minute"
    assert (found.total.enqueued, found.total.completed, found.total.retried, found.total.failed) == (6, 5, 1, 1)
    worked, failed = found.functions["work"], found.functions["fail"]
    assert (worked.completed, worked.failed, failed.retried, failed.failed) == (5, 0, 1, 1)
    assert worked.mean_run is not None
    assert 0.008 <= worked.mean_run < 5
    assert worked.p95_run is not None
    assert 0.008 / 1.2 <= worked.p95_run < 6
    assert worked.mean_wait is not None
    assert 0 <= worked.mean_wait < 10
    assert found.total.throughput == pytest.approx(5 / (found.until - found.since).total_seconds())
    assert sum(point.figures.completed for point in found.series) == 5
    only = await inspector(producer).stats("t", function="fail")
    assert (list(only.functions), only.total.completed, only.total.failed) == (["fail"], 0, 1)
    hours = await inspector(producer).stats("t", last="2d")
    assert (hours.step, hours.total.completed) == ("hour", 5)


@pytest.mark.parametrize("late", ["delay", "run_at"])
async def test_a_delay_that_was_asked_for_is_no_wait(redis_url: str, producer: Producer, late: str) -> None:
    options: Any = {"delay": 3} if late == "delay" else {"run_at": datetime.now(UTC) + timedelta(seconds=3)}
    job = await producer.enqueue("work", [0], family="t", **options)
    async with working(redis_url, make_family("t", work)) as supervisor:
        await job.result(30)
        metrics = supervisor.workers[0].metrics.snapshot()["functions"]["work"]
    mean_wait = (await inspector(producer).stats("t")).total.mean_wait
    assert mean_wait is not None
    assert mean_wait < 2.9
    assert metrics["wait"]["sum"] < 2.9


async def test_names_no_function_has_do_not_fill_it(redis_url: str, producer: Producer) -> None:
    for number in range(5):
        await producer.enqueue(f"invented{number}", family="t")
    async with working(redis_url, make_family("t", work)):

        async def parked() -> bool:
            return (await inspector(producer).stats("t")).total.parked == 5

        await eventually(parked)
    assert list((await inspector(producer).stats("t")).functions) == ["?"]


async def test_an_outcome_that_came_too_late_keeps_the_others_of_its_call(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    calls: list[int] = []

    async def wait(ctx: JobContext) -> None:
        await gate.wait()

    take = Session._take

    def counting(session: Session) -> list[Outcome]:
        taken = take(session)
        calls.append(len(taken))
        return taken

    monkeypatch.setattr(Session, "_take", counting)
    jobs = await producer.enqueue_many("wait", [[] for _ in range(8)], family="t")
    async with working(redis_url, make_family("t", wait)) as supervisor:
        worker = supervisor.workers[0]
        await until(lambda: len(worker.running) == 8)
        await producer.redis.hdel(worker.keys.key("held", supervisor.session), jobs[3].job_id)
        gate.set()

        async def counted() -> bool:
            return (await inspector(producer).stats("t")).total.completed > 0

        # By the call behind the one that settled them.
        await eventually(counted)
        total = (await inspector(producer).stats("t")).total
        queue = await inspector(producer).queue("t")
    assert 8 in calls, "all outcomes went with one call"
    assert queue.totals["completed"] == total.completed == 7
    assert total.mean_run is not None


async def test_lost_replies_neither_add_nor_take_away(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls are done but never answered, or never done: outcomes are sent again, and counted once."""
    start, number = Channel.start, 0

    async def losing(channel: Channel, *command: Any) -> Any:
        nonlocal number
        if command[1] != SCRIPTS["tick"].sha:
            return await start(channel, *command)
        number += 1
        reply = await start(channel, *command) if number % 7 else None
        if reply is not None and number % 3:
            return reply
        if reply is not None:
            await reply
        channel.close()
        raise LostConnection("cut")

    monkeypatch.setattr(Channel, "start", losing)
    jobs = await producer.enqueue_many("work", [[0]] * 600, family="t")
    async with working(redis_url, make_family("t", work, max_jobs=50)) as supervisor:
        await asyncio.gather(*(job.result(60) for job in jobs))
        await until(lambda: not supervisor.workers[0].busy)
    found = await inspector(producer).stats("t")
    assert (found.total.completed, found.total.enqueued) == (600, 600)
    assert (await inspector(producer).queue("t")).totals["completed"] == 600


async def test_switched_off_nothing_is_kept(redis_url: str, producer: Producer) -> None:
    family = make_family("t", work, statistics=False)
    await run_burst(redis_url, family)
    await producer.enqueue("work", [0], family="t")
    await run_burst(redis_url, family)
    assert await producer.redis.keys("*stats*") == []
    found = await inspector(producer).stats("t")
    assert (found.total.enqueued, found.functions) == (0, {})


async def test_a_time_that_makes_no_sense_is_refused(producer: Producer) -> None:
    looking, now = inspector(producer), datetime.now(UTC)
    calls: list[tuple[dict[str, Any], str]] = [
        ({"since": now + timedelta(hours=1)}, "since must be before until"),
        ({"since": now - timedelta(hours=1), "until": now - timedelta(hours=2)}, "since must be before until"),
        ({"last": "soon"}, "is not a duration"),
        ({"last": 0}, "since must be before until"),
        ({"step": "day"}, "use minute or hour"),
    ]
    for options, told in calls:
        with pytest.raises(InvalidJob, match=told):
            await looking.stats("t", **options)
    with pytest.raises(InvalidJob, match="there is no family"):
        await looking.stats("u")


async def test_minutes_that_are_over_are_read_once(redis_url: str, producer: Producer) -> None:
    async with working(redis_url, make_family("t", work)):
        await (await producer.enqueue("work", [0], family="t")).result(30)
    seconds, _ = await producer.redis.time()
    await producer.redis.hset(f"{{t}}:stats:m:{seconds // 60 - 10}", "work\x1fc", 7)
    looking = inspector(producer)
    first = await looking.stats("t", last="1h", step="minute")
    assert first.total.completed == 8
    async with working(redis_url, make_family("t", work)):
        await (await producer.enqueue("work", [0], family="t")).result(30)
    before = calls(redis_url, "hgetall")
    again = await looking.stats("t", last="1h", step="minute")
    # This minute and the last, and one more if a minute has passed.
    assert calls(redis_url, "hgetall") - before <= 3
    fresh = await inspector(producer).stats("t", last="1h", step="minute")
    assert again.total.completed == fresh.total.completed == 9


async def test_figures_of_many_families_are_those_of_each(redis_url: str, producer: Producer) -> None:
    looking = Inspector(producer.redis, ["t", "u"])
    for family, count in (("t", 3), ("u", 2)):
        await producer.enqueue_many("work", [[0]] * count, family=family)
        await run_burst(redis_url, make_family(family, work))
    for _ in range(2):
        found = await looking.figures(["u", "t"])
        assert [(minute.completed, hour.completed, hour.enqueued) for minute, hour in found] == [(2, 2, 2), (3, 3, 3)]
        total = (await Inspector(producer.redis, ["t"]).stats("t", last=3600, step="minute")).total
        assert (found[1][1].mean_run, found[1][1].p95_run) == (total.mean_run, total.p95_run)
        assert found[1][1].throughput == pytest.approx(total.throughput, rel=0.01)
    with pytest.raises(InvalidJob):
        await looking.figures(["none"])
