"""sync: a process registers, comes back, or leaves; what Redis holds for it becomes what it runs."""

from __future__ import annotations

import pytest

from daemon.broker import Held
from daemon.keys import IN_PROGRESS, JOB
from tests.lua.conftest import Fill
from tests.lua.state import LEASE, NOW, A, B, Engine


async def _conf(engine: Engine) -> dict[bytes, bytes]:
    conf = dict(await engine.redis.hgetall(engine.keys.key("conf")))
    assert (conf.pop(b"events"), conf.pop(b"statistics")) == (b"2000000", b"1")
    return conf


async def test_a_session_is_registered_with_its_lease(engine: Engine) -> None:
    engine.advance(7)
    assert await engine.sync(B) == []
    assert await engine.redis.zscore(engine.keys.key("workers"), B) == NOW + 7 + LEASE
    assert await engine.redis.hgetall(engine.keys.key("session", B)) == {b"n": b"1", b"sync": b"1", b"info": b"{}"}


async def test_limits_and_priority_are_published_and_taken_away(engine: Engine) -> None:
    await engine.sync(rate=(10, 60_000), limit=4, priority=7)
    assert await _conf(engine) == {b"rate": b"10", b"per": b"60000000", b"global": b"4", b"priority": b"7"}
    await engine.pause()
    await engine.sync(priority=3)
    assert await _conf(engine) == {b"priority": b"3", b"paused": b"1"}


async def test_new_limits_set_the_mark_right(engine: Engine) -> None:
    await engine.enqueue("a", "b")
    (mine,) = await engine.claim()
    await engine.sync(A, mine.held(), limit=1)
    assert not await engine.marked()
    await engine.sync(A, mine.held())
    assert await engine.marked()


@pytest.mark.parametrize("n", [3, 2, 1])
async def test_an_old_call_is_refused_and_changes_nothing(engine: Engine, n: int) -> None:
    mine = await engine.take("a", n=3)
    assert await engine.sync(A, n=n, leave=True) is None
    assert list((await engine.look(mine.name)).holders) == [A]
    assert await engine.redis.zscore(engine.keys.key("workers"), A) is not None


async def test_claims_whose_reply_was_lost_go_back_uncounted(engine: Engine) -> None:
    await engine.enqueue("a", "b", "c")
    (known,) = await engine.claim()
    before = (await engine.look("b")).score
    await engine.claim()
    assert await engine.sync(A, known.held()) == []
    seen = await engine.look("b")
    assert (seen.score, seen.crashes, seen.tries, seen.token, seen.holders) == (before, 0, None, None, {})
    assert await engine.order() == ["b", "c", "a"]
    assert list((await engine.look("a")).holders) == [A]
    assert (await engine.settle(known.complete())).refused == []


async def test_the_lost_call_arriving_after_sync_changes_nothing(engine: Engine) -> None:
    """A frozen link may deliver the old call after everything else."""
    await engine.enqueue("a")
    await engine.sync(n=20)
    assert (await engine.tick(wanted=1, n=19)).status == "stale"
    assert (await engine.look("a")).band == "ready"


async def test_a_finished_but_unsettled_job_stays_held(engine: Engine) -> None:
    mine = await engine.take("a")
    assert await engine.sync(A, mine.held()) == []
    assert (await engine.look("a")).token == f"{A}:{mine.n}".encode()
    assert (await engine.settle(mine.complete())).refused == []


async def _reaped(engine: Engine, *names: str) -> list[Held]:
    """A (registered by the fixture) watches B be away for more than its lease."""
    await engine.enqueue(*names)
    await engine.sync(B)
    claims = await engine.claim(B, wanted=len(names))
    await engine.pass_time(LEASE + 1, A)
    await engine.tick(A)
    return [mine.held() for mine in claims]


async def test_a_reaped_job_nobody_took_is_held_again_and_no_crash_counts(engine: Engine) -> None:
    (held,) = await _reaped(engine, "a")
    assert (await engine.look("a")).crashes == 1
    assert await engine.sync(B, held) == []
    seen = await engine.look("a")
    assert (seen.band, seen.holders) == ("held", {B: f"{held.claim} {held.score.decode()}"})
    assert (seen.crashes, seen.token) == (0, f"{B}:{held.claim}".encode())
    assert not await engine.marked()
    assert await engine.claim(A) == []


async def test_a_reaped_job_another_took_is_to_be_cancelled(engine: Engine) -> None:
    first, second = await _reaped(engine, "a", "b")
    assert [mine.name for mine in await engine.claim(A)] == ["a"]
    assert await engine.sync(B, first, second) == [first.id]
    assert list((await engine.look("a")).holders) == [A]
    assert list((await engine.look("b")).holders) == [B]
    assert (await engine.look("a")).crashes == 1


async def test_a_job_that_ended_elsewhere_is_to_be_cancelled(engine: Engine) -> None:
    (held,) = await _reaped(engine, "a")
    (mine,) = await engine.claim(A)
    await engine.settle(mine.complete())
    assert await engine.sync(B, held) == [held.id]
    assert (await engine.look("a")).band is None


async def test_another_job_with_the_same_id_is_not_taken(engine: Engine) -> None:
    (held,) = await _reaped(engine, "a")
    await engine.remove("a")
    engine.advance(1)
    await engine.enqueue("a")
    assert await engine.sync(B, held) == [held.id]
    assert (await engine.look("a")).band == "ready"


async def test_a_stock_job_is_held_again_by_its_empty_stamp(engine: Engine) -> None:
    await engine.redis.set(JOB + engine.id("a"), b"no header")
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): NOW})
    (mine,) = await engine.claim()
    await engine.redis.delete(engine.keys.key("held", A), IN_PROGRESS + engine.id("a"))
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): float(mine.claim.score)})
    assert await engine.sync(A, mine.held()) == []
    assert list((await engine.look("a")).holders) == [A]


async def test_everything_forgotten_by_the_server_is_to_be_cancelled(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.redis.flushall()
    assert await engine.sync(A, mine.held()) == [mine.claim.id]
    assert await engine.redis.zscore(engine.keys.key("workers"), A) is not None


async def test_a_rolled_back_claim_is_held_again(engine: Engine) -> None:
    """A failover lost the claim, not the session."""
    mine = await engine.take("a")
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): float(mine.claim.score)})
    await engine.redis.hdel(engine.keys.key("held", A), engine.id("a"))
    assert await engine.sync(A, mine.held()) == []
    assert (await engine.settle(mine.complete())).refused == []


async def test_a_claim_known_under_another_number_is_given_up(engine: Engine) -> None:
    mine = await engine.take("a")
    other = mine.held()._replace(claim=mine.n + 7)
    assert await engine.sync(A, other) == [mine.claim.id]
    seen = await engine.look("a")
    assert (seen.band, seen.holders) == ("ready", {})


async def test_leaving_gives_everything_back_and_leaves_no_trace(engine: Engine) -> None:
    await engine.sync(B)
    await engine.enqueue("a", "b")
    before = await engine.order()
    await engine.claim(B, wanted=2)
    await engine.redis.rpush(engine.keys.key("ctl", B), "abort 1 x")
    assert await engine.sync(B, leave=True) == []
    assert await engine.order() == before
    assert not await engine.redis.exists(*(engine.keys.key(name, B) for name in ("session", "held", "ctl")))
    assert await engine.redis.zrange(engine.keys.key("workers"), 0, -1) == [A.encode()]
    assert (await engine.look("a")).crashes == 0
    assert await engine.marked()
    assert (await engine.tick(B)).status == "sync"


async def test_the_settings_outlive_the_last_worker(engine: Engine) -> None:
    await engine.sync(limit=2, priority=9)
    await engine.sync(leave=True)
    assert await _conf(engine) == {b"global": b"2", b"priority": b"9"}


async def test_many_held_jobs_in_one_call(engine: Engine) -> None:
    held = await _reaped(engine, *(f"j{i:03}" for i in range(128)))
    assert await engine.sync(B, *held) == []
    assert await engine.redis.hlen(engine.keys.key("held", B)) == 128


async def test_wrong_keys_do_not_stop_a_sync(engine: Engine) -> None:
    await engine.enqueue("bad", "good")
    claims = await engine.claim(wanted=2)
    for prefix in (JOB, IN_PROGRESS, "arq:retry:"):
        await engine.redis.delete(prefix + engine.id("bad"))
        await engine.redis.hset(prefix + engine.id("bad"), "wrong", "type")
    await engine.redis.delete(engine.keys.key("held", A))
    await engine.redis.zadd(engine.keys.queue, {mine.claim.id: float(mine.claim.score) for mine in claims})
    assert await engine.sync(A, *(mine.held() for mine in claims)) == [engine.id("bad").encode()]
    assert list((await engine.look("good")).holders) == [A]


async def test_a_full_server_lets_workers_come_and_go(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await engine.enqueue("a", "b")
    mine, _lost = await engine.claim(wanted=2)
    await fill()
    assert await engine.sync(A, mine.held()) == []
    assert await engine.sync(B) == []
    assert [other.name for other in await engine.claim(B)] == ["b"]
    assert await engine.sync(B, leave=True) == []
    assert (await engine.look("b")).band == "ready"


async def test_a_job_claimed_ahead_that_a_process_says_it_runs_has_begun(engine: Engine) -> None:
    await engine.enqueue("a", "b")
    first, _ = await engine.claim(wanted=2, slots=0)
    assert await engine.sync(A, first.held()) == []
    assert (await engine.look("a")).holders[A] == f"{first.n} {first.claim.score.decode()}"
    seen = await engine.look("b")
    assert (seen.band, seen.crashes, seen.holders) == ("ready", 0, {})
