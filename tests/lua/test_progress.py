"""progress: noted while the job is this session's."""

from __future__ import annotations

from tests.lua.conftest import Fill
from tests.lua.state import A, B, Engine


async def test_progress_is_noted_and_replaced(engine: Engine) -> None:
    await engine.take("a")
    assert await engine.broker.progress(A, engine.id("a"), 10, "first")
    assert await engine.broker.progress(A, engine.id("a"), 55, "step 5 of 9")
    assert (await engine.look("a")).progress == b"55 step 5 of 9"


async def test_a_job_that_is_not_this_sessions_is_refused_and_nothing_is_written(engine: Engine) -> None:
    await engine.sync(B)
    await engine.take("a")
    await engine.enqueue("b")
    assert not await engine.broker.progress(B, engine.id("a"), 10, "")
    assert not await engine.broker.progress(A, engine.id("b"), 10, "")
    assert not await engine.broker.progress(A, engine.id("never"), 10, "")
    assert not await engine.redis.exists(engine.keys.key("progress"))


async def test_after_its_end_a_job_takes_no_progress(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.settle(mine.complete(keep=0))
    assert not await engine.broker.progress(A, engine.id("a"), 99, "")
    assert await engine.traces() == set()


async def test_progress_survives_a_release(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.broker.progress(A, engine.id("a"), 30, "so far")
    await engine.settle(mine.release())
    assert (await engine.look("a")).progress == b"30 so far"


async def test_a_full_server_takes_progress(full: tuple[Engine, Fill]) -> None:
    """An error here would come up inside the handler and fail its job."""
    engine, fill = full
    await engine.take("a")
    await fill()
    assert await engine.broker.progress(A, engine.id("a"), 30, "note")
    assert (await engine.look("a")).progress == b"30 note"
