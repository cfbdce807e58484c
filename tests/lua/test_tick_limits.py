"""tick's limits: a paused queue, the global limit, and the rate limit, which holds in every window."""

from __future__ import annotations

import random

import pytest

from tests.lua.state import A, B, C, Engine, Mine


def names(claims: list[Mine]) -> list[str]:
    return [mine.name for mine in claims]


async def test_a_paused_queue_gives_nothing_and_wakes_nobody(engine: Engine) -> None:
    await engine.enqueue("a", engine.job("b", delay=100))
    await engine.pause()
    reply = await engine.tick(wanted=5)
    assert (reply.claims, reply.wait > 1000) == ([], True)
    assert not await engine.marked()
    engine.advance(200)
    assert (await engine.tick(wanted=5)).wait > 1000
    await engine.pause(False)
    assert names(await engine.claim(wanted=5)) == ["a", "b"]


async def test_a_paused_queue_settles_what_runs(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.pause()
    assert (await engine.settle(mine.complete())).refused == []


async def test_a_paused_queue_with_a_suspect_does_not_keep_workers_spinning(engine: Engine) -> None:
    await engine.sync(B)
    for session in (B, C):
        await engine.sync(session)
        if session == B:
            await engine.enqueue("a")
        await engine.claim(session)
        await engine.pass_time(engine.lease + 1, A)
        await engine.tick()
    assert (await engine.look("a")).band == "suspect"
    await engine.pause()
    await engine.pass_time(2 * engine.lease, A)
    reply = await engine.tick(wanted=1)
    assert (reply.claims, reply.drain) == ([], False)
    assert reply.wait > 1000


async def test_the_global_limit_counts_every_workers_jobs(engine: Engine) -> None:
    await engine.sync(A, limit=3)
    await engine.sync(B, limit=3)
    await engine.enqueue(*"abcde")
    first = await engine.claim(A, wanted=2)
    assert names(first) == ["a", "b"]
    assert await engine.marked()
    assert names(await engine.claim(B, wanted=5)) == ["c"]
    assert not await engine.marked()
    reply = await engine.tick(B, wanted=5)
    assert (reply.claims, reply.wait > 1000) == ([], True)
    await engine.settle(first[0].complete())
    assert await engine.marked()
    assert names(await engine.claim(B, wanted=5)) == ["d"]


async def test_a_settle_makes_room_for_a_claim_of_the_same_call(engine: Engine) -> None:
    await engine.sync(A, limit=1)
    mine = await engine.take("a")
    await engine.enqueue("b")
    reply = await engine.settle(mine.complete(), wanted=1)
    assert [claim.id.decode() for claim in reply.claims] == [engine.id("b")]


async def test_a_limit_that_was_taken_away_does_not_hold(engine: Engine) -> None:
    await engine.sync(A, limit=1, rate=(1, 60_000))
    await engine.enqueue(*"abc")
    assert len(await engine.claim(wanted=3)) == 1
    await engine.sync(A)
    assert len(await engine.claim(wanted=3)) == 3


async def test_the_rate_limit_opens_exactly_when_the_first_start_leaves_the_window(engine: Engine) -> None:
    await engine.sync(A, rate=(2, 1000))
    await engine.enqueue(*"abcd")
    assert names(await engine.claim(wanted=4)) == ["a", "b"]
    reply = await engine.tick(wanted=4)
    assert (reply.claims, reply.wait) == ([], 1000)
    assert not await engine.marked()
    engine.advance(999)
    assert await engine.claim(wanted=4) == []
    engine.advance(1)
    assert names(await engine.claim(wanted=4)) == ["c", "d"]


async def test_the_rate_limit_slides(engine: Engine) -> None:
    await engine.sync(A, rate=(2, 1000))
    await engine.enqueue(*"abcd")
    await engine.claim(wanted=1)
    engine.advance(600)
    await engine.claim(wanted=1)
    reply = await engine.tick(wanted=1)
    assert (reply.claims, reply.wait) == ([], 400)
    engine.advance(400)
    assert names(await engine.claim(wanted=2)) == ["c"]
    assert (await engine.tick(wanted=2)).wait == 600
    engine.advance(600)
    assert names(await engine.claim(wanted=2)) == ["d"]


@pytest.mark.parametrize(("limit", "period"), [(1, 50), (7, 1000), (30, 300), (250, 1000)])
async def test_no_window_ever_sees_more_starts_than_allowed(engine: Engine, limit: int, period: int) -> None:
    rand = random.Random(limit)
    for session in (A, B):
        await engine.sync(session, rate=(limit, period))
    for start in range(0, 3000, 1000):
        await engine.enqueue(*(f"j{start + i:04}" for i in range(1000)))
    starts: list[int] = []
    running: dict[str, list[Mine]] = {A: [], B: []}
    for _ in range(120):
        session = rand.choice((A, B))
        settled = [mine.complete(keep=0) for mine in running[session][:128]]
        reply = await engine.tick(session, *settled, wanted=rand.choice((1, 3, 20, 128)))
        running[session] = [Mine(claim, engine.n[session]) for claim in reply.claims]
        starts += [engine.now] * len(reply.claims)
        engine.advance(rand.choice((0, 1, 2, 5, period // 10 or 1, period // 2)))
    for number, start in enumerate(starts):
        if number + limit < len(starts):
            assert starts[number + limit] - start >= period
    assert len(starts) > limit


async def test_steady_starts_reach_the_rate_they_are_allowed(engine: Engine) -> None:
    """Starts that follow each other closely share an entry; they must not push each other's end ever further."""
    await engine.sync(A, rate=(100, 1000))
    await engine.enqueue(*(f"j{i:03}" for i in range(600)))
    engine.checked = False
    started, running = 0, []
    for _ in range(1000):
        reply = await engine.tick(A, *(mine.complete(keep=0) for mine in running), wanted=1)
        running = [Mine(claim, engine.n[A]) for claim in reply.claims]
        started += len(running)
        engine.advance(4)
    assert 380 <= started <= 400


async def test_the_note_of_starts_stays_small(engine: Engine) -> None:
    await engine.sync(A, rate=(1_000_000, 1000))
    await engine.enqueue(*(f"j{i:03}" for i in range(400)))
    engine.checked = False
    for _ in range(400):
        assert len(await engine.claim()) == 1
        engine.advance(1)
    starts = await engine.redis.hget(engine.keys.key("clock"), "starts")
    assert len(starts.split()) <= 202


async def test_starts_that_lie_ahead_after_the_clock_went_back_do_not_count(engine: Engine) -> None:
    await engine.sync(A, rate=(3, 1000))
    await engine.enqueue(*"abcdefgh")
    assert len(await engine.claim()) == 1
    engine.advance(300)
    assert len(await engine.claim(wanted=2)) == 2
    engine.advance(-200)
    assert len(await engine.claim(wanted=8)) == 2, "the first start is within the last second, the later two are ahead"
    engine.advance(901)
    assert len(await engine.claim(wanted=8)) == 1, "only the first has left the window"


async def test_rate_and_global_limit_hold_together(engine: Engine) -> None:
    await engine.sync(A, rate=(5, 1000), limit=2)
    await engine.enqueue(*"abcdefgh")
    first = await engine.claim(wanted=8)
    assert len(first) == 2
    assert await engine.claim(wanted=8) == []
    reply = await engine.settle(*(mine.complete() for mine in first), wanted=8)
    assert len(reply.claims) == 2
    reply = await engine.settle(*(Mine(claim, engine.n[A]).complete() for claim in reply.claims), wanted=8)
    assert len(reply.claims) == 1
    assert not await engine.marked()
