"""reprioritize: waiting and delayed jobs get another level."""

from __future__ import annotations

import pytest

from daemon.broker import NewJob
from daemon.keys import JOB
from daemon.records import record_tail, split_record
from tests.lua.conftest import Fill
from tests.lua.state import BODY, LEASE, NOW, A, B, C, Engine


async def _change(engine: Engine, level: int, *names: str) -> list[str]:
    words = await engine.broker.reprioritize([engine.id(name) for name in names], level)
    await engine.check()
    return words


async def test_a_waiting_job_goes_behind_those_of_its_new_level(engine: Engine) -> None:
    await engine.enqueue("a", "b", "c", engine.job("first", 2))
    assert await _change(engine, 2, "c") == ["changed"]
    assert await engine.order() == ["first", "c", "a", "b"]
    assert (await engine.look("c")).level == 2


async def test_a_delayed_job_keeps_its_time(engine: Engine) -> None:
    await engine.enqueue(engine.job("later", 5, delay=10_000), engine.job("now", 5))
    assert await _change(engine, 1, "later") == ["changed"]
    seen = await engine.look("later")
    assert (seen.level, int(seen.score or 0)) == (1, NOW + 10_000)
    engine.advance(10_000)
    assert [mine.name for mine in await engine.claim(wanted=2)] == ["later", "now"]


async def test_one_that_came_due_gets_a_place(engine: Engine) -> None:
    await engine.enqueue(engine.job("due", 5, delay=10), "a")
    engine.advance(10)
    assert await _change(engine, 4, "due") == ["changed"]
    assert await engine.order() == ["due", "a"]


async def test_the_level_lasts_over_a_retry_and_a_redrive(engine: Engine) -> None:
    await engine.enqueue(engine.job("a", 5, timeout=7000, expires=60_000))
    before = split_record((await engine.look("a")).record or b"")
    await _change(engine, 10, "a")
    assert split_record((await engine.look("a")).record or b"") == before._replace(level=10)
    (mine,) = await engine.claim()
    await engine.settle(mine.retry(1000))
    assert (await engine.look("a")).level == 10
    engine.advance(1000)
    (mine,) = await engine.claim()
    await engine.settle(mine.bury())
    await engine.redrive("a")
    assert (await engine.look("a")).level == 10


async def test_a_suspect_still_runs_alone(engine: Engine) -> None:
    await engine.enqueue("a")
    for session in (B, C):
        await engine.sync(session)
        await engine.claim(session)
        await engine.pass_time(LEASE + 1, A)
        await engine.tick()
    assert await _change(engine, 2, "a") == ["changed"]
    assert (await engine.look("a")).band == "suspect"
    (mine,) = await engine.claim(alone=True)
    await engine.settle(mine.retry(10))
    assert (await engine.look("a")).level == 2


async def test_a_job_in_a_lane_stays_there_and_comes_out_at_the_new_level(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "1||"})
    tail = record_tail("send", "acme", BODY)
    await engine.broker.enqueue([NewJob(engine.id(name), 5, "now", 0, 0, 0, tail) for name in "abc"])
    (mine,) = await engine.claim(wanted=5)
    assert mine.name == "a"
    assert await engine.broker.reprioritize([engine.id("c")], 1) == ["changed"]
    assert (await engine.tick()).claims == []
    reply = await engine.settle(mine.complete(), wanted=5)
    assert [claim.id.decode() for claim in reply.claims] == [engine.id("c")]


async def test_only_live_jobs_are_changed(engine: Engine) -> None:
    done = await engine.take("done")
    await engine.settle(done.complete())
    dead = await engine.take("dead")
    await engine.settle(dead.bury())
    await engine.take("runs")
    before = {name: await engine.look(name) for name in ("done", "dead", "runs")}
    assert await _change(engine, 1, *before, "never") == ["ended", "ended", "active", "not_found"]
    assert {name: await engine.look(name) for name in before} == before


@pytest.mark.parametrize("record", [b"no header", b"qx x", b"", None])
async def test_an_entry_without_a_header_is_moved(engine: Engine, record: bytes | None) -> None:
    if record is not None:
        await engine.redis.set(JOB + engine.id("a"), record)
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): NOW})
    assert await _change(engine, 3, "a") == ["changed"]
    seen = await engine.look("a")
    assert (seen.band, seen.level, seen.record) == ("ready", 3, record)


async def test_an_expiry_of_its_own_is_kept(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.redis.pexpire(JOB + engine.id("a"), 60_000)
    await _change(engine, 3, "a")
    assert await engine.redis.pttl(JOB + engine.id("a")) > 0


async def test_a_full_server_changes(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await engine.enqueue("a")
    await fill()
    assert await engine.broker.reprioritize([engine.id("a")], 1) == ["changed"]
