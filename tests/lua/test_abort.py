"""abort: a job that waits ends at once, one that runs is told through its worker; a stock client's ends the same."""

from __future__ import annotations

import pytest

from daemon.keys import IN_PROGRESS, JOB, RESULT
from tests.lua.conftest import Fill
from tests.lua.state import LEASE, NOW, A, B, C, Engine, Mine
from tests.marks import stock_ids


async def _told(engine: Engine, session: str = A) -> list[str]:
    """Take what was sent to a session's worker."""
    key = engine.keys.key("ctl", session)
    messages = [message.decode() for message in await engine.redis.lrange(key, 0, -1)]
    if messages:
        assert 0 < await engine.redis.pttl(key) <= 60_000
    await engine.redis.delete(key)
    return messages


# ---------------------------------------------------------------------------- arqd's own


async def test_a_waiting_job_ends_at_once_with_its_result(engine: Engine) -> None:
    await engine.enqueue("a")
    assert await engine.abort("a", b"why", 600_000) == "aborted"
    assert (await engine.look("a")).result == b"why"
    assert await engine.traces() == {RESULT + engine.id("a"), engine.keys.key("aborted")}
    assert await engine.total("aborted") == 1
    assert await engine.claim() == []


async def test_a_delayed_a_retried_and_a_suspected_job_end_at_once(engine: Engine) -> None:
    await engine.enqueue("suspect")
    for session in (B, C):
        await engine.sync(session)
        await engine.claim(session)
        await engine.pass_time(LEASE + 1, A)
        await engine.tick()
    mine = await engine.take("retried")
    await engine.settle(mine.retry(5000, 1, b'{"try":1}'))
    await engine.enqueue(engine.job("delayed", delay=5000))
    for name in ("suspect", "retried", "delayed"):
        assert await engine.abort(name, keep=0) == "aborted"
    assert await engine.traces() == set()


async def test_aborting_the_last_claimable_job_removes_the_mark(engine: Engine) -> None:
    await engine.enqueue("a", "b")
    await engine.abort("a")
    assert await engine.marked()
    await engine.abort("b")
    assert not await engine.marked()


async def test_a_running_jobs_worker_is_told_with_the_claims_number(engine: Engine) -> None:
    mine = await engine.take("a")
    assert await engine.abort("a") == "asked"
    assert await _told(engine) == [f"abort {mine.n} {engine.id('a')}"]
    assert (await engine.look("a")).band == "held"
    await engine.settle(mine.abort(keep=0))
    assert await engine.traces() == set()


async def test_an_abort_and_a_completion_at_once_let_the_completion_count(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.abort("a")
    await engine.settle(mine.complete())
    assert (await engine.look("a")).indexes == {"completed"}
    assert await engine.abort("a") == "ended"


@pytest.mark.parametrize("kind", ["complete", "abort", "expire", "bury"])
async def test_what_is_over_cannot_be_aborted(engine: Engine, kind: str) -> None:
    mine = await engine.take("a")
    await engine.settle(getattr(mine, kind)(b"as it was"))
    assert await engine.abort("a") == "ended"
    assert (await engine.look("a")).result == b"as it was"


async def test_an_unknown_job_is_told_and_nothing_is_kept_for_it(engine: Engine) -> None:
    assert await engine.abort("a") == "not_found"
    assert await engine.traces() == set()
    await engine.enqueue("a")
    (mine,) = await engine.claim()
    assert mine.claim.aborted == b"0"


@pytest.mark.parametrize("token", ["missing", "wrong type"])
async def test_a_running_job_is_found_without_its_token(engine: Engine, token: str) -> None:
    """A plain function past its timeout outlives the token's expiry; the token proves nothing."""
    mine = await engine.take("a")
    await engine.redis.delete(IN_PROGRESS + engine.id("a"))
    if token == "wrong type":
        await engine.redis.hset(IN_PROGRESS + engine.id("a"), "wrong", "type")
    assert await engine.abort("a") == "asked"
    assert await _told(engine) == [f"abort {mine.n} {engine.id('a')}"]


@pytest.mark.parametrize("end", ["dies", "retries", "hands it back"])
async def test_a_request_outlives_the_claim_it_was_for(engine: Engine, end: str) -> None:
    """The worker may be dead but not yet reaped, or let go of the job just then: its next claim sees the request."""
    await engine.enqueue("a")
    await engine.sync(B)
    (mine,) = await engine.claim(B)
    assert await engine.abort("a") == "asked"
    if end == "dies":
        await engine.pass_time(LEASE + 1, A)
        await engine.tick()
    else:
        await engine.settle(mine.retry(0) if end == "retries" else mine.release(), session=B)
    (mine,) = await engine.claim()
    assert mine.claim.aborted == b"1"
    await engine.settle(mine.abort(keep=0))
    assert not await engine.redis.exists(engine.aborts)


async def test_wrong_types_do_not_stop_an_abort(engine: Engine) -> None:
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): float("-inf")})
    await engine.redis.hset(JOB + engine.id("a"), "wrong", "type")
    assert await engine.abort("a", keep=0) == "aborted"
    assert await engine.traces() == set()


async def test_a_full_server_aborts_what_waits_and_what_runs(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    mine = await engine.take("running")
    await engine.enqueue("waiting")
    await fill()
    assert await engine.abort("waiting") == "aborted"
    assert await engine.abort("running") == "asked"
    assert await _told(engine) == [f"abort {mine.n} {engine.id('running')}"]


# ---------------------------------------------------------------------------- what a stock client's abort() leaves


async def _stock_abort(engine: Engine, name: str) -> None:
    """arq's abort() of a job whose score lies in the future: two steps, in two calls."""
    await _first_step(engine, name)
    await engine.redis.zadd(engine.aborts, {engine.id(name): engine.now})


async def _first_step(engine: Engine, name: str) -> None:
    async with engine.redis.pipeline(transaction=True) as pipe:
        pipe.zrem(engine.keys.queue, engine.id(name))
        pipe.zadd(engine.keys.queue, {engine.id(name): 1})
        await pipe.execute()


async def _still_held(engine: Engine, mine: Mine) -> None:
    reply = await engine.tick(B, wanted=5)
    assert reply.claims == [], "it would run twice"
    assert list((await engine.look(mine.name)).holders) == [A]
    assert await _told(engine) == [f"abort {mine.n} {mine.claim.id.decode()}"]
    assert (await engine.settle(mine.abort())).refused == []
    assert not await engine.redis.exists(engine.aborts)


async def test_a_stock_abort_of_a_running_job_does_not_run_it_twice(engine: Engine) -> None:
    await engine.sync(B)
    mine = await engine.take("a")
    await _stock_abort(engine, "a")
    await _still_held(engine, mine)


async def test_a_worker_between_the_two_steps_of_a_stock_abort_does_not_run_the_job_twice(engine: Engine) -> None:
    await engine.sync(B)
    mine = await engine.take("a")
    await _first_step(engine, "a")
    await _still_held(engine, mine)


async def test_a_stock_abort_of_a_running_job_without_its_token_does_not_run_it_twice(engine: Engine) -> None:
    await engine.sync(B)
    mine = await engine.take("a")
    await engine.redis.delete(IN_PROGRESS + engine.id("a"))
    await _stock_abort(engine, "a")
    await _still_held(engine, mine)


async def test_a_stock_abort_that_arrives_after_the_claim_is_told_once(engine: Engine) -> None:
    """The client saw a waiting job, so it only adds its request; meanwhile the job started."""
    mine = await engine.take("a")
    await engine.redis.zadd(engine.aborts, {engine.id("a"): engine.now})
    for _ in range(3):
        engine.advance(10)
        await engine.tick(wanted=1)
    assert await _told(engine) == [f"abort {mine.n} {engine.id('a')}"]
    await engine.settle(mine.abort(keep=0))
    assert await engine.traces() == set()


async def test_our_abort_after_a_stock_abort_still_asks_the_worker(engine: Engine) -> None:
    mine = await engine.take("a")
    await _stock_abort(engine, "a")
    assert await engine.broker.abort(engine.id("a"), b"", 0) == "asked"
    assert await _told(engine) == [f"abort {mine.n} {engine.id('a')}"]


async def test_a_settle_before_the_next_promotion_ends_the_job(engine: Engine) -> None:
    mine = await engine.take("a")
    await _stock_abort(engine, "a")
    reply = await engine.settle(mine.complete(keep=0), wanted=1)
    assert reply.claims == []
    assert await engine.traces() == set()


async def test_a_stock_abort_of_a_job_with_a_result_takes_the_entry_away(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.settle(mine.complete())
    await _stock_abort(engine, "a")
    assert (await engine.tick(wanted=1)).claims == []
    assert await engine.traces() == {RESULT + engine.id("a"), engine.keys.key("completed")}


@pytest.mark.parametrize("delay", [0, 5000])
async def test_a_stock_abort_of_a_waiting_or_delayed_job_comes_with_its_claim(engine: Engine, delay: int) -> None:
    await engine.enqueue(engine.job("a", delay=delay))
    if delay:
        await _stock_abort(engine, "a")
    else:
        await engine.redis.zadd(engine.aborts, {engine.id("a"): engine.now})
    (mine,) = await engine.claim()
    assert mine.claim.aborted == b"1"
    await engine.settle(mine.abort(keep=0))
    assert await engine.traces() == set()


async def test_a_stock_abort_of_an_unknown_id_does_not_stop_a_later_job(engine: Engine) -> None:
    await engine.redis.zadd(engine.aborts, {engine.id("a"): NOW})
    engine.advance(1)
    await engine.enqueue("a")
    (mine,) = await engine.claim()
    assert mine.claim.aborted == b"0"
    assert not await engine.redis.exists(engine.aborts)


@stock_ids
async def test_others_are_not_aborted_beside_it(engine: Engine) -> None:
    await engine.enqueue("a", "b")
    await engine.redis.zadd(engine.aborts, {engine.id("b"): engine.now, "{sms}:c": engine.now})
    claims = await engine.claim(wanted=2)
    assert [mine.claim.aborted for mine in claims] == [b"0", b"1"]
    await engine.settle(*(mine.complete() for mine in claims))
    assert await engine.redis.zrange(engine.aborts, 0, -1) == [b"{sms}:c"]
