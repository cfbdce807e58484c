"""take: the call a sleeping worker leaves behind its pop claims the one job there is, and leaves the rest to a tick."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from redis.exceptions import OutOfMemoryError

from daemon.keys import JOB
from tests.engine import calls
from tests.lua.conftest import Fill
from tests.lua.state import LEASE, A, B, Engine
from tests.lua.test_events import events


async def test_it_claims_as_a_tick_does(engine: Engine) -> None:
    await engine.enqueue(engine.job("a", 3))
    before = await engine.look("a")
    (mine,) = await engine.claim_asleep()
    seen = await engine.look("a")
    assert (mine.name, mine.claim.record, float(mine.claim.score)) == ("a", before.record, before.score)
    assert (seen.band, seen.token) == ("held", f"{A}:{mine.n}".encode())
    assert seen.holders == {A: f"{mine.n} {mine.claim.score.decode()}"}
    assert [(event.kind, event.id) for event in await events(engine)] == [
        ("enqueued", "email:a"), ("started", "email:a"),
    ]  # fmt: skip
    # An older number than the latest tick's: a tick may overtake it.
    await engine.tick()
    await engine.settle(mine.complete())
    assert await engine.redis.zcard(engine.keys.queue) == 0


@pytest.mark.parametrize(("timeout", "expected"), [(5000, 15_000), (300_000, 310_000)])
async def test_the_token_outlives_the_familys_timeout(engine: Engine, timeout: int, expected: int) -> None:
    await engine.enqueue("a")
    await engine.claim_asleep(timeout=timeout)
    assert expected - 5000 < await engine.redis.pttl(f"arq:in-progress:{engine.id('a')}") <= expected


@pytest.mark.parametrize(("since", "crashes"), [(LEASE // 3, 1), (LEASE // 2, 0)])
async def test_a_process_that_stands_still_has_no_crash_to_answer_for(engine: Engine, since: int, crashes: int) -> None:
    """It is known by a lease that it should have renewed."""
    await engine.sync(B)
    await engine.pass_time(since, A)
    await engine.enqueue("a")
    assert await engine.claim_asleep(B)
    await engine.pass_time(LEASE + 1, A)
    await engine.tick()
    seen = await engine.look("a")
    assert (seen.band, seen.crashes, seen.holders) == ("ready", crashes, {})
    assert not await engine.claim_asleep(B), "it has no lease any more"


async def test_what_a_late_process_begins_counts_from_then_on(engine: Engine) -> None:
    await engine.pass_time(LEASE // 2)
    await engine.enqueue("a")
    (mine,) = await engine.claim_asleep()
    assert (await engine.look("a")).holders == {A: f"{mine.n} {mine.claim.score.decode()} ~"}
    await engine.begin(mine)
    assert (await engine.look("a")).holders == {A: f"{mine.n} {mine.claim.score.decode()}"}


async def test_what_was_not_heard_of_is_released_when_the_session_registers_anew(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.claim_asleep()
    assert await engine.sync() == []
    seen = await engine.look("a")
    assert (seen.band, seen.crashes, seen.token) == ("ready", 0, None)
    assert await engine.marked()


async def test_sent_before_the_session_registered_anew_it_claims_nothing(engine: Engine) -> None:
    await engine.enqueue("a")
    engine.n[A] += 1
    sent = engine.n[A]
    await engine.sync()
    assert await engine.claim_asleep(n=sent) == []
    assert await engine.claim_asleep(B) == [], "nobody knows this session"
    assert (await engine.look("a")).band == "ready"


async def test_where_nothing_waits_one_look_tells(engine: Engine, redis_url: str) -> None:
    commands = ("evalsha", "time", "zrange", "zrangebyscore", "exists", "hmget")
    await engine.enqueue(engine.job("later", delay=5))
    # Of the server's clock, which is then not looked at.
    engine.broker.now = None
    assert await engine.claim_asleep() == []
    before = calls(redis_url, *commands)
    assert await engine.claim_asleep() == []
    assert calls(redis_url, *commands) - before == 2


async def _two(engine: Engine) -> None:
    await engine.enqueue("b")


async def _due(engine: Engine) -> None:
    await engine.enqueue(engine.job("b", delay=5))
    engine.advance(6)


async def _paused(engine: Engine) -> None:
    await engine.broker.pause(True)


async def _rate(engine: Engine) -> None:
    await engine.sync(rate=(5, 1000))


async def _global(engine: Engine) -> None:
    await engine.sync(limit=5)


async def _own_rate(engine: Engine) -> None:
    await engine.broker.set_limits([("conf", "own:rate", "5"), ("conf", "own:per", "1000000")])


async def _own_global(engine: Engine) -> None:
    await engine.broker.set_limits([("conf", "own:global", "5")])


async def _lane(engine: Engine) -> None:
    await engine.sync(lanes={"s:f:send": "5||"})


async def _told_to_wait(engine: Engine) -> None:
    await engine.redis.hset(engine.keys.key("conf"), "until", engine.now + 1000)


async def _crashed(engine: Engine) -> None:
    await engine.redis.hset(engine.keys.key("crashes"), engine.id("a"), 1)


async def _asked_to_abort(engine: Engine) -> None:
    await engine.redis.zadd(engine.aborts, {engine.id("other"): engine.now})


async def _tried(engine: Engine) -> None:
    await engine.redis.set(f"arq:retry:{engine.id('a')}", 1)


async def _no_payload(engine: Engine) -> None:
    await engine.redis.delete(JOB + engine.id("a"))


async def _not_ours(engine: Engine) -> None:
    await engine.redis.set(JOB + engine.id("a"), b"anything")


@pytest.mark.parametrize(
    "happens",
    [
        _two, _due, _paused, _rate, _global, _own_rate, _own_global, _lane, _told_to_wait, _crashed, _asked_to_abort,
        _tried, _no_payload, _not_ours,
    ],
    ids=lambda happens: happens.__name__.strip("_"),
)  # fmt: skip
async def test_anything_unusual_is_left_to_a_tick(engine: Engine, happens: Callable[[Engine], Awaitable[None]]) -> None:
    await engine.enqueue("a")
    engine.checked = False
    await happens(engine)
    assert await engine.claim_asleep() == []
    assert (await engine.look("a")).band == "ready"


async def test_a_job_with_a_time_limit_of_its_own_is_left_to_a_tick(engine: Engine) -> None:
    await engine.enqueue(engine.job("a", timeout=5000))
    engine.checked = False
    assert await engine.claim_asleep() == []


async def test_what_a_queue_was_told_to_wait_for_is_over_some_time(engine: Engine) -> None:
    await engine.redis.hset(engine.keys.key("conf"), "until", engine.now - 1)
    await engine.enqueue("a")
    assert [mine.name for mine in await engine.claim_asleep()] == ["a"]


async def test_on_a_full_server_the_job_is_left_to_a_tick(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await engine.enqueue("a")
    before = await engine.look("a")
    await fill()
    with pytest.raises(OutOfMemoryError):
        await engine.claim_asleep()
    assert await engine.look("a") == before
    assert [mine.name for mine in await engine.claim()] == ["a"]
