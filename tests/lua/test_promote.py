"""promote: delayed jobs run now."""

from __future__ import annotations

from tests.lua.conftest import Fill
from tests.lua.state import NOW, Engine


async def _promote(engine: Engine, *names: str) -> list[str]:
    words = await engine.broker.promote([engine.id(name) for name in names])
    await engine.check()
    return words


async def test_a_delayed_job_runs_now_behind_what_waits_at_its_level(engine: Engine) -> None:
    await engine.enqueue(engine.job("later", 3, delay=10_000), engine.job("first", 3), engine.job("last", 4))
    assert await _promote(engine, "later") == ["promoted"]
    assert await engine.order() == ["first", "later", "last"]
    assert (await engine.look("later")).level == 3


async def test_idle_workers_are_woken(engine: Engine) -> None:
    await engine.enqueue(engine.job("later", delay=10_000))
    await engine.redis.delete(engine.keys.key("mark"))
    await _promote(engine, "later")
    assert await engine.marked()


async def test_a_job_that_waits_for_a_retry_keeps_its_tries(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.settle(mine.retry(60_000, 2, b'{"try":2}'))
    assert await _promote(engine, "a") == ["promoted"]
    (mine,) = await engine.claim()
    assert mine.claim.tries == b"2"


async def test_a_stock_producers_job_gets_the_familys_level(engine: Engine) -> None:
    await engine.sync(priority=7)
    await engine.redis.set("arq:job:stock", b"anything")
    await engine.redis.zadd(engine.keys.queue, {"stock": NOW + 5000})
    assert await engine.broker.promote(["stock"]) == ["promoted"]
    assert (await engine.redis.zscore(engine.keys.queue, "stock") + 2**52) // 2**48 == 7


async def test_only_delayed_jobs_are_promoted(engine: Engine) -> None:
    done = await engine.take("done")
    await engine.settle(done.complete())
    dead = await engine.take("dead")
    await engine.settle(dead.bury())
    await engine.take("runs")
    await engine.enqueue("waits")
    before = {name: await engine.look(name) for name in ("done", "dead", "runs", "waits")}
    assert await _promote(engine, *before, "never") == ["not_delayed"] * 4 + ["not_found"]
    assert {name: await engine.look(name) for name in before} == before


async def test_groups_take_turns_with_promoted_jobs(engine: Engine) -> None:
    await engine.enqueue(*(engine.job(f"a{i}", group="a") for i in range(3)), engine.job("b", group="b", delay=9000))
    await _promote(engine, "b")
    assert (await engine.order()).index("b") == 1


async def test_on_a_paused_queue_nobody_is_woken(engine: Engine) -> None:
    await engine.broker.pause(True)
    await engine.enqueue(engine.job("later", delay=10_000))
    await _promote(engine, "later")
    assert not await engine.marked()


async def test_a_full_server_promotes(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await engine.enqueue(engine.job("later", delay=10_000))
    await fill()
    assert await engine.broker.promote([engine.id("later")]) == ["promoted"]
