"""Fair turns: groups of the same priority take turns, however much one of them has waiting."""

from __future__ import annotations

from tests.lua.state import A, Engine


async def _names(engine: Engine, wanted: int) -> str:
    """Claim jobs and give the first letter of each: their group."""
    return "".join(mine.name[0] for mine in await engine.claim(wanted=wanted))


async def _enqueue(engine: Engine, group: str, count: int, *, start: int = 0, level: int = 5, delay: int = 0) -> None:
    letter = group or "-"
    jobs = [
        engine.job(f"{letter}{start + i:03}", level, group=group, delay=delay)
        for i in range(count)
    ]  # fmt: skip
    await engine.enqueue(*jobs)


async def test_a_group_that_comes_late_does_not_wait_for_the_backlog_of_another(engine: Engine) -> None:
    await engine.sync()
    await _enqueue(engine, "a", 100)
    assert await _names(engine, 10) == "a" * 10
    await _enqueue(engine, "b", 5)
    assert await _names(engine, 12) == "abababababaa"


async def test_three_groups_take_turns_and_keep_their_own_order(engine: Engine) -> None:
    await engine.sync()
    for group in "abc":
        await _enqueue(engine, group, 4)
    order = [mine.name for mine in await engine.claim(wanted=12)]
    assert [name[0] for name in order] == list("abcabcabcabc")
    for group in "abc":
        mine = [name for name in order if name[0] == group]
        assert mine == sorted(mine)


async def test_groups_that_come_in_one_call_take_turns(engine: Engine) -> None:
    await engine.sync()
    await engine.enqueue(*(engine.job(f"{group}{number}", group=group) for group in "abc" for number in range(4)))
    order = [mine.name for mine in await engine.claim(wanted=12)]
    assert [set(order[at : at + 3]) for at in (0, 3, 6, 9)] == [{f"{group}{at}" for group in "abc"} for at in range(4)]


async def test_what_waits_without_a_group_is_a_group_too_and_keeps_its_order(engine: Engine) -> None:
    await engine.sync()
    await _enqueue(engine, "", 6)
    await _enqueue(engine, "b", 3)
    await _enqueue(engine, "", 2, start=6)
    names = [mine.name for mine in await engine.claim(wanted=11)]
    assert "".join(name[0] for name in names) == "-b-b-b-----"
    assert [name for name in names if name[0] == "-"] == [f"-{i:03}" for i in range(8)]


async def test_a_group_does_not_save_turns_while_it_has_nothing_waiting(engine: Engine) -> None:
    await engine.sync()
    await _enqueue(engine, "b", 1)
    await _enqueue(engine, "a", 50)
    assert await _names(engine, 20) == "ab" + "a" * 18
    assert await _names(engine, 20) == "a" * 20
    await _enqueue(engine, "b", 3, start=1)
    assert await _names(engine, 8) == "abababaa"


async def test_priority_comes_before_turns(engine: Engine) -> None:
    await engine.sync()
    await _enqueue(engine, "a", 3)
    await _enqueue(engine, "b", 2, level=3)
    assert await _names(engine, 5) == "bbaaa"


async def test_a_weight_gives_a_group_more_turns(engine: Engine) -> None:
    await engine.sync()
    await engine.redis.hset(engine.keys.key("conf"), "weight:b", 3)
    await _enqueue(engine, "a", 8)
    await _enqueue(engine, "b", 9)
    names = await _names(engine, 12)
    assert names.count("b") == 9


async def test_jobs_that_come_due_and_retries_take_turns_too(engine: Engine) -> None:
    await engine.sync()
    await _enqueue(engine, "b", 3, delay=100)
    await _enqueue(engine, "a", 10)
    first = (await engine.claim(wanted=1))[0]
    await engine.settle(first.retry(50))
    engine.advance(200)
    names = [mine.name for mine in await engine.claim(wanted=13)]
    assert "".join(name[0] for name in names[:6]) == "ababab"
    assert names[-1] == first.name, "its group has others before it"


async def test_a_released_job_returns_to_its_place(engine: Engine) -> None:
    await engine.sync()
    for group in "ab":
        await _enqueue(engine, group, 3)
    taken = await engine.claim(wanted=2)
    await engine.settle(*(mine.release() for mine in taken))
    assert await _names(engine, 6) == "ababab"


async def test_groups_that_are_gone_leave_nothing(engine: Engine) -> None:
    await engine.sync()
    for number in range(30):
        await engine.enqueue(engine.job(f"g{number}", group=f"group {number}"))
    await engine.settle(*(mine.complete(keep=0) for mine in await engine.claim(wanted=30)))
    await engine.enqueue(engine.job("waiting", group="busy"))
    assert await engine.renew(A)
    fields = await engine.redis.hkeys(engine.keys.key("tags"))
    assert set(fields) == {b"5:", b"5:busy"}
    await _enqueue(engine, "a", 2)
    assert len(await engine.claim(wanted=5)) == 3


async def test_a_call_brings_a_turn_of_all_groups(engine: Engine) -> None:
    await engine.enqueue(*(engine.job(f"a{i}", group="a") for i in range(200)))
    # Two groups, and none has been worked off so far: the first job of another would wait for all that are claimed.
    assert len(await engine.claim(wanted=128)) == 20
    await engine.enqueue(*(engine.job(f"b{i}", group=f"b{i}") for i in range(80)))
    brought = await engine.claim(wanted=128)
    assert len(brought) == 81
    assert sum(b":b" in mine.claim.id for mine in brought) >= 78
    await engine.enqueue(*(engine.job(f"c{i}", group=f"c{i}") for i in range(20)))
    assert len(await engine.claim(wanted=128)) == 128, "a turn of a hundred groups is hardly shorter"
