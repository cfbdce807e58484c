"""drain: what waits or is delayed goes with all it left, in portions; what runs stays."""

from __future__ import annotations

from daemon.broker import NewJob
from daemon.records import record_tail
from tests.lua.conftest import Fill
from tests.lua.state import BODY, LEASE, NOW, A, B, C, Engine
from tests.marks import stock_ids


async def _drain(engine: Engine, count: int = 500) -> int:
    removed = await engine.broker.drain(count)
    await engine.check()
    return removed


@stock_ids
async def test_waiting_delayed_retried_and_stock_jobs_leave_nothing(engine: Engine) -> None:
    mine = await engine.take("retried")
    await engine.settle(mine.retry(5000, 1, b'{"try":1}'))
    await engine.enqueue("waiting", engine.job("first", 1), engine.job("delayed", delay=1000))
    await engine.redis.set("arq:job:stock", b"anything")
    await engine.redis.zadd(engine.keys.queue, {"stock": NOW - 1})
    assert await _drain(engine) == 5
    assert await engine.traces() == set()
    assert await engine.total("aborted") == 0


async def test_a_suspect_goes_too(engine: Engine) -> None:
    await engine.enqueue("a")
    for session in (B, C):
        await engine.sync(session)
        await engine.claim(session)
        await engine.pass_time(LEASE + 1, A)
        await engine.tick()
    assert await _drain(engine) == 1
    assert await engine.traces() == set()


async def test_running_and_ended_jobs_stay(engine: Engine) -> None:
    done = await engine.take("done")
    await engine.settle(done.complete())
    mine = await engine.take("runs")
    await engine.enqueue("waits")
    assert await _drain(engine) == 1
    assert (await engine.look("done")).result == b"done"
    assert (await engine.settle(mine.complete())).refused == []


async def test_portions_begin_with_what_would_run_first_and_tell_the_end(engine: Engine) -> None:
    await engine.enqueue("a", "b", "c", engine.job("d", delay=10))
    assert await _drain(engine, 2) == 2
    assert await engine.order() == ["c", "d"]
    assert await _drain(engine, 3) == 2
    assert await _drain(engine, 3) == 0


async def test_no_call_takes_more_than_five_hundred(engine: Engine) -> None:
    await engine.enqueue(*(f"j{i}" for i in range(600)))
    assert await _drain(engine, 10_000) == 500
    assert await engine.marked()
    assert await _drain(engine, 10_000) == 100
    assert not await engine.marked()


async def test_who_waits_for_a_result_is_told(engine: Engine) -> None:
    await engine.enqueue("a")
    assert await engine.broker.await_result(C, engine.id("a")) == (0, None)
    await _drain(engine)
    assert await engine.redis.lrange(engine.keys.key("reply", C), 0, -1) == [f"{engine.id('a')}\n".encode()]


@stock_ids
async def test_a_running_job_a_stock_client_asks_to_abort_stays(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.enqueue("waits")
    await engine.redis.set("arq:job:unheld", b"anything")
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): 1, "unheld": 1})
    await engine.redis.zadd(engine.aborts, {engine.id("a"): NOW})
    assert await engine.broker.drain(500) == 2
    assert (await engine.settle(mine.abort())).refused == []


async def test_jobs_that_wait_in_a_lane_leave_it(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "1||"})
    tail = record_tail("send", "acme", BODY)
    await engine.broker.enqueue([NewJob(engine.id(name), 5, "now", 0, 0, 0, tail) for name in "abc"])
    await engine.tick(wanted=5)
    assert await engine.redis.zcard(engine.keys.key("lane", "g:acme")) == 2
    assert await _drain(engine) == 2
    assert not await engine.redis.exists(engine.keys.key("lane", "g:acme"))


async def test_a_full_server_drains(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await engine.enqueue("a", "b")
    await fill()
    assert await engine.broker.drain(1) == 1
    assert await engine.marked()
