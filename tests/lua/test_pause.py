"""pause: a paused queue is one nobody claims from."""

from __future__ import annotations

from tests.lua.conftest import Fill
from tests.lua.state import LEASE, A, B, C, Engine


async def test_pausing_takes_the_mark_away_and_resuming_wakes_at_once(engine: Engine) -> None:
    await engine.enqueue("a")
    assert await engine.broker.pause(True)
    await engine.check()
    assert not await engine.marked()
    assert await engine.claim() == []
    assert await engine.broker.pause(False)
    await engine.check()
    assert await engine.marked()
    assert [mine.name for mine in await engine.claim()] == ["a"]


async def test_twice_is_told(engine: Engine) -> None:
    assert [await engine.broker.pause(paused) for paused in (False, True, True, False)] == [False, True, False, True]


async def test_what_comes_while_paused_waits_and_what_runs_ends(engine: Engine) -> None:
    mine = await engine.take("runs")
    await engine.broker.pause(True)
    await engine.enqueue("comes")
    assert not await engine.marked()
    assert (await engine.settle(mine.complete())).refused == []
    assert await engine.claim() == []


async def test_resuming_wakes_for_what_is_delayed(engine: Engine) -> None:
    """Workers that looked meanwhile sleep for long: nobody told them when the next job comes due."""
    await engine.enqueue(engine.job("later", delay=5000))
    await engine.broker.pause(True)
    assert (await engine.tick(wanted=1)).wait > 5000
    await engine.broker.pause(False)
    assert await engine.marked()
    await engine.redis.delete(engine.keys.key("mark"))
    assert (await engine.tick(wanted=1)).wait == 5000


async def test_resuming_wakes_for_a_suspect(engine: Engine) -> None:
    await engine.enqueue("a")
    for session in (B, C):
        await engine.sync(session)
        await engine.claim(session)
        await engine.pass_time(LEASE + 1, A)
        await engine.tick()
    await engine.broker.pause(True)
    await engine.broker.pause(False)
    assert await engine.redis.exists(engine.keys.key("suspects"))
    (mine,) = await engine.claim(alone=True)
    assert mine.name == "a"


async def test_a_worker_that_registers_leaves_it_paused(engine: Engine) -> None:
    await engine.broker.pause(True)
    await engine.enqueue("a")
    await engine.sync(B)
    assert await engine.claim(B) == []


async def test_a_full_server_is_paused_and_resumed(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await engine.enqueue("a")
    await fill()
    assert await engine.broker.pause(True)
    assert not await engine.marked()
    assert await engine.broker.pause(False)
    assert await engine.marked()
