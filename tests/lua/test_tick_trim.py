"""tick trims completed jobs by count and age, and an id that is used again stands in one index only."""

from __future__ import annotations

import pytest

from daemon.keys import RESULT
from tests.lua.state import Engine


async def test_completed_jobs_are_kept_by_count(engine: Engine) -> None:
    for number in range(6):
        mine = await engine.take(f"j{number}")
        engine.advance(1)
        await engine.settle(mine.complete(), keep_count=4)
    kept = {f"j{number}" for number in range(2, 6)}
    assert await engine.traces() == {*(RESULT + engine.id(name) for name in kept), engine.keys.key("completed")}


async def test_completed_jobs_are_kept_by_age(engine: Engine) -> None:
    await engine.settle((await engine.take("old")).complete(keep=-1), keep_age=5000)
    engine.advance(4999)
    await engine.settle((await engine.take("new")).complete(keep=-1), keep_age=5000)
    assert (await engine.look("old")).result == b"done"
    engine.advance(1)
    await engine.settle((await engine.take("newer")).complete(keep=-1), keep_age=5000)
    assert (await engine.look("old")).indexes == set()
    assert (await engine.look("old")).result is None
    assert (await engine.look("new")).indexes == {"completed"}


async def test_trimming_catches_up_with_what_is_completed(engine: Engine) -> None:
    await engine.redis.zadd(engine.keys.key("completed"), {engine.id(f"old{i}"): i for i in range(600)})
    for number in range(5):
        await engine.settle((await engine.take(f"j{number}")).complete(), keep_count=10)
    assert await engine.redis.zcard(engine.keys.key("completed")) == 10


async def test_trimming_completed_jobs_spares_a_dead_letter_of_the_same_id(engine: Engine) -> None:
    """A result that ended before its index entry frees its id; the entry must not take the next job's result."""
    await engine.settle((await engine.take("a")).complete())
    await engine.redis.delete(RESULT + engine.id("a"))
    await engine.settle((await engine.take("a")).bury())
    engine.advance(10_000)
    await engine.settle((await engine.take("b")).complete(), keep_age=5000)
    seen = await engine.look("a")
    assert (seen.result, seen.indexes) == (b"broken", {"dead"})


@pytest.mark.parametrize(("first", "second"), [("abort", "complete"), ("expire", "bury"), ("complete", "abort")])
async def test_a_reused_id_stands_in_the_index_of_its_last_end(engine: Engine, first: str, second: str) -> None:
    await engine.settle(getattr(await engine.take("a"), first)())
    await engine.redis.delete(RESULT + engine.id("a"))
    await engine.settle(getattr(await engine.take("a"), second)())
    assert len((await engine.look("a")).indexes) == 1
