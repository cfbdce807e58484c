"""Due ticks and missed ones, with the scripts' own clock set by the test."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic_core import from_json

from daemon import codec
from daemon.broker import Broker
from daemon.inspecting.job_info import HELD
from daemon.keys import JOB, FamilyKeys
from daemon.producer import Producer
from daemon.records import split_record
from daemon.scheduling.crontab import Timing
from daemon.scheduling.schedule import Schedule, read_schedule
from daemon.scheduling.ticks import BATCH, GRACE_MS, RUN_ALL, Step, Ticks, step
from tests.dst import ROWS, Row

KEYS = FamilyKeys.of("t")
MINUTE = 60_000
NOON = round(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp() * 1000)
EVERY_MINUTE = Schedule("s", "work", "* * * * *")


class Bench:
    """Schedules of a family and the time of day."""

    def __init__(self, redis: Any) -> None:
        self.redis = redis
        self.ticks = Ticks(Broker(redis, KEYS, NOON))

    def at(self, ms: int) -> None:
        self.ticks.broker.now = ms

    async def plan(self, schedule: Schedule, due: int = NOON) -> None:
        assert await self.ticks.broker.plan(schedule.name, (None, None), schedule.checked().as_bytes(), due)

    async def make(self) -> float | None:
        """Make what is due; gives the seconds until more is."""
        rest: float | None = 0.0
        while rest == 0.0:
            rest = await self.ticks.make_due()
        return rest

    async def made(self) -> list[int]:
        """Minutes after noon of the ticks that were made, and their jobs taken out of the queue."""
        names = [name.decode().rpartition(":")[2] for name in await self.redis.zrange(KEYS.queue, 0, -1)]
        await self.redis.delete(KEYS.queue, *(f"{JOB}{{t}}:s:{name}" for name in names))
        return sorted((int(name) - NOON) // MINUTE for name in names)

    async def runs(self) -> int:
        found = await read_schedule(self.redis, KEYS, "s")
        assert found is not None
        return found.runs


@pytest.fixture
async def bench(producer: Producer) -> Bench:
    return Bench(producer.redis)


async def test_a_tick_is_made_at_its_time(bench: Bench) -> None:
    await bench.plan(EVERY_MINUTE)
    bench.at(NOON - 250)
    assert await bench.make() == 0.25
    assert await bench.made() == []
    bench.at(NOON)
    assert await bench.make() == 60
    assert await bench.made() == [0]
    assert await bench.make() == 60
    assert await bench.made() == []
    assert await bench.runs() == 1


async def test_nothing_is_due(bench: Bench) -> None:
    assert await bench.make() is None


@pytest.mark.parametrize("missed", ["run_once", "skip", "run_all"])
async def test_late_is_not_missed(bench: Bench, missed: Any) -> None:
    await bench.plan(replace(EVERY_MINUTE, expression="*/20 * * * * *", missed=missed))
    bench.at(NOON + GRACE_MS)
    assert await bench.make() == 20
    assert await bench.made() == [0, 0, 0, 1]
    assert await bench.runs() == 4


@pytest.mark.parametrize(
    ("missed", "made", "runs"),
    [("run_once", [0], 1), ("skip", [10], 1), ("run_all", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 11)],
)
async def test_missed_ticks(bench: Bench, missed: Any, made: list[int], runs: int) -> None:
    await bench.plan(replace(EVERY_MINUTE, missed=missed))
    bench.at(NOON + 10 * MINUTE + 59_999)
    assert await bench.make() == 0.001
    assert await bench.made() == made
    assert await bench.runs() == runs
    bench.at(NOON + 11 * MINUTE)
    await bench.make()
    assert await bench.made() == [11]


async def test_a_clock_that_was_far_ahead_does_not_silence_a_schedule(bench: Bench) -> None:
    """What it is due next was worked out by that clock."""
    await bench.plan(EVERY_MINUTE)
    await bench.make()
    bench.at(NOON + 365 * 24 * 60 * MINUTE)
    assert await bench.make() == 60
    await bench.made()
    bench.at(NOON + MINUTE + 1)
    assert await bench.make() == 59.999
    bench.at(NOON + 2 * MINUTE)
    assert await bench.make() == 60
    assert await bench.made() == [2]
    assert await bench.runs() == 3


async def test_a_clock_that_goes_back_a_little_changes_nothing(bench: Bench) -> None:
    await bench.plan(EVERY_MINUTE)
    assert await bench.make() == 60
    bench.at(NOON - 500)
    assert await bench.make() == 60.5


async def test_run_all_has_a_bound(bench: Bench) -> None:
    await bench.plan(replace(EVERY_MINUTE, missed="run_all"))
    bench.at(NOON + 1000 * MINUTE)
    assert await bench.make() == 60
    assert await bench.made() == list(range(1001 - RUN_ALL, 1001))


def test_no_looking_back_beyond_what_was_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred leap days ago is work for seconds, in the loop of a process that has jobs to run."""
    leap_days = replace(EVERY_MINUTE, expression="0 0 29 2 *", missed="run_all")
    due = round(datetime(2024, 2, 29, tzinfo=UTC).timestamp() * 1000)
    looks: list[int] = []
    look = Timing._next

    def counted(timing: Timing, ms: int, back: bool = False) -> int | None:
        looks.append(ms)
        return look(timing, ms, back)

    monkeypatch.setattr(Timing, "_next", counted)
    assert step(leap_days, due, NOON) == Step(due, round(datetime(2028, 2, 29, tzinfo=UTC).timestamp() * 1000))
    assert len(looks) < 5


@pytest.mark.parametrize("missed", ["run_once", "skip", "run_all"])
@pytest.mark.parametrize("expression", ["* * * * * *", "0 3 * * *", "@every 7s", "0 0 29 2 *"])
async def test_a_year_without_a_scheduler(bench: Bench, missed: Any, expression: str) -> None:
    """Bounded work, and due as usual afterwards."""
    schedule = replace(EVERY_MINUTE, expression=expression, missed=missed)
    now = NOON + 365 * 86_400_000
    first = schedule.timing.after(NOON)
    assert first is not None
    await bench.plan(schedule, first)
    bench.at(now)
    rest = await bench.make()
    assert rest is not None
    assert now + round(rest * 1000) == schedule.timing.after(now)
    assert len(await bench.made()) <= RUN_ALL


async def test_it_ends_after_its_count(bench: Bench) -> None:
    await bench.plan(replace(EVERY_MINUTE, count=3, missed="run_all"))
    bench.at(NOON + 90_000)
    assert await bench.make() == 30
    bench.at(NOON + 5 * MINUTE)
    assert await bench.make() is None
    assert await bench.made() == [0, 1, 2]
    assert await bench.runs() == 3


async def test_ticks_that_are_left_out_do_not_count(bench: Bench) -> None:
    await bench.plan(replace(EVERY_MINUTE, count=2, missed="skip"))
    bench.at(NOON + 10 * MINUTE + 30_000)
    await bench.make()
    assert (await bench.made(), await bench.runs()) == ([10], 1)


async def test_it_ends_at_its_end(bench: Bench) -> None:
    await bench.plan(replace(EVERY_MINUTE, end=NOON + 2 * MINUTE))
    for minute in range(5):
        bench.at(NOON + minute * MINUTE)
        await bench.make()
    assert await bench.made() == [0, 1, 2]


async def test_what_the_job_is(bench: Bench) -> None:
    options = {
        "priority": "high",
        "timeout": "2m",
        "expires": 3600,
        "group": "acme",
        "tags": ["nightly"],
        "max_tries": 2,
    }
    await bench.plan(replace(EVERY_MINUTE, payload={"a": 1}, options=options))
    await bench.make()
    raw = await bench.redis.get(f"{JOB}{{t}}:s:{NOON}")
    record = split_record(raw)
    assert (record.function, record.level, record.group, record.stamp) == ("work", 3, "acme", NOON)
    assert (record.timeout_ms, record.deadline_ms) == (120_000, NOON + 3_600_000)
    assert from_json(codec.whole_body(record.body)) == {
        "a": [{"a": 1}],
        "o": {"n": 2, "g": ["nightly", "schedule:s"]},
    }


async def test_a_delayed_job(bench: Bench) -> None:
    await bench.plan(replace(EVERY_MINUTE, options={"delay": 30}))
    await bench.make()
    assert await bench.redis.zcount(KEYS.queue, NOON + 30_000, f"({HELD}") == 1


async def test_more_schedules_than_are_looked_at_in_one_go(bench: Bench) -> None:
    count = BATCH * 2 + 50
    for n in range(count):
        await bench.plan(Schedule(f"s{n}", "work", "@daily"))
    assert await bench.make() == 43_200
    assert await bench.redis.zcard(KEYS.queue) == count


@pytest.mark.parametrize(
    "raw",
    [
        b"garbage",
        b"[]",
        b"{}",
        b'{"name": "bad", "function": "f", "expression": "never"}',
        b'{"name": "bad", "function": "f", "expression": "* * * * *", "timezone": "Mars/Phobos"}',
        b'{"name": "bad", "function": "f", "expression": "* * * * *", "options": {"of": "tomorrow"}}',
    ],
)
async def test_one_that_cannot_be_used_keeps_no_other_from_being_due(
    bench: Bench, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.ticks.broker.plan("bad", (None, None), raw, NOON - MINUTE)
    await bench.plan(EVERY_MINUTE)
    assert await bench.make() == 60
    assert await bench.made() == [0]
    await bench.make()
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert errors[0].startswith("schedule t:bad cannot be used")


async def test_what_is_no_count_stops_nothing(bench: Bench) -> None:
    await bench.plan(EVERY_MINUTE)
    await bench.redis.hset(KEYS.key("schedule:runs"), "s", "many")
    await bench.make()
    assert (await bench.made(), await bench.runs()) == ([0], 1)


async def test_what_a_newer_version_adds_is_left_out(bench: Bench) -> None:
    raw = EVERY_MINUTE.as_bytes().replace(b'"name"', b'"colour":"green","name"')
    await bench.ticks.broker.plan("s", (None, None), raw, NOON)
    await bench.make()
    assert await bench.made() == [0]


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_days_on_which_clocks_change(bench: Bench, row: Row) -> None:
    """The table of the documentation, by the scripts."""
    schedule = replace(EVERY_MINUTE, expression=row.expression, timezone=row.zone)
    due = schedule.timing.after(row.begin - 1)
    await bench.plan(schedule, due or 0)
    found = []
    while due is not None and due < row.end:
        bench.at(due)
        rest = await bench.make()
        found += [NOON + minute * MINUTE for minute in await bench.made()]
        due = None if rest is None else due + round(rest * 1000)
    assert found == row.due


def test_a_decision_needs_no_redis() -> None:
    assert step(EVERY_MINUTE, NOON, NOON) == (NOON, NOON + MINUTE)
    assert step(replace(EVERY_MINUTE, count=1), NOON, NOON) == (NOON, None)
