"""What a stock arq client sees and does: its own Job class on every state, and its producer's jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus, ResultNotFound

from daemon import codec
from daemon.errors import JobExpired, JobFailed
from daemon.records import split_record
from tests.lua.state import DAY, HELD, LEASE, A, B, C, Engine, Mine
from tests.marks import stock_arq

pytestmark = stock_arq


@pytest.fixture
async def engine(engine: Engine) -> Engine:
    """An engine whose clock stands at the real time, by which a stock client tells waiting from deferred."""
    engine.broker.now = int(time.time() * 1000)
    await engine.sync()
    return engine


def _job(engine: Engine, name: str) -> Job:
    return Job(engine.id(name), engine.redis, engine.keys.queue, codec.loads)


def _producer(engine: Engine) -> ArqRedis:
    return ArqRedis(
        connection_pool=engine.redis.connection_pool,
        job_serializer=codec.dumps,
        job_deserializer=codec.loads,
        default_queue_name=engine.keys.queue,
    )


def _result(mine: Mine, engine: Engine, error: BaseException | None = None, reason: str = "tries") -> bytes:
    ended = codec.Ended(mine.claim.id.decode(), "send", engine.keys.queue, 1, engine.now, engine.now, engine.now)
    value = {"sent": True} if error is None else codec.describe_error(error, reason)
    return codec.encode_result(ended, error is None, codec.encode(value), b'[1],"k":{"x":2}')


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 60
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


# ---------------------------------------------------------------------------- status


async def test_the_status_is_right_from_enqueue_to_result(engine: Engine) -> None:
    job = _job(engine, "a")
    assert await job.status() is JobStatus.not_found
    await engine.enqueue(engine.job("a", delay=60_000))
    assert await job.status() is JobStatus.deferred
    engine.broker.now = int(time.time() * 1000) + 60_000
    await engine.tick()
    assert await job.status() is JobStatus.queued
    (mine,) = await engine.claim()
    assert await job.status() is JobStatus.in_progress
    await engine.settle(mine.retry(60_000))
    assert await job.status() is JobStatus.deferred
    engine.advance(60_000)
    (mine,) = await engine.claim()
    await engine.settle(mine.release())
    assert await job.status() is JobStatus.queued
    (mine,) = await engine.claim()
    await engine.settle(mine.complete(_result(mine, engine)))
    assert await job.status() is JobStatus.complete
    await engine.remove("a")
    assert await job.status() is JobStatus.not_found


async def test_the_status_of_ready_jobs_of_every_level_is_queued(engine: Engine) -> None:
    await engine.enqueue(*(engine.job(f"j{level}", level) for level in range(1, 11)))
    for level in range(1, 11):
        assert await _job(engine, f"j{level}").status() is JobStatus.queued


async def test_a_job_waiting_to_run_alone_is_not_lost_to_a_stock_client(engine: Engine) -> None:
    await engine.enqueue("a")
    for session in (B, C):
        await engine.sync(session)
        await engine.claim(session)
        await engine.pass_time(LEASE + 1, A)
        await engine.tick()
    assert await _job(engine, "a").status() is JobStatus.deferred
    info = await _job(engine, "a").info()
    assert info is not None


@pytest.mark.parametrize("kind", ["bury", "abort", "expire"])
async def test_a_job_that_ended_badly_is_complete(engine: Engine, kind: str) -> None:
    mine = await engine.take("a")
    await engine.settle(getattr(mine, kind)(_result(mine, engine, ValueError("no"))))
    assert await _job(engine, "a").status() is JobStatus.complete


# ---------------------------------------------------------------------------- info and result


async def test_info_names_the_job_in_every_state(engine: Engine) -> None:
    job = _job(engine, "a")
    assert await job.info() is None
    start = engine.now
    await engine.enqueue(engine.job("a", delay=5000, body=b'[1],"k":{"x":2}'))
    bands = []
    for step in ("later", "ready", "held"):
        if step == "ready":
            engine.advance(5000)
            await engine.tick()
        elif step == "held":
            (mine,) = await engine.claim()
        info = await job.info()
        assert info is not None
        assert (info.function, list(info.args), info.kwargs) == ("send", [1], {"x": 2})
        assert abs(info.enqueue_time - datetime.fromtimestamp(start / 1000, UTC)) < timedelta(milliseconds=1)
        assert info.score is not None
        bands.append(info.score)
    assert bands[0] == start + 5000
    assert bands[1] < 0
    assert bands[2] == HELD + engine.now
    await engine.settle(mine.complete(_result(mine, engine)))
    ended = await job.result_info()
    assert ended is not None
    assert (ended.success, ended.result, ended.job_try, ended.score) == (True, {"sent": True}, 1, None)
    assert (ended.function, list(ended.args), ended.kwargs) == ("send", [1], {"x": 2})
    assert ended.queue_name == engine.keys.queue


async def test_result_waits_and_gives_what_was_returned(engine: Engine) -> None:
    mine = await engine.take("a")
    waiting = asyncio.create_task(_job(engine, "a").result(timeout=60, poll_delay=0.01))
    await engine.settle(mine.complete(_result(mine, engine)))
    assert await waiting == {"sent": True}


async def test_result_raises_what_the_job_ended_with(engine: Engine) -> None:
    cases = [
        ("bury", "tries", JobFailed),
        ("expire", "expired", JobExpired),
        ("abort", "aborted", asyncio.CancelledError),
    ]
    for kind, reason, expected in cases:
        mine = await engine.take(kind)
        await engine.settle(getattr(mine, kind)(_result(mine, engine, ValueError("no"), reason)))
        with pytest.raises(expected):
            await _job(engine, kind).result(timeout=60)


async def test_a_result_that_was_not_kept_is_not_waited_for(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.settle(mine.complete(keep=0))
    with pytest.raises(ResultNotFound):
        await _job(engine, "a").result(timeout=60)


# ---------------------------------------------------------------------------- abort


async def test_a_stock_abort_of_a_running_job_cancels_it_once(engine: Engine) -> None:
    mine = await engine.take("a")
    asking = asyncio.create_task(_job(engine, "a").abort(timeout=60, poll_delay=0.01))
    await _until(lambda: engine.redis.exists("arq:abort"))
    assert (await engine.tick(wanted=5)).claims == []
    assert await engine.redis.lrange(engine.keys.key("ctl", A), 0, -1) == [f"abort {mine.n} {engine.id('a')}".encode()]
    await engine.settle(mine.abort(_result(mine, engine, asyncio.CancelledError(), "aborted")))
    assert await asking is True
    assert not await engine.redis.exists("arq:abort")


async def test_a_renewal_finds_a_stock_abort_when_all_slots_are_taken(engine: Engine) -> None:
    mine = await engine.take("a")
    asking = asyncio.create_task(_job(engine, "a").abort(timeout=60, poll_delay=0.01))
    await _until(lambda: engine.redis.exists("arq:abort"))
    await engine.renew()
    assert await engine.redis.lrange(engine.keys.key("ctl", A), 0, -1) == [f"abort {mine.n} {engine.id('a')}".encode()]
    assert (await engine.look("a")).band == "held"
    await engine.settle(mine.abort(_result(mine, engine, asyncio.CancelledError(), "aborted")))
    assert await asking is True


@pytest.mark.parametrize("delay", [0, 60_000])
async def test_a_stock_abort_of_a_waiting_or_deferred_job_ends_it_unstarted(engine: Engine, delay: int) -> None:
    await engine.enqueue(engine.job("a", delay=delay))
    asking = asyncio.create_task(_job(engine, "a").abort(timeout=60, poll_delay=0.01))
    await _until(lambda: engine.redis.exists("arq:abort"))
    engine.advance(5)
    (mine,) = await engine.claim()
    assert mine.claim.aborted == b"1"
    await engine.settle(mine.abort(_result(mine, engine, asyncio.CancelledError(), "aborted")))
    assert await asking is True


async def test_a_stock_abort_that_comes_too_late_says_so(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.settle(mine.complete(_result(mine, engine)))
    assert await _job(engine, "a").abort(timeout=60) is False


# ---------------------------------------------------------------------------- a stock producer


async def test_a_stock_producers_job_is_claimed_and_its_client_reads_the_result(engine: Engine) -> None:
    stock = _producer(engine)
    job = await stock.enqueue_job("send", 1, x=2, _job_id=engine.id("a"))
    assert job is not None
    engine.broker.now = int(time.time() * 1000) + 5
    assert await job.status() is JobStatus.queued
    (mine,) = await engine.claim()
    assert split_record(mine.claim.record or b"").function == "send"
    assert await job.status() is JobStatus.in_progress
    await engine.settle(mine.complete(_result(mine, engine)))
    assert await job.result(timeout=60) == {"sent": True}


async def test_a_stock_producers_bare_id_works(engine: Engine) -> None:
    job = await _producer(engine).enqueue_job("send")
    assert job is not None
    engine.broker.now = int(time.time() * 1000) + 5
    (mine,) = await engine.claim()
    assert mine.claim.id.decode() == job.job_id
    await engine.settle(mine.complete(_result(mine, engine), keep=0))
    assert await engine.traces() == set()


async def test_a_stock_producer_and_ours_see_each_others_ids(engine: Engine) -> None:
    assert await _producer(engine).enqueue_job("send", _job_id=engine.id("a"))
    assert await engine.broker.enqueue([engine.job("a")]) == [False]
    await engine.enqueue("b")
    assert await _producer(engine).enqueue_job("send", _job_id=engine.id("b")) is None


async def test_a_deferred_stock_job_waits_and_outlives_its_day(engine: Engine) -> None:
    await _producer(engine).enqueue_job("send", _job_id=engine.id("a"), _defer_by=600)
    await engine.tick()
    assert (await engine.look("a")).band == "later"
    engine.advance(605_000)
    (mine,) = await engine.claim()
    assert await engine.redis.ttl(b"arq:job:" + mine.claim.id) == -1
    assert (await engine.look("a")).deadline == 0


async def test_a_stock_jobs_own_expiry_becomes_its_deadline(engine: Engine) -> None:
    await _producer(engine).enqueue_job("send", _job_id=engine.id("a"), _expires=timedelta(minutes=10))
    engine.broker.now = int(time.time() * 1000) + 5
    await engine.tick()
    deadline = (await engine.look("a")).deadline
    assert abs(deadline - engine.now - 600_000) < 10_000
    assert await engine.redis.ttl("arq:job:" + engine.id("a")) == -1


async def test_a_stock_job_deferred_beyond_all_bounds_is_brought_back(engine: Engine) -> None:
    far = datetime.fromtimestamp((HELD + engine.now + 30 * DAY) / 1000, UTC)
    await _producer(engine).enqueue_job("send", _job_id=engine.id("a"), _defer_until=far)
    await engine.broker.run("renew", A, LEASE, b"{}", -1, -1)
    assert await _job(engine, "a").status() is JobStatus.deferred
    assert (await engine.look("a")).band == "later"
