"""Dead letters are sent back with care: canaries, rate, stop when the cause comes back."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from daemon import dead_letters, redrive
from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import InvalidJob, JobNotFound, JobStateError, PermanentError, RedisUnavailable
from daemon.family import func
from daemon.inspector import Inspector
from daemon.pages import JobFilter
from daemon.producer import Producer
from daemon.redrive import Redrive, RedriveState, Redriven
from tests.engine import eventually, make_family, run_burst, working

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
    RAN["divide", n] += 1
    if "divide" not in FIXED:
        raise PermanentError(f"order {n}-{n:x} is empty")
    return n


BUGS = ("lookup", "parse", "divide")


def family(**values: Any) -> Any:
    return make_family("t", lookup, parse, divide, **{"max_tries": 1, "max_jobs": 100, "keep_completed": None, **values})


@pytest.fixture
def control(producer: Producer) -> Control:
    return Control(producer.redis, ["t", "u"])


async def bury(redis_url: str, producer: Producer, count: int, *bugs: str, **options: Any) -> None:
    """Make so many dead letters of each bug."""
    for bug in bugs:
        await producer.enqueue_many(bug, ([n] for n in range(count)), family="t", **options)
    await run_burst(redis_url, family(), timeout=60)
    RAN.clear()


async def cause_of(control: Control, bug: str) -> str:
    (found,) = [g for g in await dead_letters.groups(control.inspector) if g.functions == (bug,)]
    return found.id


def ended(groups: list[Redriven]) -> dict[str, tuple[str, int, int, int, int]]:
    return {one.group.functions[0]: (one.state, one.found, one.retried, one.left, one.came_back) for one in groups}


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
        work = Redrive(control, "t", rate=5000)
        groups = await asyncio.wait_for(work.run(), 60)
        found = ended(groups)
        assert found["parse"] == ("done", 1000, 1000, 0, 0)
        for bug in ("lookup", "divide"):
            assert found[bug][:4] == ("came_back", 1000, 3, 997)
            assert 1 <= found[bug][4] <= 3

        async def through() -> bool:
            queue = await control.inspector.queue("t")
            return (queue.completed, queue.failed) == (1000, 2000)

        await eventually(through, 30)
    assert RAN == {("parse", n): 1 for n in range(1000)} | {(bug, n): 1 for bug in ("lookup", "divide") for n in range(3)}
    after = {g.functions: g.count for g in await dead_letters.groups(control.inspector)}
    assert after == {("lookup",): 1000, ("divide",): 1000}
