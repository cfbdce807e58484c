"""rest: leases of families without jobs go on by a command each, and nobody is taken for dead or alive by that."""

from __future__ import annotations

import pytest

from tests.engine import calls
from tests.lua.conftest import Fill
from tests.lua.state import LEASE, NOW, A, B, C, Engine
from tests.marks import one_place, one_server

STEP = LEASE // 3


async def lease_end(engine: Engine, session: str = A) -> float | None:
    found: float | None = await engine.redis.zscore(engine.keys.key("workers"), session)
    return found


async def rest_for(engine: Engine, ms: int, *sessions: str) -> None:
    """Let time pass while these sessions, which have no jobs, renew their leases."""
    for _ in range(ms // STEP):
        engine.advance(STEP)
        for session in sessions:
            assert await engine.rest(engine.now - STEP, session) == [True]


async def everything(engine: Engine) -> dict[bytes, bytes]:
    return {key: await engine.redis.dump(key) for key in await engine.redis.keys("*")}


async def test_the_lease_is_renewed(engine: Engine) -> None:
    engine.advance(STEP)
    assert await engine.rest(NOW) == [True]
    assert await lease_end(engine) == NOW + STEP + LEASE


async def test_what_is_published_is_renewed_where_it_has_changed(engine: Engine) -> None:
    for told in (b'{"running":0}', b""):
        engine.advance(STEP)
        assert await engine.rest(engine.now - STEP, info=told) == [True]
        assert await engine.redis.hget(engine.keys.key("session", A), "info") == b'{"running":0}'
    assert await engine.rest(NOW, B, info=b"{}") == [False]
    assert not await engine.redis.exists(engine.keys.key("session", B))


async def test_the_first_is_counted_from_the_registration(engine: Engine) -> None:
    engine.advance(LEASE // 2)
    assert await engine.rest("") == [True]
    engine.advance(LEASE // 2 + 1)
    assert await engine.rest("") == [False]
    assert await engine.rest("", B) == [False]


@one_server
async def test_it_takes_a_command_for_each_family(engine: Engine, redis_url: str) -> None:
    others = [Engine(engine.redis, family=name) for name in ("push", "media")]
    for other in others:
        await other.sync(A)
    for each in (engine, *others):
        each.advance(STEP)
    commands = ("zadd", "zscore", "hset", "hmget", "del")
    before = calls(redis_url, *commands)
    await engine.rest(NOW, A, *(other.keys for other in others))
    assert calls(redis_url, *commands) - before == 3
    for each in (engine, *others):
        assert await lease_end(each) == NOW + STEP + LEASE


@one_place
@pytest.mark.parametrize("delay", [0, 60_000])
async def test_a_family_with_jobs_is_left_to_a_whole_renewal(engine: Engine, delay: int) -> None:
    other = Engine(engine.redis, family="push")
    await other.sync(A)
    await other.enqueue(other.job("a", delay=delay))
    engine.advance(STEP)
    assert await engine.rest(NOW, A, other.keys) == [True, False]
    assert await lease_end(other) == NOW + LEASE


@pytest.mark.parametrize(("session", "before"), [(B, NOW), (A, NOW - LEASE // 2 - 1), (A, NOW + 1), (A, 0)])
async def test_who_is_unknown_or_late_writes_nothing(engine: Engine, session: str, before: int) -> None:
    """Late, the server may have been away: a whole renewal notes that before anything looks as if it had not."""
    engine.broker.now = NOW + 5
    await engine.sync(A)
    engine.broker.now = NOW
    there = await everything(engine)
    assert await engine.rest(before, session) == [False]
    assert await everything(engine) == there


async def test_time_that_passed_with_such_renewals_is_no_outage(engine: Engine) -> None:
    """Of two that rested one takes a job and dies: the other has it as soon as that lease has ended."""
    await engine.sync(B)
    await rest_for(engine, 10 * LEASE, A, B)
    await engine.enqueue("a")
    assert await engine.claim_asleep(B)
    await engine.pass_time(LEASE + 1, A)
    assert (await engine.tick(wanted=1)).claims
    assert (await engine.look("a")).crashes == 1


@pytest.mark.parametrize("call", ["tick", "renew", "sync"])
async def test_an_outage_is_noticed_all_the_same(engine: Engine, call: str) -> None:
    """It is the first call of one who rested that finds the server again; the other, who runs a job, lives, too."""
    await engine.sync(B)
    await rest_for(engine, 10 * LEASE, A, B)
    await engine.enqueue("a")
    assert await engine.claim_asleep(B)
    engine.advance(LEASE + 1)
    assert await engine.rest(engine.now - LEASE - 1) == [False]
    await getattr(engine, call)(A)
    await engine.tick(wanted=1)
    assert (await engine.look("a")).band == "held"
    await engine.pass_time(LEASE + 1, A)
    await engine.tick()
    assert (await engine.look("a")).band == "ready", "one lease later it counts as dead"


async def test_a_clock_that_went_back_meanwhile_reaps_nobody(engine: Engine) -> None:
    await engine.sync(B)
    await rest_for(engine, 10 * LEASE, A, B)
    engine.advance(-5 * LEASE)
    assert await engine.rest(engine.now + 5 * LEASE) == [False]
    await engine.renew(A)
    engine.advance(6 * LEASE)
    await engine.tick()
    assert await lease_end(engine, B)


async def test_a_full_server_refuses_and_a_whole_renewal_goes_through(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await fill()
    engine.advance(STEP)
    with pytest.raises(Exception, match="used memory"):
        await engine.rest(NOW)
    assert await engine.renew(A)
    assert await lease_end(engine) == NOW + STEP + LEASE


# ---------------------------------------------------------------------------- what a whole renewal tells


async def told(engine: Engine, session: str = A) -> list[int]:
    found: list[int] = await engine.broker.run("renew", session, engine.lease, b"{}", -1, -1)
    return found


async def test_it_tells_the_time_and_that_there_are_no_jobs(engine: Engine) -> None:
    engine.advance(5)
    assert await told(engine) == [1, NOW + 5, -1, 1]
    await engine.enqueue(engine.job("a", delay=1000))
    assert await told(engine) == [1, NOW + 5, -1, 0]
    engine.advance(1000)
    assert await told(engine) == [2, NOW + 1005, -1, 0]


async def test_a_family_with_a_budget_has_to_be_looked_after(engine: Engine) -> None:
    await engine.sync(max_bytes=1_000_000)
    assert await told(engine) == [1, NOW, -1, 0]


async def test_it_tells_when_the_lease_of_one_who_did_not_renew_ends(engine: Engine) -> None:
    await engine.sync(B)
    await engine.sync(C)
    assert (await told(engine))[2] == -1
    await engine.pass_time(STEP, A, C)
    assert (await told(engine))[2] == -1
    await engine.pass_time(STEP, A, C)
    assert (await told(engine))[2] == STEP + 1
    await engine.pass_time(2 * STEP, A, C)
    assert (await told(engine))[2] == 0
