"""tick, second part: a dead session's jobs go on elsewhere, a living one's never; jobs that kill run alone."""

from __future__ import annotations

import asyncio
import time

import pytest

from daemon.keys import IN_PROGRESS, JOB
from tests.lua.conftest import Fill
from tests.lua.state import HELD, LEASE, LEVEL, READY, SUSPECT, A, B, C, Engine, Mine

D = "d" * 16


async def _crash(engine: Engine, session: str, *survivors: str, wanted: int = 1, alone: bool = False) -> list[Mine]:
    """A process claims, dies, and its lease ends while the survivors live and reap; gives what it had claimed."""
    await engine.sync(session)
    claims = await engine.claim(session, wanted=wanted, alone=alone)
    await engine.pass_time(LEASE + 1, *survivors)
    for survivor in survivors:
        await engine.tick(survivor)
    return claims


async def test_a_dead_sessions_job_returns_with_a_crash_counted(engine: Engine) -> None:
    await engine.enqueue("a")
    place = (await engine.look("a")).score
    await _crash(engine, B, A)
    seen = await engine.look("a")
    assert (seen.score, seen.crashes, seen.tries, seen.token, seen.holders) == (place, 1, None, None, {})
    assert await engine.marked()
    (mine,) = await engine.claim()
    assert (mine.name, mine.claim.crashes) == ("a", b"1")


async def test_a_job_claimed_ahead_has_no_part_in_the_crash_until_it_begins(engine: Engine) -> None:
    await engine.enqueue("begun", "next", "last")
    places = [(await engine.look(name)).score for name in ("begun", "next", "last")]
    await engine.sync(B)
    claims = await engine.claim(B, wanted=3, slots=1)
    await engine.begin(claims[1], session=B)
    await engine.pass_time(LEASE + 1, A)
    await engine.tick()
    seen = [await engine.look(name) for name in ("begun", "next", "last")]
    assert [(job.score, job.crashes, job.holders) for job in seen] == [
        (places[0], 1, {}), (places[1], 1, {}), (places[2], 0, {}),
    ]  # fmt: skip


async def test_a_job_claimed_ahead_counts_in_its_lane(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "1||"})
    await engine.enqueue(engine.job("a", group="x"), engine.job("b", group="x"))
    (mine,) = await engine.claim(wanted=2, slots=0)
    await engine.begin(mine)
    assert (await engine.look("a")).holders[A] == f"{mine.n} {mine.claim.score.decode()}\tg:x"
    await engine.settle(mine.complete())
    assert [each.name for each in await engine.claim(wanted=2)] == ["b"]


async def test_a_group_with_any_name_is_no_mark_of_a_job_claimed_ahead(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "2||"})
    await engine.enqueue(engine.job("runs", group="a ~b"), engine.job("ahead", group="a ~b"))
    await engine.sync(B, lanes={"s:g:*": "2||"})
    claims = await engine.claim(B, wanted=2, slots=0)
    await engine.begin(claims[0], session=B)
    assert (await engine.look("runs")).holders[B].endswith("\tg:a ~b")
    await engine.pass_time(LEASE + 1, A)
    await engine.tick()
    assert [(await engine.look(name)).crashes for name in ("runs", "ahead")] == [1, 0]


async def test_beginning_what_another_process_has_by_now_changes_nothing(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.sync(B)
    (mine,) = await engine.claim(B, slots=0)
    await engine.pass_time(LEASE + 1, A)
    await engine.claim(A)
    await engine.begin(mine, session=B)
    assert list((await engine.look("a")).holders) == [A]


async def test_nothing_of_the_dead_session_stays(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.broker.redis.rpush(engine.keys.key("ctl", B), "abort 1 x")
    await _crash(engine, B, A)
    await engine.settle(*(mine.complete(keep=0) for mine in await engine.claim()))
    assert await engine.traces() == set()
    assert await engine.redis.zrange(engine.keys.key("workers"), 0, -1) == [A.encode()]
    assert not await engine.redis.exists(engine.keys.key("session", B))


async def test_a_lease_counts_to_its_last_millisecond(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.sync(B)
    await engine.claim(B)
    await engine.pass_time(LEASE, A)
    reply = await engine.tick()
    assert (await engine.look("a")).band == "held"
    assert reply.wait == 1
    engine.advance(1)
    assert (await engine.tick()).wait == 0
    assert (await engine.look("a")).band == "ready"


async def test_a_renewed_lease_is_not_reaped(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.sync(B)
    await engine.claim(B)
    await engine.pass_time(10 * LEASE, A, B)
    await engine.tick()
    seen = await engine.look("a")
    assert (seen.band, list(seen.holders), seen.crashes) == ("held", [B], 0)


async def test_orphans_keep_their_place_before_the_backlog(engine: Engine) -> None:
    orphans = [f"o{i}" for i in range(5)]
    await engine.enqueue(*orphans)
    await engine.sync(B)
    await engine.claim(B, wanted=5)
    for start in range(0, 5000, 1000):
        await engine.enqueue(*(f"w{start + i:04}" for i in range(1000)))
    await engine.pass_time(LEASE + 1, A)
    claims = await engine.claim(wanted=5)
    assert [mine.name for mine in claims] == orphans


async def test_orphans_of_one_session_are_many(engine: Engine) -> None:
    """One call frees a bounded number; the next go on, and the session stays known until the last is free."""
    names = [f"j{i:03}" for i in range(600)]
    await engine.enqueue(*names)
    await engine.sync(B)
    for _ in range(5):
        await engine.claim(B, wanted=128)
    await engine.pass_time(LEASE + 1, A)
    for _ in range(10):
        assert (await engine.tick()).wait == 0
        if not await engine.redis.exists(engine.keys.key("held", B)):
            break
    assert await engine.order() == names
    assert await engine.redis.zrange(engine.keys.key("workers"), 0, -1) == [A.encode()]


async def test_several_dead_sessions_are_reaped_one_a_call(engine: Engine) -> None:
    for session in (B, C, D):
        await engine.sync(session)
        await engine.enqueue(f"of {session}")
        await engine.claim(session)
    await engine.pass_time(LEASE + 1, A)
    for left in (3, 2, 1):
        assert await engine.redis.zcard(engine.keys.key("workers")) == left + 1
        assert (await engine.tick()).wait == 0
    assert await engine.redis.zcard(engine.keys.key("workers")) == 1
    assert len(await engine.order()) == 3


async def test_a_session_does_not_reap_itself(engine: Engine) -> None:
    mine = await engine.take("a")
    for _ in range(20):
        engine.advance(LEASE // 10)
        await engine.tick()
    assert (await engine.look("a")).band == "held"
    assert (await engine.settle(mine.complete())).refused == []


async def test_a_zombies_outcome_is_refused_once_its_job_runs_elsewhere(engine: Engine) -> None:
    await engine.enqueue("a")
    (old,) = await _crash(engine, B, A)
    (new,) = await engine.claim()
    assert (await engine.tick(B, old.complete(b"zombie"))).status == "sync"
    assert await engine.sync(B, old.held()) == [old.claim.id]
    assert (await engine.settle(old.complete(b"zombie"), session=B)).refused == [old.claim.id]
    assert (await engine.settle(new.complete(b"owner"))).refused == []
    assert (await engine.look("a")).result == b"owner"


# ---------------------------------------------------------------------------- outage or death


async def test_after_an_outage_the_first_back_does_not_take_the_others_jobs(engine: Engine) -> None:
    await engine.enqueue("a", "b")
    await engine.sync(B)
    (first,) = await engine.claim(A)
    (second,) = await engine.claim(B)
    engine.advance(5 * LEASE)
    assert await engine.sync(A, first.held()) == []
    reply = await engine.tick(A, wanted=5)
    assert reply.claims == []
    assert 0 < reply.wait <= LEASE
    assert [(await engine.look(name)).band for name in "ab"] == ["held", "held"]
    engine.advance(LEASE - 10)
    assert await engine.sync(B, second.held()) == []
    await engine.pass_time(LEASE, A, B)
    await engine.tick(A)
    assert (await engine.look("b")).crashes == 0
    assert (await engine.settle(second.complete(), session=B)).refused == []


async def test_after_an_outage_the_dead_are_reaped_one_lease_later(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.sync(B)
    await engine.claim(B)
    engine.advance(5 * LEASE)
    await engine.renew(A)
    await engine.pass_time(LEASE - 1, A)
    await engine.tick()
    assert (await engine.look("a")).band == "held"
    engine.advance(1)
    await engine.tick()
    assert (await engine.look("a")).band == "ready"


@pytest.mark.parametrize("call", ["tick", "renew", "sync"])
async def test_every_call_of_a_known_session_notices_the_outage(engine: Engine, call: str) -> None:
    await engine.enqueue("a")
    await engine.sync(B)
    await engine.claim(B)
    engine.advance(LEASE + 1)
    await getattr(engine, call)(A)
    await engine.tick()
    assert (await engine.look("a")).band == "held"


async def test_a_clock_that_goes_back_reaps_nobody_for_one_lease(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.sync(B)
    await engine.claim(B)
    await engine.pass_time(LEASE - 1, A)
    engine.advance(-5000)
    await engine.tick()
    engine.advance(5002)
    reply = await engine.tick()
    assert (await engine.look("a")).band == "held"
    assert 0 < reply.wait <= LEASE


async def test_a_clock_that_went_far_back_does_not_stop_reaping_for_ever(engine: Engine) -> None:
    await engine.tick()
    engine.advance(-3_600_000)
    await engine.sync(B)
    await engine.enqueue("a")
    await engine.claim(B)
    await engine.renew(A)
    await engine.pass_time(LEASE + 2, A)
    await engine.tick()
    assert (await engine.look("a")).band == "ready"


async def test_a_lone_workers_death_is_no_outage(engine: Engine) -> None:
    """Its successor is unknown, and the server was up all the time: it reaps as soon as the lease has ended."""
    engine.lease = 900
    deadline = time.monotonic() + 60
    while (await engine.redis.info("server"))["uptime_in_seconds"] < 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    await engine.sync(A)
    await engine.take("a")
    engine.advance(engine.lease + 1)
    await engine.sync(B)
    await engine.tick(B)
    seen = await engine.look("a")
    assert (seen.band, seen.crashes) == ("ready", 1)


async def test_a_restarted_server_is_an_outage_also_for_a_new_session(engine: Engine) -> None:
    """The gap is longer than the server is up."""
    await engine.take("a")
    engine.advance(10 * 86_400_000)
    await engine.sync(B)
    await engine.tick(B)
    assert (await engine.look("a")).band == "held"


# ---------------------------------------------------------------------------- jobs that kill


async def test_the_first_crash_runs_among_others_the_second_alone(engine: Engine) -> None:
    await engine.enqueue("killer", "bystander")
    await _crash(engine, B, A, wanted=2)
    assert [(await engine.look(name)).band for name in ("killer", "bystander")] == ["ready", "ready"]
    await _crash(engine, C, A, wanted=1)
    seen = await engine.look("killer")
    assert (seen.band, seen.crashes) == ("suspect", 2)
    assert seen.score == SUSPECT + engine.now
    assert [mine.name for mine in await engine.claim(wanted=5)] == ["bystander"]
    assert await engine.redis.exists(engine.keys.key("suspects"))


async def _suspect(engine: Engine, name: str = "killer") -> None:
    await engine.enqueue(name)
    await _crash(engine, B, A)
    await _crash(engine, C, A)
    assert (await engine.look(name)).band == "suspect"


async def test_only_a_process_that_runs_nothing_takes_a_suspect_and_nothing_beside_it(engine: Engine) -> None:
    await _suspect(engine)
    await engine.enqueue("bystander")
    reply = await engine.tick(wanted=5, alone=True)
    assert [claim.id.decode() for claim in reply.claims] == [engine.id("killer")]
    assert reply.claims[0].crashes == b"2"
    assert (await engine.look("killer")).band == "held"
    assert not await engine.redis.exists(engine.keys.key("suspects"))
    assert (await engine.look("bystander")).band == "ready"


async def test_a_process_alone_without_suspects_takes_what_there_is(engine: Engine) -> None:
    await engine.enqueue(*"abc")
    assert len(await engine.claim(wanted=2, alone=True)) == 2


async def test_suspects_run_one_after_the_other(engine: Engine) -> None:
    await engine.enqueue("k1", "k2")
    await _crash(engine, B, A, wanted=2)
    await _crash(engine, C, A, wanted=2)
    (first,) = await engine.claim(wanted=5, alone=True)
    assert await engine.redis.exists(engine.keys.key("suspects"))
    reply = await engine.settle(first.complete(), wanted=5, alone=True)
    assert len(reply.claims) == 1
    assert {first.claim.id, reply.claims[0].id} == {engine.id(name).encode() for name in ("k1", "k2")}


async def test_a_released_suspect_stays_one(engine: Engine) -> None:
    await _suspect(engine)
    score = (await engine.look("killer")).score
    (mine,) = await engine.claim(alone=True)
    await engine.settle(mine.release())
    seen = await engine.look("killer")
    assert (seen.score, seen.crashes) == (score, 2)


async def test_a_suspect_whose_claim_was_lost_wakes_again(engine: Engine) -> None:
    await _suspect(engine)
    await engine.claim(alone=True)
    await engine.sync(A)
    seen = await engine.look("killer")
    assert (seen.band, seen.crashes) == ("suspect", 2)
    assert await engine.redis.exists(engine.keys.key("suspects"))


async def test_a_suspect_that_completes_leaves_no_trace_of_its_crashes(engine: Engine) -> None:
    await _suspect(engine)
    (mine,) = await engine.claim(alone=True)
    await engine.settle(mine.complete(keep=0))
    assert await engine.traces() == set()


async def test_a_try_that_ends_ends_the_count_of_crashes(engine: Engine) -> None:
    # It was beside the jobs that killed its workers: tried again, it must not be one crash from the dead letters.
    await _suspect(engine)
    (mine,) = await engine.claim(alone=True)
    await engine.settle(mine.retry(delay=1))
    engine.advance(1)
    (again,) = await engine.claim()
    assert (again.name, again.claim.crashes) == ("killer", b"0")
    assert (await engine.look("killer")).crashes == 0


async def test_the_third_crash_is_handed_out_for_its_burial(engine: Engine) -> None:
    await engine.enqueue(engine.job("killer", 8))
    await _crash(engine, B, A)
    await _crash(engine, C, A)
    await _crash(engine, D, A, alone=True)
    seen = await engine.look("killer")
    assert (seen.band, seen.level, seen.crashes) == ("ready", 8, 3)
    (mine,) = await engine.claim()
    assert mine.claim.crashes == b"3"
    await engine.settle(mine.bury(b"crashes"))
    assert (await engine.look("killer")).crashes == 0
    assert await engine.redrive("killer") == ["retried"]
    (mine,) = await engine.claim()
    assert mine.claim.crashes == b"0"


@pytest.mark.parametrize(
    ("limit", "bands"), [(1, ["ready"]), (2, ["ready", "ready"]), (4, ["ready", "suspect", "suspect", "ready"])]
)
async def test_how_many_crashes_are_allowed_is_the_familys_choice(engine: Engine, limit: int, bands: list[str]) -> None:
    await engine.enqueue("a")
    for number, band in enumerate(bands, 1):
        session = f"{number:016x}"
        await engine.sync(session)
        assert len(await engine.claim(session, alone=True)) == 1
        await engine.pass_time(LEASE + 1, A)
        await engine.tick(max_crashes=limit)
        seen = await engine.look("a")
        assert (seen.band, seen.crashes) == (band, number)


async def test_after_one_lease_exactly_one_worker_is_asked_to_drain_for_a_suspect(engine: Engine) -> None:
    await engine.sync(D)
    await engine.enqueue("killer")
    await _crash(engine, B, A, D)
    await _crash(engine, C, A, D)
    reply = await engine.tick(A, wanted=5)
    assert (reply.drain, 0 < reply.wait <= LEASE + 1) == (False, True)
    await engine.pass_time(LEASE, A, D)
    assert not (await engine.tick(A, wanted=5)).drain
    engine.advance(1)
    assert (await engine.tick(A, wanted=5)).drain
    assert not (await engine.tick(D, wanted=5)).drain
    assert (await engine.tick(A, wanted=5)).drain, "a lost reply is told again"
    (mine,) = await engine.claim(A, wanted=5, alone=True)
    assert not (await engine.tick(D, wanted=5)).drain
    await engine.settle(mine.complete(keep=0))
    assert 0 < await engine.redis.pttl(engine.keys.key("drainer")) <= 2 * LEASE


# ---------------------------------------------------------------------------- bad keys, full server


async def test_a_wrong_entry_does_not_keep_the_others_held(engine: Engine) -> None:
    await engine.enqueue("bad", "good")
    await engine.sync(B)
    await engine.claim(B, wanted=2)
    for prefix in (JOB, IN_PROGRESS, "arq:retry:"):
        await engine.redis.delete(prefix + engine.id("bad"))
        await engine.redis.hset(prefix + engine.id("bad"), "wrong", "type")
    await engine.pass_time(LEASE + 1, A)
    await engine.tick()
    assert [mine.name for mine in await engine.claim(wanted=2)] == ["bad", "good"]


async def test_an_orphan_claimed_from_minus_infinity_goes_back(engine: Engine) -> None:
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): float("-inf")})
    await _crash(engine, B, A)
    assert [mine.name for mine in await engine.claim()] == ["a"]


async def test_a_full_server_reaps(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await engine.enqueue("a")
    await engine.sync(B)
    await engine.claim(B)
    await fill()
    await engine.pass_time(LEASE + 1, A)
    reply = await engine.tick(wanted=1)
    assert [claim.id.decode() for claim in reply.claims] == [engine.id("a")]


async def test_a_worker_of_many_jobs_is_reaped_to_the_end(engine: Engine) -> None:
    """What was taken out of the table of what it held leaves gaps, which a look at its beginning must not stop at."""
    engine.checked = False
    count = 10_000
    await engine.sync(B)
    held, queue = engine.keys.key("held", B), engine.keys.queue
    ids = [engine.id(f"j{i}") for i in range(count)]
    await engine.redis.hset(held, mapping={job_id: f"1 {READY + 5 * LEVEL + i}" for i, job_id in enumerate(ids)})
    await engine.redis.zadd(queue, dict.fromkeys(ids, HELD + engine.now))
    await engine.pass_time(LEASE + 1, A)
    calls = 0
    while await engine.redis.exists(held):
        calls += 1
        assert calls <= count / 50, f"{await engine.redis.hlen(held)} jobs are still held by the dead"
        await engine.tick()
    assert await engine.redis.zcount(queue, "-inf", "(0") == count
