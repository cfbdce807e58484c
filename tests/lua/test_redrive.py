"""redrive: dead letters go back to their queue."""

from __future__ import annotations

import pytest

from daemon.keys import JOB
from daemon.records import split_record
from tests.lua.conftest import Fill
from tests.lua.state import NOW, Engine


async def _bury(engine: Engine, name: str = "a", level: int = 3) -> None:
    await engine.enqueue(engine.job(name, level, timeout=5000, expires=60_000, body=b'["\x01"]'))
    (mine,) = await engine.claim()
    await engine.settle(mine.retry(0, 1, b'{"try":1}'))
    (mine,) = await engine.claim()
    await engine.settle(mine.bury(line=b'{"try":2}'))


async def test_a_dead_letter_starts_anew_with_its_id_and_history(engine: Engine) -> None:
    await _bury(engine)
    dead = await engine.look("a")
    engine.advance(120_000)
    assert await engine.redrive("a") == ["retried"]
    seen = await engine.look("a")
    assert (seen.band, seen.level, seen.tries, seen.result, seen.crashes) == ("ready", 3, None, None, 0)
    assert (seen.indexes, seen.history) == (set(), b'{"try":1}\n{"try":2}')
    assert dead.record is not None
    assert seen.record is not None
    assert split_record(seen.record) == split_record(dead.record)._replace(deadline_ms=0)
    assert await engine.marked()
    (mine,) = await engine.claim()
    assert mine.claim.tries == b"0"
    await engine.settle(mine.complete(keep=0))
    assert await engine.traces() == set()


async def test_the_history_goes_on_after_a_redrive(engine: Engine) -> None:
    await _bury(engine)
    await engine.redrive("a")
    (mine,) = await engine.claim()
    await engine.settle(mine.bury(line=b'{"try":1}'))
    history = (await engine.look("a")).history
    assert history == b'{"try":1}\n{"try":2}\n{"try":1}'


async def test_redriven_jobs_go_behind_those_that_wait(engine: Engine) -> None:
    await _bury(engine, "dead", 5)
    await engine.enqueue("waiting")
    await engine.redrive("dead")
    assert await engine.order() == ["waiting", "dead"]


async def test_only_dead_letters_are_redriven(engine: Engine) -> None:
    done = await engine.take("done")
    await engine.settle(done.complete())
    await engine.take("running")
    await engine.enqueue("waiting", engine.job("delayed", delay=1000))
    assert await engine.redrive("done", "running", "waiting", "delayed", "never") == ["not_failed"] * 4 + ["not_found"]
    assert (await engine.look("done")).result == b"done"
    assert (await engine.look("running")).band == "held"
    assert (await engine.look("delayed")).band == "later"


async def test_twice_in_one_call_is_once(engine: Engine) -> None:
    await _bury(engine)
    assert await engine.redrive("a", "a") == ["retried", "not_failed"]
    assert await engine.redis.zcard(engine.keys.queue) == 1


async def test_many_in_one_call(engine: Engine) -> None:
    names = [f"j{i:03}" for i in range(500)]
    engine.checked = False
    await engine.enqueue(*names)
    while claims := await engine.claim(wanted=128):
        await engine.settle(*(mine.bury() for mine in claims))
    assert await engine.redrive(*names) == ["retried"] * 500
    assert await engine.order() == names


@pytest.mark.parametrize("record", [b"no header", b"qx x", b"q51,1,1,1 f\t\n[]", b""])
async def test_an_unreadable_dead_letter_can_be_redriven(engine: Engine, record: bytes) -> None:
    await engine.sync(priority=6)
    await engine.redis.set(JOB + engine.id("a"), record)
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): NOW})
    (mine,) = await engine.claim()
    await engine.settle(mine.bury())
    assert await engine.redrive("a") == ["retried"]
    seen = await engine.look("a")
    assert (seen.band, seen.level, seen.record) == ("ready", 6, record)


async def test_a_level_that_does_not_exist_is_the_last(engine: Engine) -> None:
    await _bury(engine)
    await engine.redis.set(JOB + engine.id("a"), b"qf1 send\t\n[]")
    await engine.redrive("a")
    assert (await engine.look("a")).level == 10


async def test_a_dead_letter_of_a_wrong_type_does_not_stop_the_others(engine: Engine) -> None:
    await _bury(engine, "bad")
    await _bury(engine, "good")
    await engine.redis.delete(JOB + engine.id("bad"))
    await engine.redis.hset(JOB + engine.id("bad"), "wrong", "type")
    assert (await engine.redrive("bad", "good"))[1] == "retried"


async def test_on_a_paused_queue_nobody_is_woken(engine: Engine) -> None:
    await _bury(engine)
    await engine.pause()
    await engine.redrive("a")
    assert not await engine.marked()


async def test_a_full_server_redrives(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await _bury(engine)
    await fill()
    assert await engine.redrive("never", "a") == ["not_found", "retried"]
