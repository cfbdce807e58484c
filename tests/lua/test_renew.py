"""renew: the lease goes on, a lost wake-up is repaired, and what has aged goes with all it left."""

from __future__ import annotations

import pytest

from daemon.keys import JOB, RESULT, RETRY
from tests.lua.conftest import Fill
from tests.lua.state import HELD, LEASE, NOW, SUSPECT, A, B, C, Engine
from tests.marks import stock_ids


async def test_the_lease_and_what_is_published_are_renewed(engine: Engine) -> None:
    engine.advance(LEASE // 3)
    assert await engine.renew(A, info=b'{"running":3}')
    assert await engine.redis.zscore(engine.keys.key("workers"), A) == NOW + LEASE // 3 + LEASE
    assert await engine.redis.hget(engine.keys.key("session", A), "info") == b'{"running":3}'


async def test_an_unknown_session_is_told_and_nothing_is_written(engine: Engine) -> None:
    before = {key: await engine.redis.dump(key) for key in await engine.redis.keys("*")}
    assert not await engine.renew(B)
    assert {key: await engine.redis.dump(key) for key in await engine.redis.keys("*")} == before


async def test_a_reaped_session_is_told(engine: Engine) -> None:
    await engine.sync(B)
    await engine.pass_time(LEASE + 1, A)
    await engine.tick(A)
    assert not await engine.renew(B)


async def test_a_renewal_does_not_count_as_a_call(engine: Engine) -> None:
    await engine.renew(A)
    assert (await engine.tick(n=2)).status == "ok"


async def test_a_stolen_mark_is_restored(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.redis.delete(engine.keys.key("mark"))
    await engine.renew(A)
    assert await engine.marked()


async def test_a_mark_that_came_untrue_is_removed(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.pause()
    await engine.renew(A)
    assert not await engine.marked()


async def test_a_job_that_came_due_unnoticed_sets_the_mark(engine: Engine) -> None:
    await engine.enqueue(engine.job("a", delay=1000))
    await engine.tick()
    engine.advance(1000)
    await engine.renew(A)
    assert await engine.marked()


async def test_a_stolen_suspect_mark_is_restored(engine: Engine) -> None:
    await engine.enqueue("a")
    for session in (B, C):
        await engine.sync(session)
        await engine.claim(session)
        await engine.pass_time(LEASE + 1, A)
        await engine.tick()
    await engine.redis.delete(engine.keys.key("suspects"))
    await engine.renew(A)
    assert await engine.redis.exists(engine.keys.key("suspects"))


@pytest.mark.parametrize("kind", ["complete", "abort", "expire"])
async def test_ended_jobs_go_at_their_age_with_all_they_left(engine: Engine, kind: str) -> None:
    await engine.settle(getattr(await engine.take("a"), kind)(keep=-1))
    before = await engine.traces()
    engine.advance(4999)
    await engine.renew(A, age=5000)
    assert await engine.traces() == before
    engine.advance(1)
    await engine.renew(A, age=5000)
    assert await engine.traces() == set()


async def test_dead_letters_go_at_an_age_of_their_own(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.settle(mine.retry(0, 1, b'{"try":1}'))
    (mine,) = await engine.claim()
    await engine.settle(mine.bury(keep=-1, line=b'{"try":2}'))
    engine.advance(5000)
    await engine.renew(A, age=1000, dead_age=5001)
    assert (await engine.look("a")).record is not None
    await engine.renew(A, age=1000, dead_age=5000)
    assert await engine.traces() == set()
    assert await engine.enqueue("a") == [True]


async def test_for_ever_is_for_ever(engine: Engine) -> None:
    await engine.settle((await engine.take("a")).complete(keep=-1))
    await engine.settle((await engine.take("b")).bury(keep=-1))
    engine.advance(400 * 86_400_000)
    await engine.renew(A)
    assert (await engine.look("a")).result == b"done"
    assert (await engine.look("b")).indexes == {"dead"}


async def test_trimming_is_bounded_and_goes_on_with_the_next_call(engine: Engine) -> None:
    await engine.redis.zadd(engine.keys.key("expired"), {engine.id(f"j{i}"): NOW - 9999 for i in range(600)})
    sizes = []
    for _ in range(3):
        await engine.renew(A, age=1000)
        sizes.append(await engine.redis.zcard(engine.keys.key("expired")))
    assert sizes == sorted(sizes, reverse=True)
    assert 0 < sizes[0] < 600
    assert sizes[-1] == 0


async def test_trimming_an_old_entry_spares_a_job_with_its_id(engine: Engine) -> None:
    """The result ended by itself, its id was used again, and then the old entry is trimmed."""
    await engine.settle((await engine.take("a")).abort())
    await engine.redis.delete(RESULT + engine.id("a"))
    engine.advance(10_000)
    mine = await engine.take("a")
    await engine.settle(mine.retry(1000))
    await engine.renew(A, age=5000)
    seen = await engine.look("a")
    assert (seen.band, seen.tries, seen.record is not None) == ("later", b"1", True)


@pytest.mark.parametrize("due", [HELD + NOW + 7_200_000, SUSPECT - 1, SUSPECT + NOW + 7_200_000, 2.0**47, float("inf")])
async def test_a_due_time_in_another_states_band_is_brought_back(engine: Engine, due: float) -> None:
    await engine.redis.set(JOB + engine.id("a"), b"no header")
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): due})
    await engine.broker.run("renew", A, LEASE, b"{}", -1, -1)
    await engine.check()
    seen = await engine.look("a")
    assert (seen.band, seen.score) == ("later", HELD - 1)


async def test_held_jobs_and_suspects_are_not_taken_for_due_times(engine: Engine) -> None:
    await engine.enqueue("suspect")
    for session in (B, C):
        await engine.sync(session)
        await engine.claim(session)
        await engine.pass_time(LEASE + 1, A)
        await engine.tick()
    await engine.take("held")
    engine.advance(-3_000_000)
    await engine.renew(A)
    assert [(await engine.look(name)).band for name in ("held", "suspect")] == ["held", "suspect"]


@stock_ids
async def test_a_stock_abort_of_an_unknown_id_does_not_stay_for_ever(engine: Engine) -> None:
    """arq never trims its set; a request without a job is a request for nothing once it is a month old."""
    await engine.redis.zadd(engine.aborts, {"never existed": engine.now, engine.id("a"): engine.now})
    engine.advance(31 * 86_400_000)
    await engine.redis.zadd(engine.aborts, {"new": engine.now - 3_600_000})
    await engine.renew(A)
    assert await engine.redis.zrange(engine.aborts, 0, -1) == [b"new"]


async def test_a_full_server_renews_and_trims(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await engine.settle((await engine.take("a")).bury())
    await engine.enqueue("b")
    await fill()
    await engine.redis.delete(engine.keys.key("mark"))
    engine.advance(5000)
    assert await engine.renew(A, age=1000, dead_age=1000)
    assert await engine.marked()
    assert JOB + engine.id("a") not in await engine.traces()
    assert RETRY + engine.id("a") not in await engine.traces()
