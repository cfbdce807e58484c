"""Limits of groups and functions: what is over them waits aside, and comes back to its place when there is room."""

from __future__ import annotations

import pytest

from daemon.broker import NewJob
from daemon.limits.queue_limits import fields_of
from daemon.records import record_tail
from tests.engine import calls
from tests.lua.state import BODY, LEASE, A, B, Engine, Mine

LANE, LANES_END = 2**47, 2**47 + 2**46


async def _enqueue(engine: Engine, group: str, *names: str, function: str = "send") -> None:
    jobs = [
        NewJob(engine.id(name), 5, "now", 0, 0, 0, record_tail(function, group, BODY)) for name in names
    ]  # fmt: skip
    await engine.broker.enqueue(jobs)


async def _claim(engine: Engine, wanted: int = 10, session: str = A) -> list[Mine]:
    reply = await engine.tick(session, wanted=wanted)
    return [Mine(claim, engine.n[session]) for claim in reply.claims]


async def _in_lane(engine: Engine) -> set[str]:
    found = await engine.redis.zrangebyscore(engine.keys.queue, LANE, f"({LANES_END}")
    return {job_id.decode().rpartition(":")[2] for job_id in found}


async def _clean(engine: Engine) -> None:
    """Nothing of the lanes is left."""
    for name in ("active", "lanes"):
        assert not await engine.redis.exists(engine.keys.key(name)), name
    assert not await engine.redis.keys(engine.keys.key("lane", "*"))


async def test_a_group_runs_as_many_as_it_may_and_others_are_not_held_up(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "2||"})
    await _enqueue(engine, "acme", "a1", "a2", "a3", "a4")
    await _enqueue(engine, "other", "b1")
    taken = await _claim(engine)
    assert sorted(mine.name for mine in taken) == ["a1", "a2", "b1"]
    assert await _in_lane(engine) == {"a3", "a4"}
    assert await _claim(engine) == []


async def test_what_started_while_no_lane_could_be_full_counts_when_one_can(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "5||"})
    await _enqueue(engine, "acme", *(f"a{i}" for i in range(9)))
    first = await _claim(engine, wanted=3)
    assert await engine.redis.hgetall(engine.keys.key("active")) == {b"g:acme": b"3"}
    reply = await engine.settle(first[0].complete(keep=0), wanted=5)
    assert [claim.id.decode() for claim in reply.claims] == [engine.id(f"a{i}") for i in (3, 4, 5)]
    assert await _in_lane(engine) == {"a6", "a7", "a8"}
    assert await engine.redis.hgetall(engine.keys.key("active")) == {b"g:acme": b"5"}


async def test_the_end_of_a_job_lets_the_next_of_its_group_in_at_its_place(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "1||"})
    await _enqueue(engine, "acme", "a1", "a2", "a3")
    (mine,) = await _claim(engine)
    for expected in ("a2", "a3"):
        reply = await engine.settle(mine.complete(keep=0), wanted=5)
        (mine,) = [Mine(claim, engine.n[A]) for claim in reply.claims]
        assert mine.name == expected
    await engine.settle(mine.complete(keep=0))
    await _clean(engine)


async def test_a_retry_and_a_release_make_room_too(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "1||"})
    await _enqueue(engine, "acme", "a1", "a2")
    (mine,) = await _claim(engine)
    reply = await engine.settle(mine.retry(60_000), wanted=5)
    assert [claim.id.decode() for claim in reply.claims] == [engine.id("a2")]


async def test_jobs_of_a_dead_worker_do_not_count_any_more(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "1||"})
    await engine.sync(B, lanes={"s:g:*": "1||"})
    await _enqueue(engine, "acme", "a1", "a2")
    (mine,) = await _claim(engine, session=B)
    await engine.pass_time(LEASE + 1, A)
    (again,) = await _claim(engine)
    assert again.name == mine.name == "a1"
    await engine.settle(again.complete(keep=0))
    (last,) = await _claim(engine)
    await engine.settle(last.complete(keep=0))
    await _clean(engine)


async def test_a_function_has_a_limit_of_its_own(engine: Engine) -> None:
    await engine.sync(lanes={"s:f:slow": "1||"})
    await _enqueue(engine, "", "s1", "s2", function="slow")
    await _enqueue(engine, "", "q1", "q2", function="quick")
    assert sorted(mine.name for mine in await _claim(engine)) == ["q1", "q2", "s1"]
    assert await _in_lane(engine) == {"s2"}


async def test_a_rate_of_a_group_is_a_sliding_window(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "|2|1000000"})
    await _enqueue(engine, "acme", *(f"a{i}" for i in range(6)))
    started = []
    for _ in range(3100 // 100):
        started += [(engine.now, mine.name) for mine in await _claim(engine)]
        engine.advance(100)
    times = [at for at, _ in started]
    assert [name for _, name in started] == [f"a{i}" for i in range(6)]
    assert all(later - earlier >= 1000 for earlier, later in zip(times, times[2:], strict=False))
    assert times[-1] - times[0] <= 2300


async def test_the_worker_is_told_when_a_rate_lets_the_next_in(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "|1|5000000"})
    await _enqueue(engine, "acme", "a1", "a2")
    reply = await engine.tick(wanted=5)
    assert len(reply.claims) == 1
    reply = await engine.tick(wanted=5)
    assert 4000 < reply.wait <= 5000
    engine.advance(reply.wait)
    assert len((await engine.tick(wanted=5)).claims) == 1


async def test_an_operators_limit_wins_and_can_be_taken_back(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "1||"})
    await _enqueue(engine, "acme", "a1", "a2", "a3", "a4")
    assert len(await _claim(engine)) == 1
    await engine.broker.set_limits([("limits", "g:acme", "3||")])
    assert len(await _claim(engine)) == 2
    await engine.broker.set_limits([("limits", "g:acme", "-")])
    assert await _claim(engine) == []
    await engine.broker.set_limits([("limits", "g:*", "||")])
    assert len(await _claim(engine)) == 1


async def test_an_operators_limit_of_the_queue_wins_over_the_settings(engine: Engine) -> None:
    await engine.sync(limit=1)
    await _enqueue(engine, "", "a", "b", "c")
    assert len(await _claim(engine)) == 1
    await engine.broker.set_limits([("conf", "own:global", "2")])
    assert len(await _claim(engine)) == 1
    await engine.broker.set_limits([("conf", "own:global", "")])
    assert len(await _claim(engine)) == 1


async def test_who_is_told_to_wait_makes_the_queue_or_its_group_wait(engine: Engine) -> None:
    await engine.sync()
    await _enqueue(engine, "acme", "a1", "a2")
    await _enqueue(engine, "other", "b1")
    first, second = await _claim(engine, wanted=2)
    held = {first.name: first, second.name: second}
    told = held["a1"]._outcome("w", 5000, 0)._replace(b="group")
    reply = await engine.settle(told, wanted=5)
    rest = {claim.id.decode().rpartition(":")[2] for claim in reply.claims} | (held.keys() - {"a1"})
    assert rest == {"b1"}, "acme waits, the others do not"
    engine.advance(5001)
    assert sorted(mine.name for mine in await _claim(engine)) == ["a1", "a2"]


async def test_the_whole_queue_waits(engine: Engine) -> None:
    await engine.sync()
    await _enqueue(engine, "", "a", "b")
    (mine,) = await _claim(engine, wanted=1)
    reply = await engine.settle(mine._outcome("w", 5000)._replace(b="queue"), wanted=5)
    assert reply.claims == []
    assert 0 < reply.wait <= 5000
    engine.advance(5001)
    assert len(await _claim(engine)) == 2


async def test_a_job_removed_from_a_lane_is_skipped(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "1||"})
    await _enqueue(engine, "acme", "a1", "a2", "a3")
    (mine,) = await _claim(engine)
    assert await engine.remove("a2") == ["removed"]
    reply = await engine.settle(mine.complete(keep=0), wanted=5)
    assert [claim.id.decode() for claim in reply.claims] == [engine.id("a3")]


async def test_a_lane_whose_admitted_job_is_removed_goes_on_after_a_renewal(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "1||"})
    await _enqueue(engine, "acme", "a1", "a2", "a3")
    (mine,) = await _claim(engine)
    await engine.settle(mine.complete(keep=0))
    assert await engine.remove("a2") == ["removed"]
    assert await engine.renew()
    assert [mine.name for mine in await _claim(engine)] == ["a3"]


async def test_a_count_that_a_failover_left_too_high_is_mended_when_a_worker_comes_back(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "2||"})
    await _enqueue(engine, "acme", "a1", "a2")
    (mine,) = await _claim(engine, wanted=1)
    await engine.redis.hset(engine.keys.key("active"), "g:acme", 7)
    assert await engine.sync(A, mine.held(), lanes={"s:g:*": "2||"}) == []
    assert await engine.redis.hgetall(engine.keys.key("active")) == {b"g:acme": b"1"}
    assert [mine.name for mine in await _claim(engine)] == ["a2"]


async def test_a_renewal_forgets_no_start_that_still_counts(engine: Engine) -> None:
    """The first start has left the group's window, the second has not."""
    await engine.sync(A, lanes={"s:g:*": "|2|60000000"})
    for name in "ab":
        await _enqueue(engine, "acme", name)
        assert len(await _claim(engine)) == 1
        await engine.pass_time(40_000, A)
    await _enqueue(engine, "acme", "c", "d")
    assert [mine.name for mine in await _claim(engine)] == ["c"]


async def _most(engine: Engine, group: str, function: str = "send") -> int:
    """How many of nine jobs are let in."""
    await _enqueue(engine, group, *(f"{group}{i}" for i in range(9)), function=function)
    return len(await _claim(engine))


async def test_the_groups_of_a_kind_have_a_limit_each(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "3||", "s:g:ordered:*": "1||"})
    for group in ("ordered:a", "ordered:b", "ordered:b:c", "ordered", "orderly:a", "a"):
        assert await _most(engine, group) == (1 if group.startswith("ordered:") else 3), group


async def test_the_end_of_a_job_lets_the_next_of_its_group_in_where_the_kind_has_the_limit(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:ordered:*": "1||"})
    await _enqueue(engine, "ordered:a", "a1", "a2")
    await _enqueue(engine, "ordered:b", "b1", "b2")
    taken = await _claim(engine)
    assert sorted(mine.name for mine in taken) == ["a1", "b1"]
    for mine in taken:
        reply = await engine.settle(mine.complete(keep=0), wanted=5)
        (later,) = [Mine(claim, engine.n[A]) for claim in reply.claims]
        assert later.name == mine.name[0] + "2"
        await engine.settle(later.complete(keep=0))
    await _clean(engine)


async def test_functions_have_no_kinds(engine: Engine) -> None:
    """``cron:nightly`` is what arq calls a function."""
    await engine.sync(lanes={"s:f:cron:*": "1||", "s:f:*": "4||", "s:g:send:*": "2||"})
    assert await _most(engine, "", "cron:nightly") == 4


@pytest.mark.parametrize("many", [False, True], ids=["few", "many"])
async def test_which_of_several_limits_counts(engine: Engine, many: bool) -> None:
    """The same for the script and for who shows or changes limits; `many` are read one by one."""
    group = "ordered:a:b"
    weakest_first = ["s:g:*", f"s:g:{group}", "g:*", "s:g:ordered:*", "g:ordered:*", f"g:{group}"]
    assert fields_of(f"g:{group}") == weakest_first[::-1]
    others = {f"s:g:other{i}": "9||" for i in range(70 if many else 0)}
    await engine.sync(lanes=others)
    await _enqueue(engine, group, *"abcdefghi")
    running = 0
    for jobs, field in enumerate(weakest_first, 1):
        await engine.broker.set_limits([("limits", field, f"{jobs}||")])
        running += len(await _claim(engine))
        assert running == jobs, field


@pytest.mark.parametrize("others", [0, 70])
async def test_kinds_cost_no_command_more(engine: Engine, redis_url: str, others: int) -> None:
    async def commands(number: int, group: str, lanes: dict[str, str]) -> int:
        await engine.sync(lanes=lanes | {f"s:g:other{i}": "9||" for i in range(others)})
        await _enqueue(engine, group, f"{number}a", f"{number}b")
        before = calls(redis_url, "hlen", "hget", "hmget", "hgetall", "zcount", "zscore")
        taken = await _claim(engine)
        found = calls(redis_url, "hlen", "hget", "hmget", "hgetall", "zcount", "zscore") - before
        assert len(taken) == 2
        await engine.settle(*(mine.complete(keep=0) for mine in taken))
        return found

    engine.checked = False
    every = {"s:g:*": "5||"}
    plain = await commands(1, "shop", every)
    assert await commands(2, "ordered:shop", every) == plain, "where there are none"
    own = await commands(3, "shop", every | {"s:g:acme": "4||"})
    assert await commands(4, "ordered:shop", every | {"s:g:ordered:*": "4||"}) == own
