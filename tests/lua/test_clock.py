"""The server's clock was far ahead and goes back: a wrong clock at boot, or a replica's in place of the primary's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from arq.connections import ArqRedis

from daemon.connecting.connections import connect
from tests.lua.flow_state import Flows
from tests.lua.state import DAY, HELD, LEASE, SUSPECT, A, B, C, Engine

BLOCKED, LANE, PARKED = 2**46 + 2**45, 2**47, 2**47 + 2**46
AHEAD = [2 * 3_600_000, 365 * DAY]


@pytest.fixture
async def flows(redis_url: str) -> AsyncIterator[Flows]:
    redis = connect(redis_url, redis_class=ArqRedis)
    yield await Flows(redis).open()
    await redis.aclose()


async def back(engine: Engine, ms: int) -> None:
    """The clock goes back, and living workers renew their leases as ever."""
    engine.advance(-ms)
    await engine.renew(A)


@pytest.mark.parametrize("ahead", AHEAD)
async def test_a_held_job_stays_held(engine: Engine, ahead: int) -> None:
    engine.advance(ahead)
    mine = await engine.take("a")
    await back(engine, ahead)
    seen = await engine.look("a")
    assert seen.band == "held"
    assert seen.score == HELD + engine.now
    await engine.settle(mine.complete())
    assert (await engine.look("a")).indexes == {"completed"}


@pytest.mark.parametrize("ahead", AHEAD)
async def test_a_suspect_still_waits_to_run_alone(engine: Engine, ahead: int) -> None:
    engine.advance(ahead)
    await engine.renew(A)
    await engine.enqueue("a")
    for session in (B, C):
        await engine.sync(session)
        await engine.claim(session)
        await engine.pass_time(LEASE + 1, A)
        await engine.tick()
    assert (await engine.look("a")).band == "suspect"
    await back(engine, ahead)
    assert (await engine.look("a")).score == SUSPECT + engine.now
    (mine,) = await engine.claim(A, alone=True)
    assert mine.name == "a"


@pytest.mark.parametrize("ahead", AHEAD)
async def test_a_parent_still_waits_for_its_children(flows: Flows, ahead: int) -> None:
    flows.advance(ahead)
    for engine in flows.engines.values():
        await engine.renew(A)
    await flows.parent("b:c")
    flows.advance(-ahead)
    for engine in flows.engines.values():
        await engine.renew(A)
    assert (await flows.engines["a"].look("p")).score == BLOCKED + flows.now
    await flows.end("b:c")
    await flows.deliver()
    assert await flows.band("a:p") == "ready"


@pytest.mark.parametrize("kind", ["g:acme", "f:send"])
@pytest.mark.parametrize("ahead", AHEAD)
async def test_what_waits_in_a_lane_still_does(engine: Engine, ahead: int, kind: str) -> None:
    await engine.sync(A, lanes={f"s:{kind}": "1||"})
    engine.advance(ahead)
    await engine.renew(A)
    await engine.enqueue(engine.job("a", group="acme"), engine.job("b", group="acme"))
    (mine,) = await engine.claim(A, 2)
    await back(engine, ahead)
    assert (await engine.look("b")).score == LANE + engine.now
    await engine.settle(mine.complete())
    (mine,) = await engine.claim(A)
    assert mine.name == "b"


@pytest.mark.parametrize("ahead", AHEAD)
async def test_a_parked_job_still_waits_for_a_worker_that_knows_it(engine: Engine, ahead: int) -> None:
    engine.advance(ahead)
    await engine.renew(A)
    await engine.settle((await engine.take("a")).park())
    await back(engine, ahead)
    assert (await engine.look("a")).score == PARKED + engine.now
    await engine.broker.sync(B, 1, LEASE, b'{"functions": ["send"]}', 5, None, None, ())
    engine.n[B] = 1
    (mine,) = await engine.claim(B)
    assert mine.name == "a"


@pytest.mark.parametrize("ahead", AHEAD)
async def test_the_jobs_of_who_died_while_it_was_ahead_are_given_to_others(engine: Engine, ahead: int) -> None:
    await engine.sync(B)
    engine.advance(ahead)
    await engine.renew(A)
    await engine.renew(B)
    await engine.enqueue("a")
    await engine.claim(B)
    await back(engine, ahead)
    await engine.pass_time(LEASE + 1, A)
    await engine.tick()
    seen = await engine.look("a")
    assert (seen.band, seen.crashes) == ("ready", 1)


async def test_the_living_keep_what_is_left_of_their_leases(engine: Engine) -> None:
    """Also those whose lease is longer than that of who notices."""
    await engine.broker.sync(B, 1, 10 * LEASE, b"{}", 5, None, None, ())
    engine.advance(2 * 3_600_000)
    await engine.renew(A)
    await engine.broker.run("renew", B, 10 * LEASE, b"{}", -1, -1)
    await engine.enqueue("a")
    await engine.claim(B, n=2)
    await back(engine, 2 * 3_600_000)
    await engine.pass_time(5 * LEASE, A)
    await engine.tick()
    assert (await engine.look("a")).band == "held"


@pytest.mark.parametrize("who", ["queue", "group", "function"])
async def test_who_was_told_to_wait_waits_no_longer_than_that(engine: Engine, who: str) -> None:
    engine.advance(365 * DAY)
    await engine.renew(A)
    await engine.enqueue(engine.job("a", group="acme"), engine.job("b", group="acme"))
    (mine,) = await engine.claim(A)
    await engine.settle(mine._outcome("w", 5000, who), wanted=1)
    await back(engine, 365 * DAY)
    assert await engine.claim(A) == []
    engine.advance(5001)
    assert [mine.name for mine in await engine.claim(A)] == ["b"]


async def test_a_lane_at_its_rate_opens_again(engine: Engine) -> None:
    await engine.sync(A, lanes={"s:g:*": "|1|1000000"})
    engine.advance(365 * DAY)
    await engine.renew(A)
    await engine.enqueue(engine.job("a", group="acme"), engine.job("b", group="acme"))
    (mine,) = await engine.claim(A, 2)
    await engine.settle(mine.complete())
    await back(engine, 365 * DAY)
    await engine.pass_time(1001, A)
    assert [mine.name for mine in await engine.claim(A)] == ["b"]
