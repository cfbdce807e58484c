"""remove: jobs go with all they left, in any state but active."""

from __future__ import annotations

import pytest

from daemon.keys import IN_PROGRESS, JOB, RESULT, RETRY
from tests.lua.conftest import Fill
from tests.lua.state import LEASE, NOW, A, B, C, Engine


@pytest.mark.parametrize("kind", ["complete", "abort", "expire", "bury"])
async def test_an_ended_job_leaves_nothing(engine: Engine, kind: str) -> None:
    mine = await engine.take("a")
    await engine.settle(mine.retry(0, 1, b'{"try":1}'))
    (mine,) = await engine.claim()
    await engine.settle(getattr(mine, kind)(keep=-1))
    assert await engine.remove("a") == ["removed"]
    assert await engine.traces() == set()
    assert await engine.enqueue("a") == [True]


async def test_a_waiting_a_delayed_and_a_retried_job_leave_nothing(engine: Engine) -> None:
    mine = await engine.take("retried")
    await engine.broker.progress(A, engine.id("retried"), 20, "")
    await engine.settle(mine.retry(5000, 1, b'{"try":1}'))
    await engine.enqueue("waiting", engine.job("delayed", delay=1000))
    assert await engine.remove("waiting", "delayed", "retried") == ["removed"] * 3
    assert await engine.traces() == set()


async def test_a_suspect_leaves_nothing(engine: Engine) -> None:
    await engine.enqueue("a")
    for session in (B, C):
        await engine.sync(session)
        await engine.claim(session)
        await engine.pass_time(LEASE + 1, A)
        await engine.tick()
    assert await engine.remove("a") == ["removed"]
    assert await engine.traces() == set()


async def test_an_active_job_is_not_removed(engine: Engine) -> None:
    mine = await engine.take("a")
    assert await engine.remove("a", "never") == ["active", "not_found"]
    assert (await engine.settle(mine.complete())).refused == []


async def test_a_running_job_a_stock_client_asks_to_abort_is_still_active(engine: Engine) -> None:
    """Until the next tick a stock client's request leaves it under a score that does not say so."""
    mine = await engine.take("a")
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): 1})
    await engine.redis.zadd(engine.aborts, {engine.id("a"): NOW})
    (word,) = await engine.broker.remove([engine.id("a")])
    assert word == "active"
    assert (await engine.settle(mine.abort())).refused == []


async def test_removing_the_last_claimable_job_removes_the_mark(engine: Engine) -> None:
    await engine.enqueue("a", "b")
    await engine.remove("a")
    assert await engine.marked()
    await engine.remove("b")
    assert not await engine.marked()


async def test_a_removed_job_is_not_counted_as_aborted(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.remove("a")
    assert await engine.total("aborted") == 0


async def test_an_abort_request_goes_with_the_job(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.redis.zadd(engine.aborts, {engine.id("a"): NOW})
    await engine.remove("a")
    assert await engine.traces() == set()


async def test_orphaned_keys_without_an_entry_are_removed(engine: Engine) -> None:
    await engine.redis.set(JOB + engine.id("a"), b"payload")
    assert await engine.remove("a") == ["removed"]
    assert await engine.traces() == set()


async def test_wrong_types_are_removed_like_others(engine: Engine) -> None:
    await engine.redis.zadd(engine.keys.queue, {engine.id("bad"): float("-inf")})
    for prefix in (JOB, RESULT, RETRY, IN_PROGRESS):
        await engine.redis.hset(prefix + engine.id("bad"), "wrong", "type")
    await engine.enqueue("good")
    assert await engine.remove("bad", "good") == ["removed", "removed"]
    assert await engine.traces() == set()


async def test_many_in_one_call(engine: Engine) -> None:
    names = [f"j{i:03}" for i in range(500)]
    await engine.enqueue(*names)
    assert await engine.remove(*names) == ["removed"] * 500
    assert await engine.traces() == set()


async def test_a_full_server_removes(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await engine.enqueue("a", "b")
    await fill()
    assert await engine.remove("a") == ["removed"]
    assert await engine.marked()
