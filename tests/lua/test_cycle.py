"""Many calls in any order: every job ends once and in the right way, and nothing is left of it."""

from __future__ import annotations

import random

import pytest

from daemon.broker import Outcome
from tests.lua.state import LEASE, A, B, C, Engine, Mine


async def test_a_whole_life_leaves_the_family_keys_only(engine: Engine) -> None:
    """Enqueue, retry, complete, trim; bury, redrive, bury, remove; abort; expire; then the worker leaves."""
    for name in ("done", "dead", "aborted", "expired"):
        mine = await engine.take(name)
        await engine.broker.progress(A, engine.id(name), 50, "half")
        await engine.broker.await_result("d" * 16, engine.id(name))
        await engine.settle(mine.retry(0, 1, b'{"try":1}'))
        (mine,) = await engine.claim()
        if name == "done":
            await engine.settle(mine.complete())
        elif name == "dead":
            await engine.settle(mine.bury())
            assert await engine.redrive(name) == ["retried"]
            (mine,) = await engine.claim()
            await engine.settle(mine.bury())
            assert await engine.remove(name) == ["removed"]
        elif name == "aborted":
            await engine.settle(mine.release())
            assert await engine.abort(name) == "aborted"
        else:
            await engine.settle(mine.expire())
    await engine.redis.delete(engine.keys.key("reply", "d" * 16))
    engine.advance(10_000)
    await engine.renew(A, age=5000, dead_age=5000)
    assert await engine.traces() == set()
    await engine.sync(A, leave=True)
    left = {key.decode() for key in await engine.redis.keys("*") if b"}:stats:" not in key}
    assert left == {engine.keys.key(name) for name in ("clock", "conf", "totals", "events")}


@pytest.mark.parametrize("seed", range(5))
async def test_any_order_of_calls_keeps_the_state_whole(engine: Engine, seed: int) -> None:
    """Sessions claim, settle, lose replies, die and come back; every job ends exactly once."""
    rand = random.Random(seed)
    sessions = [A, B, C]
    limit = rand.choice((None, 5))
    rate = rand.choice((None, (20, 500)))
    running: dict[str, list[Mine]] = {session: [] for session in sessions}
    for session in sessions:
        await engine.sync(session, rate=rate, limit=limit)
    expected: set[str] = set()
    ended: dict[str, str] = {}

    async def settle(session: str, wanted: int, keep_reply: bool = True) -> None:
        mine = [job for job in running[session] if rand.random() < 0.7]
        outcomes = [_outcome(rand, job) for job in mine]
        reply = await engine.tick(session, *outcomes, wanted=wanted, alone=not running[session], max_crashes=3)
        if reply.status == "sync":
            await sync(session)
            return
        assert reply.status == "ok"
        for job, outcome in zip(mine, outcomes, strict=True):
            running[session].remove(job)
            if outcome.kind in "caeb" and outcome.id not in reply.refused:
                assert job.name not in ended, "ended twice"
                ended[job.name] = outcome.kind
        if keep_reply:
            running[session] += [Mine(claim, engine.n[session]) for claim in reply.claims]

    async def sync(session: str) -> None:
        lost = await engine.sync(session, *(job.held() for job in running[session]), rate=rate, limit=limit)
        assert lost is not None
        running[session] = [job for job in running[session] if job.claim.id not in lost]

    for step in range(120):
        session = rand.choice(sessions)
        match rand.randrange(10):
            case 0 | 1:
                names = [f"{step:03}-{i}" for i in range(rand.randrange(1, 8))]
                delays = [rand.choice((0, 0, 700)) for _ in names]
                jobs = [engine.job(n, rand.randrange(1, 11), delay=d) for n, d in zip(names, delays, strict=True)]
                assert all(await engine.enqueue(*jobs))
                expected.update(names)
            case 2:
                await settle(session, 5, keep_reply=False)
                await sync(session)
            case 3 if rand.random() < 0.3:
                others = [other for other in sessions if other != session]
                await engine.pass_time(LEASE + 1, *[o for o in others if await engine.renew(o)])
            case 4:
                engine.advance(rand.randrange(1000))
            case 5:
                await engine.renew(session)
            case _:
                await settle(session, rand.randrange(6))

    for session in sessions:
        await sync(session)
    await engine.sync(A, *(job.held() for job in running[A]))
    for _ in range(200):
        if not await engine.order():
            break
        for session in sessions:
            if running[session]:
                outcomes = [job.complete(keep=-1) for job in running[session]]
                reply = await engine.tick(session, *outcomes)
                ended |= {job.name: "c" for job in running[session] if job.claim.id not in reply.refused}
                running[session] = []
        running[A] = await engine.claim(A, wanted=50, alone=True)
        engine.advance(1000)
        for session in sessions:
            await engine.renew(session)
    assert set(ended) == expected
    for name in expected:
        index = {"c": "completed", "a": "aborted", "e": "expired", "b": "dead"}[ended[name]]
        assert (await engine.look(name)).indexes == {index}
    await engine.remove(*expected)
    assert await engine.traces() == set()


def _outcome(rand: random.Random, mine: Mine) -> Outcome:
    kind = rand.choice(("complete", "complete", "complete", "bury", "abort", "expire", "retry", "release"))
    if kind == "retry":
        return mine.retry(rand.choice((0, 400)), 1, b'{"try":1}')
    if kind == "release":
        return mine.release(rand.choice((-1, 300)))
    return getattr(mine, kind)(keep=-1)  # type: ignore[no-any-return]
