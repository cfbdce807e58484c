"""Jobs with a keep of their own, beside those that are kept as their family has it; dead letters by count."""

from __future__ import annotations

import pytest

from tests.lua.state import A, Engine, Mine

HOUR = 3_600_000


async def ended(engine: Engine, name: str, keep: int | str = -1, *, dead: bool = False, **options: int) -> Mine:
    """Let a job end, a millisecond after the one before."""
    engine.advance(1)
    mine = await engine.take(name)
    await engine.settle(mine.bury(keep=keep) if dead else mine.complete(keep=keep), **options)
    return mine


async def kept(engine: Engine, index: str = "completed") -> list[str]:
    found = await engine.redis.zrange(engine.keys.key(index), 0, -1)
    return [job_id.decode().rpartition(":")[2] for job_id in found]


async def own_traces(engine: Engine) -> set[str]:
    return {key for key in await engine.traces() if ":kept:" in key or ":counted:" in key}


async def test_an_age_of_its_own_is_longer_or_shorter_than_the_familys(engine: Engine) -> None:
    await ended(engine, "short", "1000 -1", keep_age=HOUR)
    await ended(engine, "long", f"{2 * HOUR} -1", keep_age=HOUR)
    await ended(engine, "usual", keep_age=HOUR)
    assert await kept(engine) == ["short", "long", "usual"]
    await engine.pass_time(1001, A)
    await engine.renew(age=HOUR)
    assert await kept(engine) == ["long", "usual"]
    await engine.pass_time(HOUR, A)
    await engine.renew(age=HOUR)
    assert await kept(engine) == ["long"]
    assert (await engine.look("long")).result == b"done"
    await engine.pass_time(HOUR, A)
    await engine.renew(age=HOUR)
    assert await kept(engine) == []
    assert await engine.traces() == set()


async def test_the_expiry_of_a_result_comes_after_its_own_age(engine: Engine) -> None:
    await ended(engine, "a", f"{HOUR} -1")
    await ended(engine, "b", "-1 -1")
    assert HOUR < await engine.redis.pttl("arq:result:" + engine.id("a")) <= HOUR + 60_000
    assert await engine.redis.pttl("arq:result:" + engine.id("b")) == -1


async def test_forever_is_trimmed_neither_by_age_nor_by_count(engine: Engine) -> None:
    await ended(engine, "own", "-1 -1")
    for number in range(5):
        await ended(engine, f"j{number}", keep_count=2)
    assert await kept(engine) == ["own", "j3", "j4"]
    engine.advance(HOUR)
    await ended(engine, "last", keep_count=2, keep_age=1000)
    assert await kept(engine) == ["own", "last"]


async def test_trimming_goes_on_behind_any_number_of_jobs_kept_for_ever(engine: Engine) -> None:
    """More than one call looks at, some of one millisecond: those behind them are trimmed all the same."""
    index, own = engine.keys.key("completed"), engine.keys.key("kept:completed")
    for first, at in ((0, engine.now - 900), (600, engine.now - 800)):
        ids = [engine.id(f"own{n}") for n in range(first, first + 600)]
        await engine.redis.zadd(index, dict.fromkeys(ids, at))
        await engine.redis.zadd(own, dict.fromkeys(ids, "+inf"))
        await engine.redis.zadd(index, {engine.id(f"usual{first}"): at, engine.id(f"then{first}"): at + 1})
    for number in range(8):
        await ended(engine, f"j{number}", keep_count=3)
    left = [name for name in await kept(engine) if not name.startswith("own")]
    assert left == ["j5", "j6", "j7"]
    assert await engine.redis.zcard(index) == 1203


async def test_what_ends_after_the_clock_went_back_is_trimmed(engine: Engine) -> None:
    await ended(engine, "own", "-1 -1")
    for number in range(4):
        await ended(engine, f"j{number}", keep_count=2)
    engine.advance(-1000)
    await engine.sync(A)
    for number in range(4, 8):
        await ended(engine, f"j{number}", keep_count=2)
    assert len(await kept(engine)) == 3


async def test_a_count_concerns_only_those_that_bring_one(engine: Engine) -> None:
    await ended(engine, "usual")
    await ended(engine, "aged", f"{HOUR} -1")
    for number in range(4):
        await ended(engine, f"j{number}", "-1 2")
    assert await kept(engine) == ["usual", "aged", "j2", "j3"]
    await ended(engine, "j4", f"{HOUR} 1")
    assert await kept(engine) == ["usual", "aged", "j4"]


@pytest.mark.parametrize("dead", [False, True])
async def test_none_is_kept_but_whoever_waits_is_told(engine: Engine, dead: bool) -> None:
    mine = await engine.take("a")
    assert (await engine.broker.await_result("p", engine.id("a")))[0] == 0
    await engine.settle(mine.bury(keep="0 -1", line=b"{}") if dead else mine.complete(keep="0 -1"))
    assert await engine.redis.llen(engine.keys.key("reply", "p")) == 1
    assert await engine.traces() == {engine.keys.key("reply", "p")}


async def test_dead_letters_of_their_own_age(engine: Engine) -> None:
    await engine.sync(A, keep_failed=(1000, None))
    await ended(engine, "own", f"{HOUR} -1", dead=True)
    await ended(engine, "usual", dead=True)
    engine.advance(1001)
    await ended(engine, "next", dead=True)
    assert await kept(engine, "dead") == ["own", "next"]
    await engine.pass_time(HOUR, A)
    await engine.renew(dead_age=1000)
    assert await kept(engine, "dead") == []
    assert await engine.traces() == set()


async def test_a_redriven_job_is_not_forgotten_while_it_waits(engine: Engine) -> None:
    await ended(engine, "a", "1000 5", dead=True)
    assert await engine.redrive("a") == ["retried"]
    assert await own_traces(engine) == set()
    await engine.pass_time(2000, A)
    await ended_by_renewal(engine)
    assert (await engine.look("a")).record is not None


async def ended_by_renewal(engine: Engine) -> None:
    assert await engine.renew(age=0, dead_age=0)


@pytest.mark.parametrize("dead", [False, True])
async def test_removing_leaves_nothing(engine: Engine, dead: bool) -> None:
    await ended(engine, "a", "1000 5", dead=dead)
    assert await engine.remove("a") == ["removed"]
    assert await engine.traces() == set()


async def test_an_id_used_again_is_kept_as_its_last_end_says(engine: Engine) -> None:
    await ended(engine, "a", "1000 -1")
    await engine.redis.delete("arq:result:" + engine.id("a"))
    await ended(engine, "a")
    assert await own_traces(engine) == set()
    await engine.pass_time(2000, A)
    await engine.renew(age=HOUR)
    assert (await engine.look("a")).result == b"done"


async def test_dead_letters_are_kept_by_count(engine: Engine) -> None:
    await engine.sync(A, keep_failed=(-1, 2))
    for number in range(5):
        await ended(engine, f"j{number}", dead=True)
    assert await kept(engine, "dead") == ["j3", "j4"]
    assert (await engine.look("j2")).record is None


async def test_dead_letters_beyond_the_count_go_with_a_renewal(engine: Engine) -> None:
    for number in range(5):
        await ended(engine, f"j{number}", dead=True)
    await engine.sync(A, keep_failed=(-1, 2))
    await engine.renew()
    assert await kept(engine, "dead") == ["j3", "j4"]
