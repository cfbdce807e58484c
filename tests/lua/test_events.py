"""Events: what each call tells, in one entry, and that the stream stays within its bytes."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from daemon.events import KINDS, Event, EventReader, Since
from daemon.flows.broker import ChildEnd, FlowBroker, FlowJob
from daemon.job import new_id, new_ids
from tests.engine import calls
from tests.lua.conftest import Fill
from tests.lua.state import A, B, Engine, Mine
from tests.marks import stock_ids

Told = tuple[str, str, str, int | None, float | None, str]


async def events(engine: Engine, since: Since = "start") -> list[Event]:
    return [event async for event in EventReader(engine.redis, None, [engine.keys.family], since).present()]


async def told(engine: Engine) -> list[Told]:
    """Everything told so far: kind, job, function, try, seconds, detail."""
    return [
        (event.kind, event.id.removeprefix("email:"), event.function, event.job_try, event.duration, event.detail)
        for event in await events(engine)
    ]


async def entries(engine: Engine) -> int:
    return int(await engine.redis.xlen(engine.keys.key("events")))


async def _progress(engine: Engine) -> None:
    await engine.take("a")
    assert await engine.broker.progress(A, engine.id("a"), 40, "4 of 10\tpages", "send\t1")


async def _settled(engine: Engine, kind: str) -> None:
    mine = await engine.take("a")
    await engine.settle(getattr(mine, kind)())


async def _second_try(engine: Engine) -> None:
    await engine.settle((await engine.take("a")).retry(0))
    assert await engine.claim()


async def _crash(engine: Engine) -> None:
    await engine.sync(B)
    await engine.take("a", B)
    await engine.pass_time(engine.lease + 1, A)
    await engine.tick()


async def _abort(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.abort("a")


async def _clear(engine: Engine) -> None:
    await engine.enqueue("a")
    assert await engine.broker.drain(10) == 1


async def _remove(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.remove("a")


async def _clean(engine: Engine) -> None:
    await engine.settle((await engine.take("a")).complete())
    assert await engine.broker.clean("completed", 10, engine.now) == 1


async def _redrive(engine: Engine) -> None:
    await engine.settle((await engine.take("a")).bury())
    await engine.redrive("a")


async def _promote(engine: Engine) -> None:
    await engine.enqueue(engine.job("a", delay=60_000))
    assert await engine.broker.promote([engine.id("a")]) == ["promoted"]


async def _reprioritize(engine: Engine) -> None:
    await engine.enqueue("a")
    assert await engine.broker.reprioritize([engine.id("a")], 3) == ["changed"]


async def _replace(engine: Engine) -> None:
    for name in "ab":
        job = engine.job(name)
        await engine.broker.enqueue([job._replace(when="now replace 0 key")])


async def _pause(engine: Engine) -> None:
    assert await engine.broker.pause(True)
    assert not await engine.broker.pause(True)


async def _resume(engine: Engine) -> None:
    await engine.broker.pause(True)
    assert await engine.broker.pause(False)


async def _lost_claim(engine: Engine) -> None:
    await engine.take("a")
    await engine.sync(A)


async def _enqueue(engine: Engine) -> None:
    await engine.enqueue("a")


async def _delayed(engine: Engine) -> None:
    await engine.enqueue(engine.job("a", delay=90_000))


async def _claimed(engine: Engine) -> None:
    await engine.take("a")


async def _unblock(engine: Engine) -> None:
    flows = FlowBroker(engine.redis, engine.keys, engine.now)
    parent = FlowJob(engine.job("a"), "", [engine.id("b")])
    assert await flows.commit("0" * 16, [engine.keys.family], parent, 0, [])
    end = ChildEnd(
        *(value.encode() for value in (engine.id("a"), engine.id("b"), "0" * 16, "fail", "0", "1-0", "c")), "", b"[]"
    )
    await flows.end([end])


def _outcome(kind: str) -> Callable[[Engine], Awaitable[None]]:
    async def settled(engine: Engine) -> None:
        await _settled(engine, kind)

    return settled


CASES: dict[str, tuple[Callable[[Engine], Awaitable[None]], Told]] = {
    "enqueued": (_enqueue, ("enqueued", "a", "send", None, None, "")),
    "enqueued for later": (_delayed, ("enqueued", "a", "send", None, None, "for 90 s later")),
    "replaced": (_replace, ("replaced", "a", "send", None, None, "")),
    "started": (_claimed, ("started", "a", "send", None, None, "")),
    "started again": (_second_try, ("started", "a", "send", 2, None, "")),
    "progress": (_progress, ("progress", "a", "send", 1, None, "40 4 of 10\tpages")),
    "completed": (_outcome("complete"), ("completed", "a", "send", 1, 0.02, "")),
    "retrying": (_outcome("retry"), ("retrying", "a", "send", 1, 0.02, "")),
    "failed": (_outcome("bury"), ("failed", "a", "send", 1, 0.02, "")),
    "expired": (_outcome("expire"), ("expired", "a", "send", 1, 0.02, "")),
    "aborted": (_outcome("abort"), ("aborted", "a", "send", 1, 0.02, "")),
    "aborted before it ran": (_abort, ("aborted", "a", "send", None, None, "")),
    "released": (_outcome("release"), ("released", "a", "send", 1, 0.02, "")),
    "parked": (_outcome("park"), ("parked", "a", "send", 1, 0.02, "")),
    "released since its claim was not heard of": (_lost_claim, ("released", "a", "send", None, None, "")),
    "crashed": (_crash, ("crashed", "a", "send", None, None, "")),
    "unblocked": (_unblock, ("unblocked", "a", "send", None, None, "")),
    "cleared": (_clear, ("removed", "a", "send", None, None, "")),
    "removed": (_remove, ("removed", "a", "send", None, None, "")),
    "cleaned": (_clean, ("removed", "a", "", None, None, "")),
    "redriven": (_redrive, ("redriven", "a", "send", None, None, "")),
    "promoted": (_promote, ("promoted", "a", "send", None, None, "")),
    "reprioritized": (_reprioritize, ("reprioritized", "a", "send", None, None, "priority 3")),
    "paused": (_pause, ("paused", "", "", None, None, "")),
    "resumed": (_resume, ("resumed", "", "", None, None, "")),
}


@pytest.mark.parametrize("case", CASES)
async def test_each_kind(engine: Engine, case: str) -> None:
    happen, expected = CASES[case]
    await happen(engine)
    assert (await told(engine))[-1] == expected


def test_every_kind_is_tested() -> None:
    assert {expected[0] for _, expected in CASES.values()} == set(KINDS)


async def test_a_life_in_order_with_its_times(engine: Engine) -> None:
    await engine.enqueue("a")
    engine.advance(5)
    (mine,) = await engine.claim()
    engine.advance(10)
    await engine.settle(mine.complete())
    found = [(event.kind, round(event.at.timestamp() * 1000) - engine.now) for event in await events(engine)]
    assert found == [("enqueued", -15), ("started", -10), ("completed", 0)]


async def test_a_call_writes_one_entry_and_a_call_with_nothing_to_tell_none(redis_url: str, engine: Engine) -> None:
    await engine.enqueue(*(f"j{n}" for n in range(300)))
    assert await entries(engine) == 1
    claimed = await engine.claim(wanted=100)
    assert await entries(engine) == 2
    before = calls(redis_url, "xadd")
    await engine.settle(*(mine.complete() for mine in claimed), wanted=100)
    assert calls(redis_url, "xadd") - before == 1
    await engine.settle(wanted=0)
    await engine.enqueue("j0")
    assert await entries(engine) == 3
    assert len(await events(engine)) == 600


async def test_neighbours_that_differ_in_their_job_alone_share_kind_and_detail(engine: Engine) -> None:
    await engine.enqueue(*"abc", engine.job("d", delay=5000), "e")
    await engine.enqueue("f")
    found = [fields[b"e"] for _, fields in await engine.redis.xrange(engine.keys.key("events"))]
    assert [text.decode().split("\n") for text in found] == [
        ["enqueued\t3\t{email}:", "send", "a", "b", "c",
         "enqueued", "send\t\t\tfor 5 s later", "{email}:d", "enqueued", "send", "{email}:e"],
        ["enqueued", "send", "{email}:f"],
    ]  # fmt: skip
    assert [event.id for event in await events(engine)] == [f"email:{name}" for name in "abcdef"]


@pytest.mark.parametrize(
    "names",
    [
        ["a", "ab", "abc"],
        ["abc", "abd", "b", "abe"],
        ["order\t1", "order\t2"],
        ["r\u00e9", "r\u00e8", "r\u00ea"],
        ["\U0001f600", "\U0001f601", "\U0001f602 x"],
        ["q(.-)%d+", "q(.-)%d+]", "q(.-)%d"],
        new_ids(300),
        [new_id() for _ in range(50)],
    ],
    ids=["each longer", "one apart", "tabs", "inside a character", "a long one", "a pattern", "at once", "singly"],
)
async def test_what_neighbours_ids_begin_with_is_told_once(engine: Engine, names: list[str]) -> None:
    await engine.enqueue(*names)
    ((_, fields),) = await engine.redis.xrange(engine.keys.key("events"))
    assert fields[b"e"].count(b"{email}:") == 1
    assert [event.id for event in await events(engine)] == [f"email:{name}" for name in names]


async def test_an_event_of_a_job_that_came_with_many_takes_a_dozen_bytes(engine: Engine) -> None:
    await engine.enqueue(*new_ids(1000))
    assert await engine.redis.memory_usage(engine.keys.key("events"), samples=0) < 16_000


async def test_a_refused_outcome_is_no_event(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.settle(mine.complete())
    before = await told(engine)
    assert (await engine.settle(mine.complete(), Mine(mine.claim, 99).bury())).refused
    assert await told(engine) == before


async def test_a_position_goes_on_inside_an_entry(engine: Engine) -> None:
    await engine.enqueue(*"abc")
    await engine.enqueue("d")
    found = await events(engine)
    for number, event in enumerate(found):
        assert await events(engine, event.position) == found[number + 1 :]
    engine.advance(10)
    await engine.enqueue("e")
    assert [event.id for event in await events(engine, found[0].at)] == [f"email:{name}" for name in "abcde"]


@pytest.mark.parametrize(("at_once", "budget"), [(1, 20_000), (1, 200_000), (40, 60_000), (1000, 500_000)])
async def test_the_stream_stays_within_its_bytes_and_keeps_the_newest(
    engine: Engine, at_once: int, budget: int
) -> None:
    await engine.sync(max_events=budget)
    engine.checked = False
    rand, told, used, most = random.Random(at_once), list[str](), 0, 0
    for _ in range(3 * budget // (80 * at_once) + 10):
        names = [rand.randbytes(16).hex() for _ in range(rand.randint(1, at_once))]
        told += names
        await engine.enqueue(*names)
        engine.advance(rand.choice((0, 1, 50)))
        used = int(await engine.redis.memory_usage(engine.keys.key("events"), samples=0))
        most = max(most, used)
    # An allocator rounds up: jemalloc's sizes are a quarter apart.
    assert most <= 1.3 * budget + 4096
    found = [event.id for event in await events(engine)]
    assert found == [f"email:{name}" for name in told[-len(found) :]]
    assert used > budget / 2


def _unlike(call: int, count: int) -> list[str]:
    """Names of jobs that have nothing in common."""
    return [random.Random(f"{call} {n}").randbytes(16).hex() for n in range(count)]


async def test_a_smaller_bound_is_reached_soon(engine: Engine) -> None:
    engine.checked = False
    for call in range(40):
        await engine.enqueue(*_unlike(call, 500))
    await engine.sync(max_events=50_000)
    for call in range(40, 55):
        await engine.enqueue(*_unlike(call, 100))
    assert await engine.redis.memory_usage(engine.keys.key("events"), samples=0) < 65_000


async def test_no_events_are_written_and_none_are_left_when_they_are_switched_off(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.sync(max_events=0)
    await engine.settle((await engine.claim())[0].complete())
    assert await entries(engine) == 0
    await engine.sync(max_events=1000)
    await engine.enqueue("b")
    assert await told(engine) == [("enqueued", "b", "send", None, None, "")]


async def test_a_producer_alone_keeps_to_the_usual_bound(engine: Engine) -> None:
    await engine.redis.flushall()
    engine.checked = False
    for call in range(60):
        await engine.enqueue(*_unlike(call, 1000))
    # Of an entry of so many bytes the allocator of Redis may round up by a quarter.
    assert 1_500_000 < await engine.redis.memory_usage(engine.keys.key("events"), samples=0) < 2_600_000


async def test_a_clock_that_goes_back_loses_no_event(engine: Engine) -> None:
    await engine.enqueue("a")
    engine.advance(-5000)
    await engine.enqueue("b")
    engine.advance(1)
    await engine.enqueue("c")
    assert [event.id for event in await events(engine)] == ["email:a", "email:b", "email:c"]


async def test_a_strange_key_in_its_place_stops_nothing(engine: Engine) -> None:
    await engine.redis.set(engine.keys.key("events"), "strange")
    mine = await engine.take("a")
    assert (await engine.settle(mine.complete())).refused == []
    assert await engine.total("completed") == 1


async def test_a_full_server_goes_on(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    mine = await engine.take("a")
    await fill()
    await engine.settle(mine.complete())
    assert [event.kind for event in await events(engine)] == ["enqueued", "started", "completed"]


@stock_ids
@pytest.mark.parametrize("name", ["two words", "a\nb", "\n\n\n", "tab\tbed", ""])
async def test_any_id_of_a_stock_producer_is_told(engine: Engine, name: str) -> None:
    redis: Any = engine.redis
    await redis.set(f"arq:job:{name}", b"stock")
    await redis.zadd(engine.keys.queue, {name: engine.now})
    await engine.enqueue("after")
    await engine.claim(wanted=2)
    found = {(event.kind, event.id) for event in await events(engine)}
    assert ("started", name.replace("\n", " ")) in found
    assert ("started", "email:after") in found
