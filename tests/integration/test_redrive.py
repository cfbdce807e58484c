"""Dead letters are sent back with care: canaries, a rate, a stop when the cause comes back."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from daemon import dead_letters
from daemon.broker import Broker
from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import InvalidJob, JobNotFound, JobStateError, PermanentError, RedisUnavailable
from daemon.family import func
from daemon.pages import JobFilter
from daemon.producer import Producer
from daemon.redrive import Redrive, Redriven
from tests.engine import eventually, make_family, run_burst, working
from tests.servers import free_port

#: Bugs that are fixed, and how often each job ran.
FIXED: set[str] = set()
RAN: Counter[tuple[str, int]] = Counter()


@pytest.fixture(autouse=True)
def _nothing_is_fixed() -> Iterator[None]:
    # A line for each of thousands of dead letters is not what is tested here.
    logger = logging.getLogger("arqd.job")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    FIXED.clear()
    RAN.clear()
    yield
    logger.setLevel(level)


async def lookup(ctx: JobContext, n: int) -> int:
    RAN["lookup", n] += 1
    if "lookup" not in FIXED:
        raise KeyError(f"customer-{n}")
    return n


async def parse(ctx: JobContext, n: int) -> int:
    RAN["parse", n] += 1
    if "parse" not in FIXED:
        raise ValueError(f"row {n} has {n % 7} columns, not 8")
    return n


async def divide(ctx: JobContext, n: int) -> int:
    """Fails; once fixed only for large numbers, once renamed in another way, and stuck once stuck."""
    RAN["divide", n] += 1
    if "renamed" in FIXED:
        raise LookupError("now in another way")
    if "stuck" in FIXED:
        await asyncio.Event().wait()
    if "divide" not in FIXED and (n >= 100 or "partly" not in FIXED):
        raise PermanentError(f"order {n}-{n:x} is empty")
    return n


BUGS = ("lookup", "parse", "divide")


def family(*more: Any, **values: Any) -> Any:
    return make_family(
        "t", lookup, parse, divide, *more, **{"max_tries": 1, "max_jobs": 100, "keep_completed": None, **values}
    )


@pytest.fixture
def control(producer: Producer) -> Control:
    return Control(producer.redis, ["t", "u"])


async def bury(redis_url: str, producer: Producer, count: int, *bugs: str) -> None:
    """Make so many dead letters of each bug."""
    for bug in bugs:
        await producer.enqueue_many(bug, ([n] for n in range(count)), family="t")
    await run_burst(redis_url, family(), timeout=60)
    RAN.clear()


async def group_of(control: Control, bug: str) -> dead_letters.DeadGroup:
    (found,) = [g for g in await dead_letters.groups(control.inspector) if g.functions == (bug,)]
    return found


def ran(bug: str) -> int:
    return sum(count for (name, _), count in RAN.items() if name == bug)


def told(one: Redriven) -> tuple[str, int, int, int]:
    return str(one.state), one.found, one.retried, one.left


async def test_three_bugs_are_three_groups_and_the_fixed_one_goes_back_whole(
    redis_url: str, producer: Producer, control: Control
) -> None:
    await bury(redis_url, producer, 1000, *BUGS)
    before = await dead_letters.groups(control.inspector, "t")
    assert sorted((g.functions, g.count, g.type, g.message) for g in before) == [
        (("divide",), 1000, "PermanentError", "order # is empty"),
        (("lookup",), 1000, "KeyError", "'…'"),
        (("parse",), 1000, "ValueError", "row # has # columns, not #"),
    ]
    FIXED.add("parse")
    async with working(redis_url, family()):
        groups = await asyncio.wait_for(Redrive(control, "t", rate=5000).run(), 60)
        found = {one.group.functions[0]: told(one) for one in groups}
        stopped = ("came_back", 1000, 3, 997)
        assert found == {"parse": ("done", 1000, 1000, 0), "lookup": stopped, "divide": stopped}

        async def through() -> bool:
            queue = await control.inspector.queue("t")
            return (queue.completed, queue.failed) == (1000, 2000)

        await eventually(through)
    assert [ran(bug) for bug in BUGS] == [3, 1000, 3]
    assert set(RAN.values()) == {1}
    after = {g.functions: g.count for g in await dead_letters.groups(control.inspector)}
    assert after == {("lookup",): 1000, ("divide",): 1000}


async def test_a_dry_run_counts_and_changes_nothing(redis_url: str, producer: Producer, control: Control) -> None:
    await producer.enqueue_many("parse", ([n] for n in range(3)), family="t", tags=["blue"])
    await bury(redis_url, producer, 5, *BUGS)
    parse = await group_of(control, "parse")
    for where, expected in (
        (JobFilter(), {"parse": 8, "lookup": 5, "divide": 5}),
        (JobFilter(cause=parse.id), {"parse": 8}),
        (JobFilter(error="KeyError"), {"lookup": 5}),
        (JobFilter(function="divide"), {"divide": 5}),
        (JobFilter(tag="blue"), {"parse": 3}),
        (JobFilter(tag="blue", cause=parse.id), {"parse": 3}),
        (JobFilter(tag="blue", function="lookup"), {}),
        (JobFilter(until=parse.first), {}),
    ):
        found = await Redrive(control, "t", where).look()
        assert {one.group.functions[0]: one.found for one in found} == expected
        assert all(told(one) == ("found", one.found, 0, one.found) for one in found)
    assert (await control.inspector.queue("t")).failed == 18


async def test_only_what_the_filter_lets_through_goes_back(
    redis_url: str, producer: Producer, control: Control
) -> None:
    await producer.enqueue_many("parse", ([n] for n in range(8)), family="t", tags=["blue"])
    await bury(redis_url, producer, 5, "parse")
    FIXED.add("parse")
    async with working(redis_url, family()):
        (one,) = await Redrive(control, "t", JobFilter(tag="blue"), rate=None).run()
        assert told(one) == ("done", 8, 8, 0)
        await eventually(lambda: _completed(control, 8))
    assert (await group_of(control, "parse")).count == 5


async def _completed(control: Control, count: int) -> bool:
    return (await control.inspector.queue("t")).completed == count


@pytest.mark.parametrize("tolerance", [1, 30])
async def test_the_cause_coming_back_later_stops_the_rest(
    redis_url: str, producer: Producer, control: Control, tolerance: int
) -> None:
    await bury(redis_url, producer, 100, "divide")
    # The first hundred are older than the others, which the partial fix does not help.
    await producer.enqueue_many("divide", ([n] for n in range(100, 2000)), family="t")
    await run_burst(redis_url, family(), timeout=60)
    RAN.clear()
    FIXED.add("partly")
    async with working(redis_url, family()):
        work = Redrive(control, "t", rate=1000, tolerance=tolerance)
        (one,) = await asyncio.wait_for(work.run(), 60)
    assert one.state == "came_back"
    assert one.came_back >= tolerance
    assert 100 < one.retried < 2000
    assert (one.found, one.retried + one.left) == (2000, 2000)
    assert (await control.inspector.queue("t")).completed == 100


async def test_canaries_that_fail_in_another_way_prove_nothing(
    redis_url: str, producer: Producer, control: Control
) -> None:
    await bury(redis_url, producer, 10, "divide")
    FIXED.add("renamed")
    async with working(redis_url, family()):
        (one,) = await Redrive(control, "t", canaries=2).run()
    assert told(one) == ("none_completed", 10, 2, 8)
    assert one.came_back == 0
    assert {(g.type, g.count) for g in await dead_letters.groups(control.inspector)} == {
        ("PermanentError", 8),
        ("LookupError", 2),
    }


async def test_canaries_are_not_waited_for_longer_than_asked(
    redis_url: str, producer: Producer, control: Control
) -> None:
    await bury(redis_url, producer, 10, "divide")
    FIXED.add("stuck")
    async with working(redis_url, family()):
        (one,) = await Redrive(control, "t", canaries=1, patience=0.2).run()
        assert told(one) == ("not_in_time", 10, 1, 9)


async def test_a_group_that_is_all_canaries_is_not_watched(
    redis_url: str, producer: Producer, control: Control
) -> None:
    await bury(redis_url, producer, 3, "divide")
    FIXED.add("stuck")
    async with working(redis_url, family()):
        (one,) = await Redrive(control, "t").run()
        assert told(one) == ("done", 3, 3, 0)


async def test_canaries_without_a_result_count_as_completed(
    redis_url: str, producer: Producer, control: Control
) -> None:
    await bury(redis_url, producer, 10, "parse")
    FIXED.add("parse")
    async with working(redis_url, family(keep_result=0)):
        (one,) = await Redrive(control, "t", rate=None).run()
        assert told(one) == ("done", 10, 10, 0)


async def test_without_a_worker_there_are_no_canaries(redis_url: str, producer: Producer, control: Control) -> None:
    await bury(redis_url, producer, 10, "parse")
    with pytest.raises(JobStateError, match="t has no worker, so canaries would not run"):
        await Redrive(control, "t").run()
    await control.pause("t")
    async with working(redis_url, family()):
        with pytest.raises(JobStateError, match="t is paused"):
            await Redrive(control, "t").run()
    (one,) = await Redrive(control, "t", canaries=0, rate=None).run()
    assert told(one) == ("done", 10, 10, 0)
    assert (await control.inspector.queue("t")).waiting == 10


async def test_an_interrupted_one_tells_what_was_done_and_is_simply_repeated(
    redis_url: str, producer: Producer, control: Control
) -> None:
    await bury(redis_url, producer, 300, "parse")
    FIXED.add("parse")
    progress: list[tuple[int, int]] = []
    async with working(redis_url, family()):
        first = Redrive(control, "t", rate=50)
        task = asyncio.create_task(first.run(lambda done, total: progress.append((done, total))))
        await eventually(lambda: _sent(first, 20))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (before,) = first.groups
        assert (before.state, before.found, before.retried + before.left) == ("sending", 300, 300)
        assert progress[0] == (3, 300)
        assert progress[-1] == (before.retried, 300)
        (after,) = await Redrive(control, "t", rate=None).run()
        assert after.state == "done"
        assert after.found == before.left
        await eventually(lambda: _completed(control, 300))
    assert ran("parse") == len(RAN) == 300


async def test_one_that_is_interrupted_during_a_call_tells_what_it_did(
    redis_url: str, producer: Producer, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bury(redis_url, producer, 10, "parse")
    redrive, sent, tell = Broker.redrive, asyncio.Event(), asyncio.Event()

    async def slow(self: Broker, ids: Sequence[str]) -> list[str]:
        words = await redrive(self, ids)
        sent.set()
        await tell.wait()
        return words

    monkeypatch.setattr(Broker, "redrive", slow)
    work = Redrive(control, "t", canaries=0, rate=None)
    task = asyncio.create_task(work.run())
    await sent.wait()
    task.cancel()
    await asyncio.sleep(0)
    tell.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [one.retried for one in work.groups] == [10]


async def _sent(work: Redrive, count: int) -> bool:
    return sum(one.retried for one in work.groups) > count


async def test_two_at_a_time_send_each_job_once(redis_url: str, producer: Producer, control: Control) -> None:
    await bury(redis_url, producer, 200, "parse")
    FIXED.add("parse")
    async with working(redis_url, family()):
        works = [Redrive(control, "t", rate=1000) for _ in range(2)]
        await asyncio.gather(*(work.run() for work in works))
        await eventually(lambda: _completed(control, 200))
    assert sum(one.retried for work in works for one in work.groups) == 200
    assert ran("parse") == len(RAN) == 200


async def test_a_group_of_two_functions(redis_url: str, producer: Producer, control: Control) -> None:
    async def shared(ctx: JobContext, n: int) -> None:
        raise OSError(f"disk {n} is full")

    both = [func(shared, name="one"), func(shared, name="two")]
    await producer.enqueue_many("one", [[1], [2]], family="t")
    await run_burst(redis_url, family(*both))
    newest = await producer.enqueue("two", [3], family="t")
    await run_burst(redis_url, family(*both))
    (found,) = await dead_letters.groups(control.inspector)
    assert (found.functions, found.count, found.type, found.message) == (("one", "two"), 3, "OSError", "disk # is full")
    assert found.place.startswith("tests.integration.test_redrive:test_a_group_of_two_functions")
    assert found.example == newest.id
    assert found.first < found.last
    assert await dead_letters.group(control.inspector, found.id) == found
    assert (await newest.info()).cause == found.id
    page = await control.inspector.jobs("t", "failed", where=JobFilter(cause=found.id, function="two"))
    assert [job.id for job in page] == [newest.id]
    assert page[0].cause == found.id


async def test_jobs_that_did_not_run_have_causes_too(redis_url: str, producer: Producer, control: Control) -> None:
    await producer.enqueue_many("parse", [["ten"], ["twelve"], []], family="t")
    unreadable = [(await producer.enqueue("parse", [n], family="t")).id.replace("t:", "{t}:", 1) for n in range(2)]
    for job_id in unreadable:
        await producer.redis.set("arq:job:" + job_id, b"q5 what is this")
    crashed = [(await producer.enqueue("lookup", [n], family="t")).id.replace("t:", "{t}:", 1) for n in range(2)]
    for job_id in crashed:
        await producer.redis.hset("{t}:crashes", job_id, 3)
    await run_burst(redis_url, family())
    found = {(g.type, g.place, g.functions, g.count) for g in await dead_letters.groups(control.inspector)}
    assert found == {
        ("ValidationError", "parse", ("parse",), 2),
        ("ValidationError", "parse", ("parse",), 1),
        ("Unreadable", "", (), 2),
        ("WorkerCrashed", "lookup", ("lookup",), 2),
    }
    assert await control.discard_all("t", dry_run=True) == 7
    assert await control.discard_all("t", JobFilter(error="Unreadable")) == 2
    assert await control.discard_all("t") == 5
    assert await dead_letters.groups(control.inspector) == []
    assert [key for key in await producer.redis.keys("{t}:*") if b"cause" in key] == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"canaries": -1}, "canaries are 0 to 500"),
        ({"canaries": 501}, "canaries are 0 to 500"),
        ({"rate": 0}, "rate is more than 0"),
        ({"rate": float("nan")}, "rate is more than 0"),
        ({"tolerance": 0}, "tolerance is 1 or more"),
        ({"where": JobFilter(function="x"), "family": "nowhere"}, "there is no family 'nowhere'"),
    ],
)
async def test_numbers_that_cannot_be_meant(control: Control, values: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidJob, match=said):
        Redrive(control, **{"family": "t", **values})


async def test_a_group_that_is_not_there(redis_url: str, producer: Producer, control: Control) -> None:
    await bury(redis_url, producer, 1, "parse")
    for cause in ("0123456789ab", "", "x" * 10):
        with pytest.raises(InvalidJob, match="is none: it is ten hexadecimal digits"):
            await dead_letters.group(control.inspector, cause)
    with pytest.raises(JobNotFound, match="there is no group 0123456789"):
        await Redrive(control, "t", JobFilter(cause="0123456789")).look()
    parse = await group_of(control, "parse")
    with pytest.raises(InvalidJob, match=f"group {parse.id} is one of t, not of u"):
        await Redrive(control, "u", JobFilter(cause=parse.id)).look()
    with pytest.raises(InvalidJob, match="jobs that are waiting have no cause"):
        await control.inspector.jobs("t", "waiting", where=JobFilter(cause=parse.id))
    page = await control.inspector.jobs("t", "failed", where=JobFilter(cause="0123456789"))
    assert (list(page), page.cursor) == ([], None)


async def test_redis_that_is_not_there_is_told() -> None:
    async with Control.connect(f"redis://127.0.0.1:{free_port()}/0", ["t"]) as control:
        with pytest.raises(RedisUnavailable):
            await Redrive(control, "t", canaries=0).run()
        with pytest.raises(RedisUnavailable):
            await dead_letters.groups(control.inspector)
