"""clean: ended jobs go with all they left, oldest first, in portions."""

from __future__ import annotations

import pytest

from daemon.keys import JOB, RESULT
from tests.lua.conftest import Fill
from tests.lua.state import NOW, Engine

KINDS = {"completed": "complete", "dead": "bury", "aborted": "abort", "expired": "expire"}


async def _end(engine: Engine, kind: str, *names: str) -> None:
    """End jobs 10 ms apart."""
    for name in names:
        mine = await engine.take(name)
        await engine.settle(mine.retry(0, 1, b'{"try":1}'))
        (mine,) = await engine.claim()
        await engine.settle(getattr(mine, KINDS[kind])(keep=-1))
        engine.advance(10)


@pytest.mark.parametrize("index", KINDS)
async def test_nothing_is_left(engine: Engine, index: str) -> None:
    await _end(engine, index, "a", "b")
    assert await engine.broker.clean(index, 500, engine.now) == 2
    assert await engine.traces() == set()
    assert await engine.enqueue("a") == [True]


@pytest.mark.parametrize("index", KINDS)
async def test_only_what_ended_until_then_and_only_of_that_state(engine: Engine, index: str) -> None:
    await _end(engine, index, "a", "b", "c")
    (other,) = [kind for kind in KINDS if kind != index][:1]
    await _end(engine, other, "x")
    assert await engine.broker.clean(index, 500, NOW + 10) == 2
    for name, kept in (("a", False), ("b", False), ("c", True), ("x", True)):
        seen = await engine.look(name)
        assert (seen.result is not None) == kept
        assert bool(seen.indexes) == kept


async def test_a_portion_takes_the_oldest(engine: Engine) -> None:
    await _end(engine, "completed", "a", "b", "c")
    assert await engine.broker.clean("completed", 2, engine.now) == 2
    assert (await engine.look("c")).indexes == {"completed"}
    assert await engine.broker.clean("completed", 2, engine.now) == 1
    assert await engine.broker.clean("completed", 2, engine.now) == 0


async def test_live_jobs_stay(engine: Engine) -> None:
    await engine.enqueue("waits", engine.job("later", delay=10))
    (mine,) = await engine.claim()
    for index in KINDS:
        assert await engine.broker.clean(index, 500, engine.now) == 0
    assert (await engine.settle(mine.complete())).refused == []


async def test_results_of_a_wrong_type_go_too(engine: Engine) -> None:
    await _end(engine, "dead", "a")
    for prefix in (JOB, RESULT):
        await engine.redis.delete(prefix + engine.id("a"))
        await engine.redis.hset(prefix + engine.id("a"), "wrong", "type")
    assert await engine.broker.clean("dead", 1, engine.now) == 1
    assert await engine.traces() == set()


async def test_a_full_server_cleans(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await _end(engine, "completed", "a")
    await fill()
    assert await engine.broker.clean("completed", 1, engine.now) == 1
