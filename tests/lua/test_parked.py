"""Jobs no worker here can run: parked, and taken by the workers that can."""

from __future__ import annotations

import json

from tests.lua.state import NOW, A, B, Engine

PARKED = 2**47 + 2**46


async def _join(engine: Engine, session: str, *functions: str) -> None:
    await engine.sync(session)
    await engine.renew(session, info=json.dumps({"functions": functions}).encode())


async def _told(engine: Engine, session: str) -> list[bytes]:
    key = engine.keys.key("ctl", session)
    told = await engine.redis.lrange(key, 0, -1)
    await engine.redis.delete(key)
    return list(told)


async def test_a_parked_job_is_out_of_the_way_and_nothing_of_its_claim_stays(engine: Engine) -> None:
    mine = await engine.take("a")
    reply = await engine.settle(mine.park(), wanted=8)
    assert reply.claims == []
    seen = await engine.look("a")
    assert (seen.score, seen.token, seen.holders) == (PARKED + NOW, None, {})
    assert seen.record is not None
    assert not await engine.marked()
    assert await engine.total("parked") == 1
    assert await engine.redis.zrange(engine.keys.key("parked"), 0, -1) == [b"send"]


async def test_a_worker_that_knows_the_function_gets_it_in_its_old_place(engine: Engine) -> None:
    await engine.enqueue(*"abc")
    await _join(engine, A, "other")
    mine = await engine.claim(A, wanted=2)
    await engine.settle(*(job.park() for job in mine))
    await _join(engine, B, "send")
    assert [job.name for job in await engine.claim(B, wanted=1)] == ["a"]
    assert [job.name for job in await engine.claim(B, wanted=8)] == ["b", "c"]
    assert await engine.redis.exists(engine.keys.key("parked"), engine.keys.key("parked", "send")) == 0


async def test_a_live_worker_that_knows_it_is_told_at_once_and_others_are_not(engine: Engine) -> None:
    await _join(engine, A, "other")
    await _join(engine, B, "send")
    mine = await engine.take("a", A)
    await engine.settle(mine.park())
    assert (await _told(engine, A), await _told(engine, B)) == ([], [b"parked"])


async def test_who_could_not_run_it_does_not_get_it_again(engine: Engine) -> None:
    need = "send\x1f2"
    await _join(engine, A, "send")
    mine = await engine.take("a", A)
    await engine.settle(mine.park(need))
    assert await engine.claim(A, wanted=8) == []
    await engine.renew(A, info=json.dumps({"functions": ["send"]}).encode())
    assert await _told(engine, A) == []
    await _join(engine, B, "send")
    (again,) = await engine.claim(B, wanted=8)
    await engine.settle(again.park(need), session=B)
    assert await _told(engine, A) == [], "it would go to and fro for ever"
    assert await engine.claim(B, wanted=8) == []


async def test_a_need_of_another_kind_is_tried(engine: Engine) -> None:
    await _join(engine, A, "send")
    for name, need in (("a", "send\x1f2"), ("b", "send\x1f3")):
        await engine.settle((await engine.take(name, A)).park(need))
    await _join(engine, B, "send")
    assert {job.name for job in await engine.claim(B, wanted=8)} == {"a", "b"}


async def test_many_parked_jobs_come_in_portions(engine: Engine) -> None:
    names = [f"j{number:03}" for number in range(200)]
    await engine.enqueue(*names)
    await _join(engine, A, "other")
    for _ in range(2):
        mine = await engine.claim(A, wanted=100)
        await engine.settle(*(job.park() for job in mine))
    await _join(engine, B, "send")
    reply = await engine.tick(B, wanted=50)
    assert (len(reply.claims), reply.wait) == (50, 0)
    rest = []
    for _ in range(3):
        rest += await engine.claim(B, wanted=50)
    assert len(rest) == 150


async def test_a_lost_message_is_told_again_with_a_renewal(engine: Engine) -> None:
    await _join(engine, A, "other")
    await engine.settle((await engine.take("a", A)).park())
    await _join(engine, B, "send")
    assert await _told(engine, B) == [b"parked"]
    await engine.renew(B, info=json.dumps({"functions": ["send"]}).encode())
    assert await _told(engine, B) == [b"parked"]


async def test_a_worker_that_drains_is_not_told(engine: Engine) -> None:
    await _join(engine, A, "other")
    await engine.sync(B)
    await engine.renew(B, info=json.dumps({"functions": ["send"], "draining": True}).encode())
    await engine.settle((await engine.take("a", A)).park())
    assert await _told(engine, B) == []


async def test_a_removed_or_aborted_one_is_forgotten(engine: Engine) -> None:
    await _join(engine, A, "other")
    for name in "ab":
        await engine.settle((await engine.take(name, A)).park())
    assert await engine.remove("a") == ["removed"]
    assert await engine.abort("b") == "aborted"
    await engine.renew(A, info=json.dumps({"functions": ["other"]}).encode())
    assert await engine.redis.exists(engine.keys.key("parked"), engine.keys.key("parked", "send")) == 0
    await _join(engine, B, "send")
    assert await engine.claim(B, wanted=8) == []


async def test_a_changed_priority_counts_when_it_comes_back(engine: Engine) -> None:
    await _join(engine, A, "other")
    await engine.settle((await engine.take("a", A)).park())
    await engine.enqueue(engine.job("b", 3))
    assert await engine.broker.reprioritize([engine.id("a")], 1) == ["changed"]
    assert (await engine.look("a")).score >= PARKED
    await _join(engine, B, "send")
    assert [job.name for job in await engine.claim(B, wanted=8)] == ["a", "b"]


async def test_limits_hold_for_what_comes_back(engine: Engine) -> None:
    await engine.enqueue(*"abc")
    await _join(engine, A, "other")
    await engine.settle(*(job.park() for job in await engine.claim(A, wanted=3)))
    await engine.sync(B, limit=1)
    await engine.renew(B, info=json.dumps({"functions": ["send"]}).encode())
    assert [job.name for job in await engine.claim(B, wanted=8)] == ["a"]
