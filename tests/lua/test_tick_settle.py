"""tick, first part: outcomes are settled, each once, and only by the claim that holds the job."""

from __future__ import annotations

import json

import pytest

from daemon.broker import Held, Outcome
from daemon.keys import JOB, RESULT, RETRY
from tests.lua.conftest import Fill
from tests.lua.state import HELD, NOW, A, B, Engine

DAY = 86_400_000


# ---------------------------------------------------------------------------- calls


async def test_an_unknown_session_is_told_to_sync_and_changes_nothing(engine: Engine) -> None:
    await engine.enqueue("a")
    reply = await engine.tick(B, wanted=1)
    assert (reply.status, reply.claims) == ("sync", ())
    assert (await engine.look("a")).band == "ready"
    assert await engine.marked()


@pytest.mark.parametrize("behind", [0, 1, 5])
async def test_an_old_call_is_refused_and_changes_nothing(engine: Engine, behind: int) -> None:
    await engine.enqueue("a", "b")
    (mine,) = await engine.claim(n=10)
    engine.n[A] = 10
    reply = await engine.tick(A, mine.complete(), wanted=1, n=10 - behind)
    assert reply.status == "stale"
    assert (await engine.look("a")).band == "held"
    assert (await engine.look("b")).band == "ready"
    assert await engine.marked()


async def test_call_numbers_are_compared_as_numbers(engine: Engine) -> None:
    await engine.tick(n=9)
    assert (await engine.tick(n=10)).status == "ok"
    assert (await engine.tick(n=9)).status == "stale"


# ---------------------------------------------------------------------------- ends


async def test_completion_leaves_a_result_and_its_index_entry_only(engine: Engine) -> None:
    mine = await engine.take("a")
    engine.advance(40)
    reply = await engine.settle(mine.complete(b"result"))
    assert reply.refused == []
    assert await engine.traces() == {RESULT + engine.id("a"), engine.keys.key("completed")}
    assert (await engine.look("a")).result == b"result"
    assert await engine.redis.zscore(engine.keys.key("completed"), engine.id("a")) == NOW + 40
    assert 0 < await engine.redis.pttl(RESULT + engine.id("a")) <= 600_000
    assert await engine.total("completed") == 1


async def test_a_result_kept_for_ever_has_no_expiry(engine: Engine) -> None:
    await engine.settle((await engine.take("a")).complete(keep=-1))
    assert await engine.redis.ttl(RESULT + engine.id("a")) == -1


@pytest.mark.parametrize("kind", ["complete", "abort", "expire"])
async def test_an_end_that_keeps_nothing_leaves_nothing(engine: Engine, kind: str) -> None:
    mine = await engine.take("a")
    await engine.settle(getattr(mine, kind)(keep=0))
    assert await engine.traces() == set()
    assert await engine.total({"complete": "completed", "abort": "aborted", "expire": "expired"}[kind]) == 1


@pytest.mark.parametrize(("kind", "index"), [("abort", "aborted"), ("expire", "expired")])
async def test_an_aborted_or_expired_job_leaves_its_result_and_index_entry_only(
    engine: Engine, kind: str, index: str
) -> None:
    mine = await engine.take("a")
    await engine.settle(getattr(mine, kind)(b"why"))
    assert await engine.traces() == {RESULT + engine.id("a"), engine.keys.key(index)}
    assert (await engine.look("a")).indexes == {index}


async def test_a_dead_letter_keeps_its_payload_history_and_tries(engine: Engine) -> None:
    first = await engine.take("a")
    await engine.settle(first.retry(0, 1, b'{"try":1}'))
    (second,) = await engine.claim()
    await engine.settle(second.bury(b"broken", line=b'{"try":2}'))
    seen = await engine.look("a")
    assert seen.score is None
    assert seen.record is not None
    assert (seen.result, seen.tries, seen.indexes) == (b"broken", b"1", {"dead"})
    assert seen.history is not None
    assert [json.loads(line)["try"] for line in seen.history.splitlines()] == [1, 2]
    assert (seen.token, seen.holders) == (None, {})
    assert await engine.total("failed") == 1


async def test_a_dead_letters_payload_loses_a_stock_producers_expiry(engine: Engine) -> None:
    await engine.redis.psetex(JOB + engine.id("a"), DAY, b"no header")
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): NOW})
    (mine,) = await engine.claim()
    await engine.redis.pexpire(JOB + engine.id("a"), 5000)
    await engine.settle(mine.bury())
    assert await engine.redis.ttl(JOB + engine.id("a")) == -1


async def test_every_trace_of_a_run_goes_with_its_end(engine: Engine) -> None:
    """Retries, progress, a crash, waiters and an abort request: nothing of them stays."""
    mine = await engine.take("a")
    await engine.broker.progress(A, engine.id("a"), 40, "half")
    await engine.settle(mine.retry(0, 1, b'{"try":1}'))
    (mine,) = await engine.claim()
    await engine.redis.hset(engine.keys.key("crashes"), engine.id("a"), 1)
    await engine.broker.await_result("d" * 16, engine.id("a"))
    await engine.broker.progress(A, engine.id("a"), 60, "")
    await engine.redis.zadd(engine.aborts, {engine.id("a"): NOW})
    await engine.settle(mine.complete(keep=0))
    assert await engine.traces() == {engine.keys.key("reply", "d" * 16)}
    assert await engine.redis.pttl(engine.keys.key("reply", "d" * 16)) > 0


async def test_many_outcomes_of_all_kinds_in_one_call(engine: Engine) -> None:
    await engine.enqueue(*(f"j{i:03}" for i in range(128)))
    claims = await engine.claim(wanted=128)
    kinds = ["complete", "abort", "expire", "bury", "retry", "release"]
    await engine.settle(*(getattr(mine, kinds[i % 6])() for i, mine in enumerate(claims)))
    indexes = [await engine.redis.zcard(engine.keys.key(name)) for name in ("completed", "aborted", "expired", "dead")]
    assert indexes == [22, 22, 21, 21]
    assert await engine.redis.zcard(engine.keys.queue) == 42
    names = ("completed", "aborted", "expired", "failed", "retried", "released")
    assert [await engine.total(name) for name in names] == [22, 22, 21, 21, 21, 21]


# ---------------------------------------------------------------------------- retry and release


async def test_a_retry_waits_at_its_level_and_keeps_its_tries(engine: Engine) -> None:
    await engine.enqueue(engine.job("a", 7))
    (mine,) = await engine.claim()
    await engine.broker.progress(A, engine.id("a"), 90, "nearly")
    reply = await engine.settle(mine.retry(2500, 1, b'{"try":1}'))
    seen = await engine.look("a")
    assert seen.score == NOW + 2500 + 7 / 16
    assert (seen.tries, seen.history, seen.progress, seen.token) == (b"1", b'{"try":1}', None, None)
    assert reply.wait == 2500
    assert not await engine.marked()
    engine.advance(2499)
    assert await engine.claim() == []
    engine.advance(1)
    (again,) = await engine.claim()
    assert again.claim.tries == b"1"
    assert (await engine.look("a")).holders == {A: f"{again.n} {again.claim.score.decode()}"}


async def test_a_claim_tells_of_the_last_failure(engine: Engine) -> None:
    first = await engine.take("a")
    assert first.claim.failure == 0
    await engine.settle(first.retry(0, 1, b'{"try":1}'))
    (second,) = await engine.claim()
    await engine.settle(second.retry(0, 2, b'{"try":2}'))
    (third,) = await engine.claim()
    assert (second.claim.failure, third.claim.failure) == (b'{"try":1}', b'{"try":2}')


async def test_a_retry_without_delay_is_claimed_in_the_same_call(engine: Engine) -> None:
    mine = await engine.take("a")
    reply = await engine.settle(mine.retry(0), wanted=1)
    assert [claim.id for claim in reply.claims] == [mine.claim.id]


async def test_a_far_retry_stays_a_delayed_job(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.settle(mine.retry(2**50))
    assert (await engine.look("a")).band == "later"


async def test_a_released_job_returns_to_its_place_and_no_try_counts(engine: Engine) -> None:
    await engine.enqueue("a", "b", "c")
    place = (await engine.look("a")).score
    (mine,) = await engine.claim()
    await engine.settle(mine.release())
    seen = await engine.look("a")
    assert (seen.score, seen.tries, seen.crashes) == (place, None, 0)
    assert await engine.order() == ["a", "b", "c"]
    assert await engine.marked()
    assert await engine.total("released") == 1


async def test_a_release_with_delay_waits_and_says_why(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.settle(mine.release(15_000, b"no worker knows it"))
    seen = await engine.look("a")
    assert seen.score == NOW + 15_000 + 5 / 16
    assert (seen.progress, seen.tries) == (b"0 no worker knows it", None)


async def test_the_history_is_bounded_and_keeps_the_newest(engine: Engine) -> None:
    await engine.enqueue("a")
    for number in range(12):
        (mine,) = await engine.claim()
        await engine.settle(mine.retry(0, number + 1, json.dumps({"try": number, "message": "x" * 2000}).encode()))
    history = (await engine.look("a")).history
    assert history is not None
    tries = [json.loads(line)["try"] for line in history.splitlines()]
    assert len(history) <= 16_384
    assert tries == list(range(12 - len(tries), 12))
    assert len(tries) >= 7


# ---------------------------------------------------------------------------- whose outcome counts


@pytest.mark.parametrize("kind", ["complete", "abort", "expire", "bury", "retry", "release"])
async def test_another_sessions_token_is_refused(engine: Engine, kind: str) -> None:
    await engine.sync(B)
    mine = await engine.take("a")
    reply = await engine.settle(getattr(mine, kind)(), session=B)
    assert reply.refused == [mine.claim.id]
    seen = await engine.look("a")
    assert (seen.band, list(seen.holders), seen.result) == ("held", [A], None)


@pytest.mark.parametrize("kind", ["complete", "abort", "expire", "bury", "retry", "release"])
async def test_an_older_claim_of_the_same_session_is_refused(engine: Engine, kind: str) -> None:
    old = await engine.take("a")
    await engine.settle(old.release())
    (new,) = await engine.claim()
    reply = await engine.settle(getattr(old, kind)())
    assert reply.refused == [old.claim.id]
    assert (await engine.look("a")).holders == {A: f"{new.n} {new.claim.score.decode()}"}


async def test_an_outcome_told_twice_counts_once(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.settle(mine.complete(b"first"))
    reply = await engine.settle(mine.complete(b"second"))
    assert reply.refused == [mine.claim.id]
    assert (await engine.look("a")).result == b"first"
    assert await engine.total("completed") == 1


async def _rolled_back(engine: Engine, name: str = "a") -> Outcome:
    """A claim the server does not know any more, as after a failover; gives its completion."""
    await engine.enqueue(name)
    score = (await engine.look(name)).score
    (mine,) = await engine.claim()
    assert score is not None
    await engine.redis.zadd(engine.keys.queue, {engine.id(name): score})
    await engine.redis.hdel(engine.keys.key("held", A), engine.id(name))
    return mine.complete()


async def test_a_rolled_back_claim_accepts_a_completion(engine: Engine) -> None:
    completion = await _rolled_back(engine)
    reply = await engine.settle(completion)
    assert reply.refused == []
    seen = await engine.look("a")
    assert (seen.band, seen.result) == (None, b"done")


@pytest.mark.parametrize("kind", ["a", "e", "b", "r", "l"])
async def test_a_rolled_back_claim_accepts_nothing_else(engine: Engine, kind: str) -> None:
    completion = await _rolled_back(engine)
    reply = await engine.settle(completion._replace(kind=kind, a=0))
    assert reply.refused == [completion.id]
    assert (await engine.look("a")).band == "ready"


async def test_a_completion_of_an_earlier_enqueueing_is_refused(engine: Engine) -> None:
    old = await engine.take("a")
    await engine.settle(old.complete(keep=0))
    engine.advance(1)
    await engine.enqueue("a")
    reply = await engine.settle(old.complete(b"old"))
    assert reply.refused == [old.claim.id]
    seen = await engine.look("a")
    assert (seen.band, seen.result) == ("ready", None)


async def test_of_outcomes_told_together_each_is_compared_with_its_own_stamp(engine: Engine) -> None:
    for name in ("a", "b", "c"):
        await engine.enqueue(name)
        engine.advance(1)
    scores = {engine.id(name): (await engine.look(name)).score for name in ("a", "b", "c")}
    mine = await engine.claim(wanted=3)
    await engine.redis.delete(engine.keys.key("held", A))
    await engine.redis.zadd(engine.keys.queue, scores)
    first, second, third = (claim.complete() for claim in mine)
    reply = await engine.settle(first, second._replace(stamp=third.stamp), third)
    assert reply.refused == [second.id]
    assert [(await engine.look(name)).band for name in ("a", "b", "c")] == [None, "ready", None]


async def test_a_rolled_back_claim_of_a_stock_job_accepts_a_completion(engine: Engine) -> None:
    await engine.redis.set(JOB + engine.id("a"), b"no header")
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): NOW})
    (mine,) = await engine.claim()
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): NOW})
    await engine.redis.delete(engine.keys.key("held", A))
    assert (await engine.settle(mine.complete())).refused == []


async def test_a_completion_of_a_job_that_is_gone_is_refused_and_writes_nothing(engine: Engine) -> None:
    completion = await _rolled_back(engine)
    await engine.redis.zrem(engine.keys.queue, engine.id("a"))
    await engine.redis.delete(JOB + engine.id("a"))
    assert (await engine.settle(completion)).refused == [completion.id]
    assert (await engine.look("a")).result is None


# ---------------------------------------------------------------------------- counts of ended tries


@pytest.mark.parametrize("job_try", [1, 2])
async def test_a_job_completed_in_any_try_leaves_no_count(engine: Engine, job_try: int) -> None:
    mine = await engine.take("a")
    if job_try > 1:
        await engine.settle(mine.retry(0, job_try - 1))
        (mine,) = await engine.claim()
    await engine.settle(mine.complete()._replace(c=b"1" if job_try == 1 else b""))
    assert not await engine.redis.exists(RETRY + engine.id("a"))


async def test_a_rolled_back_claim_that_completes_takes_the_count_of_another_along(engine: Engine) -> None:
    completion = await _rolled_back(engine)
    await engine.redis.set(RETRY + engine.id("a"), "1")
    assert (await engine.settle(completion._replace(c=b"1"))).refused == []
    assert not await engine.redis.exists(RETRY + engine.id("a"))


async def test_a_claim_that_is_held_again_takes_the_count_of_another_along(engine: Engine) -> None:
    completion = await _rolled_back(engine)
    await engine.redis.set(RETRY + engine.id("a"), "1")
    held = Held(completion.id, completion.claim, completion.score, completion.stamp)
    assert await engine.sync(A, held) == []
    assert (await engine.settle(completion._replace(c=b"1"))).refused == []
    assert not await engine.redis.exists(RETRY + engine.id("a"))


# ---------------------------------------------------------------------------- waiters


async def test_those_who_wait_are_told_each_on_their_own_list(engine: Engine) -> None:
    first, second = "d" * 16, "e" * 16
    mine = await engine.take("a")
    assert await engine.broker.await_result(first, engine.id("a")) == (0, None)
    assert await engine.broker.await_result(second, engine.id("a")) == (0, None)
    await engine.settle(mine.complete(b"line\nline"))
    for session in (first, second):
        key = engine.keys.key("reply", session)
        assert await engine.redis.lrange(key, 0, -1) == [engine.id("a").encode() + b"\nline\nline"]
        assert 0 < await engine.redis.pttl(key) <= 60_000
    assert not await engine.redis.exists(engine.keys.key("waiters"))


async def test_those_who_wait_hear_of_a_result_that_is_not_kept(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.broker.await_result("d" * 16, engine.id("a"))
    await engine.settle(mine.complete(b"r", keep=0))
    assert await engine.redis.lpop(engine.keys.key("reply", "d" * 16)) == engine.id("a").encode() + b"\nr"


async def test_a_retry_does_not_answer_those_who_wait(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.broker.await_result("d" * 16, engine.id("a"))
    await engine.settle(mine.retry(0))
    assert not await engine.redis.exists(engine.keys.key("reply", "d" * 16))
    (mine,) = await engine.claim()
    await engine.settle(mine.bury(b"broken"))
    assert await engine.redis.llen(engine.keys.key("reply", "d" * 16)) == 1


# ---------------------------------------------------------------------------- bad keys, full server


@pytest.mark.parametrize("kind", ["complete", "bury", "retry", "release", "abort", "expire"])
async def test_keys_of_wrong_types_do_not_stop_the_others(engine: Engine, kind: str) -> None:
    await engine.enqueue("bad", "good")
    claims = await engine.claim(wanted=2)
    for prefix in ("arq:job:", "arq:retry:", "arq:in-progress:", "arq:result:"):
        await engine.redis.delete(prefix + engine.id("bad"))
        await engine.redis.hset(prefix + engine.id("bad"), "wrong", "type")
    reply = await engine.settle(*(getattr(mine, kind)() for mine in claims))
    assert reply.refused == []
    for name in ("bad", "good"):
        assert (await engine.look(name)).band != "held"


async def test_a_full_server_settles_and_claims(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await engine.enqueue(*(f"j{i}" for i in range(7)))
    claims = await engine.claim(wanted=6)
    await fill()
    kinds = ["complete", "abort", "expire", "bury", "retry", "release"]
    reply = await engine.settle(*(getattr(mine, kind)() for mine, kind in zip(claims, kinds, strict=True)), wanted=1)
    assert reply.refused == []
    assert len(reply.claims) == 1
    assert (await engine.look("j0")).result == b"done"
    assert (await engine.look("j4")).tries == b"1"
    assert RETRY + engine.id("j0") not in await engine.traces()


async def test_the_held_score_is_the_time_of_the_claim(engine: Engine) -> None:
    engine.advance(123)
    await engine.take("a")
    assert (await engine.look("a")).score == HELD + NOW + 123
