"""Groups of dead letters: there exactly as long as one of their dead letters."""

from __future__ import annotations

from random import Random

import pytest

from daemon.broker import Outcome, PageEntry
from daemon.keys import JOB
from tests.lua.conftest import Fill
from tests.lua.state import NOW, Engine, Mine

ONE, TWO = "0" * 10, "a" * 10


def cause(mine: Mine, cause: str = ONE, function: str = "send", keep: int = 600_000) -> Outcome:
    """The burial of a job that died of a cause."""
    line = f'{{"try":1}}\n{cause}\n{function}\n{{"type":"E{cause[0]}","place":"m:f","message":"no"}}'
    return mine.bury(keep=keep, line=line.encode())


async def bury(engine: Engine, *names: str, of: str = ONE, function: str = "send") -> None:
    await engine.enqueue(*names)
    await engine.settle(*(cause(mine, of, function) for mine in await engine.claim(wanted=128)))


async def state(engine: Engine) -> dict[str, list[str]]:
    """Give the members of every group; the three keys must tell the same as the index."""
    redis, key = engine.redis, engine.keys.key
    texts = await redis.hgetall(key("causes"))
    found: dict[str, list[str]] = {}
    caused = {}
    for name in texts:
        members = await redis.zrange(key("cause", name.decode()), 0, -1, withscores=True)
        assert members
        found[name.decode()] = [job_id.decode().rpartition(":")[2] for job_id, _ in members]
        caused |= {job_id: name for job_id, _ in members}
        dead = await redis.zmscore(key("dead"), [job_id for job_id, _ in members])
        assert dead == [score for _, score in members]
    assert await redis.hgetall(key("caused")) == caused
    assert len(await redis.keys(key("cause", "*"))) == len(texts)
    return found


async def text(engine: Engine, cause: str = ONE) -> str:
    found: bytes = await engine.redis.hget(engine.keys.key("causes"), cause)
    return found.decode()


async def test_dead_letters_are_grouped(engine: Engine) -> None:
    await bury(engine, "a", "b")
    engine.advance(1000)
    await bury(engine, "c", of=TWO)
    await bury(engine, "d", function="other")
    await bury(engine, "e", function="en")
    await bury(engine, "f", function="")
    assert await state(engine) == {ONE: ["a", "b", "d", "e", "f"], TWO: ["c"]}
    assert await text(engine) == f'{NOW}\n{{"type":"E0","place":"m:f","message":"no"}}\nsend\nother\nen\n'
    assert await text(engine, TWO) == f'{NOW + 1000}\n{{"type":"Ea","place":"m:f","message":"no"}}\nsend'
    assert (await engine.look("a")).history == b'{"try":1}'


async def test_many_of_several_causes_in_one_call(engine: Engine) -> None:
    names = [f"j{i:03}" for i in range(128)]
    await engine.enqueue(*names)
    claims = await engine.claim(wanted=128)
    await engine.settle(*(cause(mine, ONE if i % 2 else TWO) for i, mine in enumerate(claims)))
    assert await state(engine) == {TWO: names[::2], ONE: names[1::2]}


async def test_a_group_goes_with_its_last_dead_letter(engine: Engine) -> None:
    await bury(engine, "a", "b", "c", "d", "e")
    await bury(engine, "f", of=TWO)
    assert await engine.redrive("a", "f") == ["retried", "retried"]
    assert await state(engine) == {ONE: ["b", "c", "d", "e"]}
    assert await engine.remove("b", "a") == ["removed", "removed"]
    assert await state(engine) == {ONE: ["c", "d", "e"]}
    words = await engine.broker.discard([engine.id(name) for name in ("c", "c", "f", "never")])
    assert words == ["discarded", "discarded", "not_failed", "not_found"]
    assert await state(engine) == {ONE: ["d", "e"]}
    assert await engine.broker.clean("dead", 1, engine.now) == 1
    assert await state(engine) == {ONE: ["e"]}
    engine.advance(10_000)
    await engine.renew(dead_age=5000)
    assert await state(engine) == {}
    assert await engine.remove("f") == ["removed"]
    assert await engine.traces() == set()


async def test_it_may_die_of_another_cause_the_next_time(engine: Engine) -> None:
    await bury(engine, "a", "b")
    await engine.redrive("a")
    engine.advance(1000)
    (mine,) = await engine.claim()
    await engine.settle(cause(mine, TWO))
    assert await state(engine) == {ONE: ["b"], TWO: ["a"]}


async def test_one_that_comes_back_is_the_newest_of_its_group(engine: Engine) -> None:
    await bury(engine, "a", "b")
    await engine.redrive("a")
    engine.advance(1000)
    (mine,) = await engine.claim()
    await engine.settle(cause(mine))
    assert await state(engine) == {ONE: ["b", "a"]}
    assert (await text(engine)).startswith(f"{NOW}\n")


async def test_an_end_of_a_reused_id_takes_it_out_of_its_group(engine: Engine) -> None:
    await bury(engine, "a")
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): engine.now})
    (mine,) = await engine.claim()
    await engine.settle(cause(mine, TWO))
    assert await state(engine) == {TWO: ["a"]}


@pytest.mark.parametrize("line", [b"", b'{"try":1}', b'{"try":1}\n', b"{}\nnot hex\nf\n{}", b"{}\n0123456789"])
async def test_without_a_cause_there_is_no_group(engine: Engine, line: bytes) -> None:
    mine = await engine.take("a")
    await engine.settle(mine.bury(line=line))
    assert await state(engine) == {}
    assert (await engine.look("a")).indexes == {"dead"}
    assert await engine.redrive("a") == ["retried"]


async def test_one_that_is_not_kept_is_in_no_group(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.settle(cause(mine, keep=0))
    assert await state(engine) == {}


async def test_other_ends_write_nothing(engine: Engine) -> None:
    for name, end in (("a", Mine.complete), ("b", Mine.abort), ("c", Mine.expire)):
        mine = await engine.take(name)
        await engine.settle(end(mine))
    assert not await engine.redis.exists(engine.keys.key("causes"), engine.keys.key("caused"))


async def test_a_refused_burial_is_in_no_group(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.settle(mine.release())
    reply = await engine.settle(cause(mine))
    assert reply.refused == [mine.claim.id]
    assert await state(engine) == {}


async def test_a_page_of_a_group(engine: Engine) -> None:
    await bury(engine, "a", "b", "c", "d")
    await bury(engine, "x", of=TWO)

    async def page(after: PageEntry | None = None) -> list[PageEntry]:
        return await engine.broker.page(f"cause:{ONE}", "-inf", "+inf", down=True, after=after, count=3, head=3, tail=2)

    first = await page()
    assert [(entry.id.decode()[-1], entry.head, entry.tail) for entry in first] == [
        (name, b"bro", b"en") for name in "dcb"
    ]
    assert [entry.id.decode()[-1] for entry in await page(first[-1])] == ["a"]
    assert await engine.broker.page(f"cause:{'f' * 10}", "-inf", "+inf", down=True, after=None, count=3) == []


async def test_a_dead_letter_without_its_payload_stays_in_its_group(engine: Engine) -> None:
    await bury(engine, "a")
    engine.checked = False
    await engine.redis.delete(JOB + engine.id("a"))
    assert await engine.redrive("a") == ["not_failed"]
    assert await state(engine) == {ONE: ["a"]}
    assert await engine.broker.discard([engine.id("a")]) == ["discarded"]
    assert await state(engine) == {}


async def test_a_full_server_buries_and_discards(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await bury(engine, "a")
    await engine.enqueue("b")
    (mine,) = await engine.claim()
    await fill()
    await engine.settle(cause(mine))
    assert await state(engine) == {ONE: ["a", "b"]}
    assert await engine.broker.discard([engine.id("never"), engine.id("a")]) == ["not_found", "discarded"]
    assert await engine.redrive("b") == ["retried"]
    assert await state(engine) == {}


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_groups_are_the_dead_letters(engine: Engine, seed: int) -> None:
    random = Random(seed)
    names = [f"j{n}" for n in range(12)]
    for _ in range(150):
        name, action = (
            random.choice(names),
            random.choice(("live", "die", "die", "again", "discard", "remove", "clean")),
        )
        await engine.enqueue(name)
        engine.advance(random.randrange(3))
        if action in ("live", "die"):
            for mine in await engine.claim():
                end = (
                    mine.complete()
                    if action == "live"
                    else cause(mine, random.choice((ONE, TWO)), random.choice("fgh"))
                )
                await engine.settle(end)
        elif action == "again":
            await engine.redrive(name, random.choice(names))
        elif action == "discard":
            await engine.broker.discard([engine.id(name)])
        elif action == "remove":
            await engine.remove(name)
        else:
            await engine.broker.clean("dead", random.randrange(1, 3), engine.now)
        found = [job_id for ids in (await state(engine)).values() for job_id in ids]
        dead = await engine.redis.zrange(engine.keys.key("dead"), 0, -1)
        assert sorted(found) == sorted(job_id.decode().rpartition(":")[2] for job_id in dead), f"seed {seed}"
