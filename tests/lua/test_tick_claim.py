"""tick, last part: what came due is promoted, jobs are claimed within their limits, the reply says when to return."""

from __future__ import annotations

import secrets

import pytest
from redis.asyncio import Redis

from daemon import codec
from daemon.keys import IN_PROGRESS, JOB, RESULT, RETRY
from tests.lua.conftest import Fill
from tests.lua.state import DAY, HELD, NOW, A, B, Engine, Mine
from tests.marks import one_server


def names(claims: list[Mine]) -> list[str]:
    return [mine.name for mine in claims]


async def _stock(engine: Engine, name: str, score: float, *, ttl: int = DAY, record: bytes | None = None) -> None:
    """Enqueue as a stock producer with arqd's codec does, in two commands of its own."""
    data = {"t": None, "f": "send", "a": (), "k": {}, "et": engine.now}
    await engine.redis.psetex(JOB + engine.id(name), ttl, record or codec.dumps(data))
    await engine.redis.zadd(engine.keys.queue, {engine.id(name): score})


# ---------------------------------------------------------------------------- claim


async def test_a_claim_carries_everything_the_worker_needs(engine: Engine) -> None:
    await engine.enqueue(engine.job("a", 3, timeout=5000))
    place = await engine.redis.execute_command("ZSCORE", engine.keys.queue, engine.id("a"))
    reply = await engine.tick(wanted=1)
    (claim,) = reply.claims
    seen = await engine.look("a")
    assert claim == (engine.id("a").encode(), seen.record, claim.score, b"0", b"0", b"0", 0, b"")
    assert float(claim.score) == float(place)
    assert b"e" not in claim.score, "a rounded score would move the job when it is given back"
    assert (reply.now, reply.refused, reply.drain) == (NOW, [], False)
    assert seen.band == "held"
    assert seen.token == f"{A}:{engine.n[A]}".encode()
    assert seen.holders == {A: f"{engine.n[A]} {claim.score.decode()}"}


@pytest.mark.parametrize(("timeout", "expected"), [(5000, 15_000), (0, 310_000)])
async def test_the_token_outlives_the_jobs_timeout(engine: Engine, timeout: int, expected: int) -> None:
    await engine.enqueue(engine.job("a", timeout=timeout))
    await engine.claim()
    assert expected - 5000 < await engine.redis.pttl(IN_PROGRESS + engine.id("a")) <= expected


@one_server
@pytest.mark.parametrize("rules", ["+@all", "+@all -@string +mget +mset +set"])
async def test_tokens_and_results_end_also_for_a_user_who_may_not_set_many_at_once(
    engine: Engine, redis_url: str, rules: str
) -> None:
    password = secrets.token_hex()
    await engine.redis.execute_command("ACL", "SETUSER", "worker", "reset", "on", f">{password}", "~*", *rules.split())
    redis = Redis.from_url(redis_url, username="worker", password=password)
    engine.broker.redis = redis
    await engine.enqueue("a", "b", engine.job("c", timeout=5000))
    a, b, c = await engine.claim(wanted=3)
    for mine, life in ((a, 310_000), (b, 310_000), (c, 15_000)):
        assert life - 5000 < await engine.redis.pttl(IN_PROGRESS + engine.id(mine.name)) <= life
    await engine.settle(a.complete(keep=60_000), b.complete(keep=-1), c.complete(keep=90_000))
    lives = [await engine.redis.pttl(RESULT + engine.id(mine.name)) for mine in (a, b, c)]
    assert [-(-life // 10_000) for life in lives] == [6, 0, 9]
    await redis.aclose()
    await engine.redis.execute_command("ACL", "DELUSER", "worker")


@one_server
async def test_what_many_jobs_are_held_in_is_a_table(engine: Engine) -> None:
    await engine.enqueue(*(f"j{i}" for i in range(20)))
    held = engine.keys.key("held", A)
    await engine.claim(wanted=8)
    assert await engine.redis.object("ENCODING", held) != b"hashtable"
    await engine.claim(wanted=12)
    assert await engine.redis.object("ENCODING", held) == b"hashtable"


async def test_jobs_are_claimed_by_level_then_by_age(engine: Engine) -> None:
    await engine.enqueue(engine.job("low", 10), engine.job("mid1", 5))
    engine.advance(5)
    await engine.enqueue(engine.job("high", 1), engine.job("mid2", 5))
    assert names(await engine.claim(wanted=4)) == ["high", "mid1", "mid2", "low"]


async def test_no_more_are_claimed_than_wanted(engine: Engine) -> None:
    await engine.enqueue("a", "b", "c")
    assert await engine.claim(wanted=0) == []
    assert names(await engine.claim(wanted=2)) == ["a", "b"]
    assert names(await engine.claim(wanted=2)) == ["c"]


async def test_two_sessions_never_get_the_same_job(engine: Engine) -> None:
    await engine.sync(B)
    expected = [f"j{i:02}" for i in range(20)]
    await engine.enqueue(*expected)
    taken: list[str] = []
    for number in range(8):
        taken += names(await engine.claim(B if number % 2 else A, wanted=3))
    assert taken == expected


async def test_a_claim_takes_at_most_128_jobs(engine: Engine) -> None:
    await engine.enqueue(*(f"j{i:03}" for i in range(300)))
    assert names(await engine.claim(wanted=1000)) == [f"j{i:03}" for i in range(128)]
    assert (await engine.tick()).wait == 0


async def test_a_claim_takes_about_a_megabyte(engine: Engine) -> None:
    body = b'["' + b"x" * 500_000 + b'"]'
    await engine.enqueue(*(engine.job(f"j{i}", body=body) for i in range(4)))
    reply = await engine.tick(wanted=4)
    assert (len(reply.claims), reply.wait) == (2, 0)
    assert await engine.order() == ["j2", "j3", "j0", "j1"]


async def test_a_job_over_the_limit_is_claimed_alone(engine: Engine) -> None:
    await engine.redis.set(JOB + engine.id("big"), b"q11 send\t\n" + b"x" * 2_000_000)
    await engine.redis.zadd(engine.keys.queue, {engine.id("big"): NOW})
    await engine.tick()
    await engine.enqueue(engine.job("small", 10))
    assert names(await engine.claim(wanted=2)) == ["big"]
    assert names(await engine.claim(wanted=2)) == ["small"]


async def test_a_job_without_its_payload_is_handed_out_as_such(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.redis.delete(JOB + engine.id("a"))
    (mine,) = await engine.claim()
    assert mine.claim.record is None
    await engine.settle(mine.expire(keep=0))
    assert await engine.traces() == set()


async def test_tries_and_crashes_come_with_the_claim(engine: Engine) -> None:
    await engine.enqueue("a", "b")
    await engine.redis.set(RETRY + engine.id("a"), 4)
    await engine.redis.hset(engine.keys.key("crashes"), engine.id("b"), 1)
    first, second = await engine.claim(wanted=2)
    assert (first.claim.tries, first.claim.crashes) == (b"4", b"0")
    assert (second.claim.tries, second.claim.crashes) == (b"0", b"1")


# ---------------------------------------------------------------------------- promote


async def test_delayed_jobs_run_when_due_and_not_before(engine: Engine) -> None:
    await engine.enqueue(engine.job("a", delay=1000), engine.job("b", 1, delay=1000), engine.job("c", delay=2000))
    reply = await engine.tick(wanted=5)
    assert (reply.claims, reply.wait) == ([], 1000)
    engine.advance(999)
    assert await engine.claim(wanted=5) == []
    engine.advance(1)
    assert names(await engine.claim(wanted=5)) == ["b", "a"]
    assert (await engine.tick()).wait == 1000


async def test_what_came_due_keeps_its_level(engine: Engine) -> None:
    await engine.enqueue(*(engine.job(f"j{level}", level, delay=100 - level) for level in range(1, 11)))
    engine.advance(100)
    assert names(await engine.claim(wanted=10)) == [f"j{level}" for level in range(1, 11)]


async def test_a_burst_that_comes_due_at_once_is_promoted_without_starving(engine: Engine) -> None:
    await engine.enqueue(*(engine.job(f"j{i:03}", delay=1000) for i in range(300)))
    engine.advance(1000)
    taken: list[str] = []
    while claims := await engine.claim(wanted=10):
        taken += names(claims)
    assert sorted(taken) == [f"j{i:03}" for i in range(300)]


async def test_a_fraction_of_a_sixteenth_survives_a_release(engine: Engine) -> None:
    await engine.enqueue(engine.job("a", 1, at=1_763_775_601_000))
    engine.advance(1000)
    (mine,) = await engine.claim()
    await engine.settle(mine.release(5000))
    assert (await engine.look("a")).score == NOW + 6000 + 1 / 16


async def test_a_stock_producers_job_runs_at_the_familys_priority(engine: Engine) -> None:
    await engine.sync(priority=2)
    await _stock(engine, "stock", engine.now)
    await engine.enqueue(engine.job("first", 1), engine.job("last", 3))
    await engine.tick()
    assert (await engine.look("stock")).level == 2
    assert names(await engine.claim(wanted=3)) == ["first", "stock", "last"]


async def test_a_stock_payload_does_not_vanish_after_a_day(engine: Engine) -> None:
    await _stock(engine, "a", engine.now)
    await engine.tick()
    assert await engine.redis.ttl(JOB + engine.id("a")) == -1
    assert (await engine.look("a")).deadline == 0


async def test_a_deferred_stock_payload_does_not_vanish(engine: Engine) -> None:
    await _stock(engine, "a", engine.now + 3000, ttl=DAY + 3000)
    await engine.tick()
    assert await engine.redis.pttl(JOB + engine.id("a")) > 0
    engine.advance(3000)
    await engine.tick()
    assert await engine.redis.ttl(JOB + engine.id("a")) == -1
    assert (await engine.look("a")).deadline == 0


async def test_a_shorter_expiry_of_a_stock_producer_becomes_the_deadline(engine: Engine) -> None:
    await _stock(engine, "a", engine.now, ttl=3_600_000)
    await engine.tick()
    seen = await engine.look("a")
    assert NOW + 3_590_000 < seen.deadline <= NOW + 3_600_000
    assert await engine.redis.ttl(JOB + engine.id("a")) == -1
    assert codec.loads(seen.record or b"")["f"] == "send"


async def test_a_payload_in_another_format_keeps_its_own_expiry(engine: Engine) -> None:
    await _stock(engine, "a", engine.now, ttl=3_600_000, record=b"\x80\x04 no header")
    (mine,) = await engine.claim()
    assert mine.claim.record == b"\x80\x04 no header"
    assert await engine.redis.pttl(JOB + engine.id("a")) > 0


async def test_stock_producers_are_polled_for_an_hour_after_the_last(engine: Engine) -> None:
    assert (await engine.tick()).wait > 500
    await _stock(engine, "a", engine.now)
    (mine,) = await engine.claim()
    assert (await engine.settle(mine.complete())).wait == 500
    await engine.pass_time(3_599_000, A)
    assert (await engine.tick()).wait == 500
    await engine.pass_time(1_000, A)
    assert (await engine.tick()).wait > 500


async def test_a_worker_that_shares_its_queue_polls_as_it_was_told(engine: Engine) -> None:
    assert (await engine.tick(poll=250)).wait == 250


# ---------------------------------------------------------------------------- odd scores and keys


@pytest.mark.parametrize("score", ["-inf", 0, 0.5, 0.99, 1, 1.5, -1, -5, -(2**52), NOW - 0.01])
async def test_an_odd_score_runs_and_does_not_stop_the_others(engine: Engine, score: str | float) -> None:
    await engine.enqueue("before")
    await _stock(engine, "odd", float(score))
    await engine.enqueue("after")
    claims = await engine.claim(wanted=3)
    assert sorted(names(claims)) == ["after", "before", "odd"]
    await engine.settle(*(mine.release() for mine in claims))
    again = await engine.claim(wanted=3)
    assert sorted(names(again)) == ["after", "before", "odd"]
    await engine.settle(*(mine.retry(0) for mine in again))
    last = await engine.claim(wanted=3)
    await engine.settle(*(mine.complete(keep=0) for mine in last))
    assert await engine.traces() == set()


@pytest.mark.parametrize(
    ("score", "level"), [(-1, 10), (-(2**52), 7), (float("-inf"), 7), (0, 7), (0.75, 10), (NOW - 0.01, 10)]
)
async def test_an_odd_score_becomes_a_level_that_exists(engine: Engine, score: float, level: int) -> None:
    await engine.sync(priority=7)
    await _stock(engine, "odd", score)
    (mine,) = await engine.claim()
    await engine.settle(mine.retry(5000))
    assert (await engine.look("odd")).score == NOW + 5000 + level / 16


@pytest.mark.parametrize("prefix", ["arq:job:", "arq:retry:", "arq:in-progress:", "arq:result:"])
@pytest.mark.parametrize("score", [0, NOW, -1.0])
async def test_a_key_of_a_wrong_type_does_not_stop_the_others(engine: Engine, prefix: str, score: float) -> None:
    await engine.redis.zadd(engine.keys.queue, {engine.id("bad"): score})
    await engine.redis.hset(prefix + engine.id("bad"), "wrong", "type")
    await engine.enqueue("good")
    claims = await engine.claim(wanted=2)
    assert sorted(names(claims)) == ["bad", "good"]
    await engine.settle(*(mine.complete() for mine in claims))
    assert await engine.order() == []


@pytest.mark.parametrize("tries", ["", "many", "1e3", "-4", "9" * 40])
async def test_a_retry_key_that_is_no_number_is_handed_over_as_it_is(engine: Engine, tries: str) -> None:
    await engine.enqueue("bad", "good")
    await engine.redis.set(RETRY + engine.id("bad"), tries)
    claims = await engine.claim(wanted=2)
    assert [mine.claim.tries.decode() for mine in claims] == [tries, "0"]
    await engine.settle(claims[0].retry(0, 1))
    assert (await engine.look("bad")).tries == b"1"


@pytest.mark.parametrize(
    "record", [b"", b"q", b"q5 ", b"qx y z w f\t\n{}", b"q51", b"q5\t", b"q51,x f\t\n[]", b"\x00\xff" * 50]
)
async def test_garbage_in_a_payload_does_not_stop_the_others(engine: Engine, record: bytes) -> None:
    await engine.enqueue("bad", "good")
    await engine.redis.set(JOB + engine.id("bad"), record)
    claims = await engine.claim(wanted=2)
    assert claims[0].claim.record == record
    assert names(claims) == ["bad", "good"]


async def test_an_id_that_is_no_text_is_handed_out_and_settled(engine: Engine) -> None:
    bad = b"{email}:\xff\xfe"
    await engine.redis.zadd(engine.keys.queue, {bad: NOW})
    (mine,) = await engine.claim()
    assert mine.claim.id == bad
    await engine.settle(mine.expire(keep=0))
    assert await engine.traces() == set()


# ---------------------------------------------------------------------------- waiting


async def test_an_idle_worker_waits_for_the_next_due_job(engine: Engine) -> None:
    assert (await engine.tick()).wait == 3_600_000
    await engine.enqueue(engine.job("a", 10, delay=80_000))
    assert (await engine.tick()).wait == 60_000, "its clock and the server's may go apart"
    await engine.enqueue(engine.job("b", 10, delay=7000))
    assert (await engine.tick()).wait == 7000


async def test_an_idle_worker_waits_for_the_end_of_anothers_lease_that_was_not_renewed(engine: Engine) -> None:
    """Of others it hears by the renewals of its own: one comes before this is so."""
    await engine.sync(B)
    await engine.pass_time(engine.lease // 2 - 1, A)
    assert (await engine.tick()).wait == 3_600_000
    await engine.pass_time(1, A)
    assert (await engine.tick()).wait == engine.lease // 2 + 1


async def test_what_is_left_over_is_to_be_claimed_at_once(engine: Engine) -> None:
    await engine.enqueue("a", "b")
    assert (await engine.tick(wanted=1)).wait == 0
    assert (await engine.tick(wanted=1)).wait > 0
    assert not await engine.marked()


async def test_a_stolen_mark_is_restored_by_the_next_call(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.redis.delete(engine.keys.key("mark"))
    await engine.tick()
    assert await engine.marked()


async def test_a_full_server_lets_a_worker_claim(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await engine.enqueue("a", engine.job("b", delay=10))
    await engine.sync(A, rate=(5, 1000), limit=5)
    await fill()
    engine.advance(10)
    assert names(await engine.claim(wanted=2)) == ["a", "b"]
    assert (await engine.look("a")).score == HELD + NOW + 10
