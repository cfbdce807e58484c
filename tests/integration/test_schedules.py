"""Schedules made at run time: added, looked at, changed, paused, run now and removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daemon.errors import InvalidJob, RedisFull, ScheduleConflict, ScheduleNotFound, TooLarge
from daemon.family import Fixed
from daemon.keys import FamilyKeys
from daemon.payload import Payload, schema_mark
from daemon.producer import Producer
from daemon.schedules import Schedules
from daemon.scheduling.schedule import read_schedule
from tests.conftest import RedisServerFactory
from tests.engine import eventually

KEYS = FamilyKeys.of("t")
#: Runs that begin then are the same before and after midnight of any day on which tests run.
SOON = datetime(2040, 1, 1, tzinfo=UTC)


class Work(Payload, family="t", priority="high"):
    """A payload with a priority and a dedup key of its own."""

    name: str

    def dedup_key(self) -> str:
        return f"work-{self.name}"


@pytest.fixture
async def schedules(redis_url: str) -> AsyncIterator[Schedules]:
    async with Schedules.connect(redis_url) as found:
        yield found


async def keys(schedules: Schedules) -> set[bytes]:
    return {key for key in await schedules.redis.keys("*") if not key.startswith(b"arqd:")}


async def test_one_is_added_and_listed(schedules: Schedules) -> None:
    before = datetime.now(UTC)
    options: Any = {"backoff": Fixed(3), "timeout": "2m", "tags": ("x",), "group": "acme"}
    await schedules.add("s", "work", {"a": [1]}, family="t", cron="@hourly", timezone="Europe/Berlin", **options)
    await schedules.add("s", "other", family="u", every="30s", start=SOON, end=SOON + timedelta(hours=1), count=9)
    first, second = await schedules.list()
    assert (first.name, first.family, first.function, first.payload) == ("t:s", "t", "work", {"a": [1]})
    assert (first.cron, first.timezone, first.state, first.source) == ("@hourly", "Europe/Berlin", "active", "runtime")
    assert (first.runs, first.last_run, first.missed, first.count) == (0, None, "run_once", None)
    assert first.options == {"backoff": [3, 0, None, 0], "timeout": 120, "tags": ["x"], "group": "acme"}
    assert len(first.next_runs) == 3
    assert before < first.next_runs[0] <= before + timedelta(hours=1, minutes=1)
    assert first.next_runs[2] - first.next_runs[0] == timedelta(hours=2)
    assert (second.cron, second.start, second.end, second.count) == (
        "@every 30s", SOON, SOON + timedelta(hours=1), 9,
    )  # fmt: skip
    assert second.next_runs == [SOON + timedelta(seconds=30 * n) for n in range(3)]
    assert [info.name for info in await schedules.list("u")] == ["u:s"]
    assert await schedules.list("nothing") == []


async def test_a_payload_brings_function_family_priority_and_key(schedules: Schedules) -> None:
    info = await schedules.add("s", Work(name="ada"), every=60)
    assert (info.name, info.function, info.payload) == ("t:s", "work", {"name": "ada"})
    assert info.options == {"priority": 3, "dedup_key": "work-ada"}
    info = await schedules.add("other", Work(name="ada"), every=60, priority="low", dedup_key="mine")
    assert info.options == {"priority": "low", "dedup_key": "mine"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "give cron or every"),
        ({"cron": "@daily", "every": 3}, "give cron or every"),
        ({"cron": "0 0 * *"}, "schedule 's': cron '0 0 \\* \\*': wrong number of fields"),
        ({"every": 0}, "the shortest period is a second"),
        ({"every": "soon"}, "'soon' is not a duration"),
        ({"cron": "@daily", "timezone": "Mars"}, "no time zone 'Mars'"),
        ({"cron": "@daily", "start": datetime(2030, 1, 1)}, "start .* has no time zone"),  # noqa: DTZ001
        ({"cron": "@daily", "end": datetime(4000, 1, 1, tzinfo=UTC)}, "is not a time between 1970 and 3084"),
        ({"cron": "@daily", "end": datetime(2020, 1, 1, tzinfo=UTC)}, "its end has passed"),
        ({"cron": "@daily", "start": SOON, "end": SOON - timedelta(1)}, "its end is before its start"),
        ({"cron": "@daily", "count": 0}, "count is 1 or more, not 0"),
        ({"cron": "@daily", "missed": "sometimes"}, "missed 'sometimes' is not one of run_once, skip, run_all"),
        ({"cron": "@daily", "priority": 11}, "priority 11 is not a level"),
        ({"cron": "@daily", "max_tries": 0}, "max_tries is the total number of tries"),
        ({"cron": "@daily", "colour": "red"}, "unknown options \\['colour'\\]"),
        ({"cron": "@daily", "tags": "one"}, "tags 'one' is not a list of words"),
        ({"cron": "@daily", "run_at": SOON}, "run_at cannot be an option of its jobs"),
        ({"cron": "@daily", "job_id": "x"}, "job_id cannot be an option of its jobs \\(a dedup_key can\\)"),
        ({"cron": 3}, "are text"),
        ({"cron": "@daily", "count": "3"}, "count is 1 or more, not '3'"),
        ({"cron": "@daily", "template": "x"}, "template cannot be an option of its jobs"),
        ({"cron": "@daily", "dedup_mode": "drop"}, "give that too"),
        ({"cron": "@daily", "family": "T T"}, "family 'T T' must match"),
        ({"cron": "@daily", "family": None}, "family None must match"),
        ({"cron": "@daily", "name": "a b"}, "must be plain text of 1 to 128 characters without blanks"),
        ({"cron": "@daily", "name": ""}, "must be plain text"),
        ({"cron": "@daily", "name": "x" * 129}, "must be plain text"),
        ({"cron": "@daily", "name": "a\nb"}, "must be plain text"),
        ({"cron": "@daily", "job": ""}, "'' is not a function's name"),
        ({"cron": "@daily", "job": 7}, "int is no payload"),
        ({"cron": "@daily", "job": Work(name="x"), "payload": {}}, "give a payload or a function's name"),
        ({"cron": "@daily", "payload": {"a": object()}}, "payload cannot be written as JSON"),
        ({"cron": "@daily", "payload": {"a": 10**4300}}, "payload has an integer of more than 4,300 digits"),
        ({"cron": "@daily", "payload": "text"}, "a payload is its fields, or a list"),
    ],
)
async def test_a_bad_one_is_refused_at_once(schedules: Schedules, arguments: dict[str, Any], said: str) -> None:
    given = {"name": "s", "job": "work", "family": "t", **arguments}
    with pytest.raises(InvalidJob, match=said) as refused:
        await schedules.add(given.pop("name"), given.pop("job"), given.pop("payload", None), **given)
    assert "\n" not in str(refused.value)
    assert await keys(schedules) == set()


async def test_a_payload_over_the_limit_is_refused(schedules: Schedules) -> None:
    with pytest.raises(TooLarge):
        await schedules.add("s", "work", {"a": "x" * 1_000_001}, family="t", every=60)


async def test_a_name_is_given_once(schedules: Schedules) -> None:
    results = await asyncio.gather(
        *(schedules.add("s", f"work{n}", family="t", every=60) for n in range(5)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, BaseException)]
    assert [type(error) for error in refused] == [ScheduleConflict] * 4
    assert "there is a schedule t:s already" in str(refused[0])


async def test_an_unknown_one(schedules: Schedules) -> None:
    calls = (schedules.get, schedules.pause, schedules.resume, schedules.run_now, schedules.remove, schedules.change)
    for call in calls:
        with pytest.raises(ScheduleNotFound, match="there is no schedule t:s"):
            await call("t:s")
        with pytest.raises(InvalidJob, match="write it as family:name"):
            await call("s")
    assert await keys(schedules) == set()


async def test_pause_and_resume(schedules: Schedules) -> None:
    before = await schedules.add("s", "work", family="t", cron="@daily", start=SOON)
    assert [await schedules.pause("t:s"), await schedules.pause("t:s")] == [True, False]
    paused = await schedules.get("t:s")
    assert (paused.state, paused.next_runs) == ("paused", [])
    assert await schedules.redis.zcard(KEYS.key("ticks")) == 0
    assert [await schedules.resume("t:s"), await schedules.resume("t:s")] == [True, False]
    assert await schedules.get("t:s") == before


async def test_run_now(schedules: Schedules, producer: Producer) -> None:
    await schedules.add("s", "work", {"a": 1}, family="t", cron="@yearly", start=SOON, tags=["x"])
    before = await schedules.get("t:s")
    await schedules.pause("t:s")
    first, second = [await schedules.run_now("t:s") for _ in range(2)]
    assert first != second
    assert first.startswith("t:s:")
    info = await producer.job(first).info()
    assert (info.function, info.payload, info.tags) == ("work", {"a": 1}, ["x", "schedule:s"])
    await schedules.resume("t:s")
    assert await schedules.get("t:s") == before, "a run is no tick"


async def test_run_now_tells_of_the_job_that_has_the_key(schedules: Schedules) -> None:
    await schedules.add("s", "work", family="t", cron="@yearly", dedup_key="one")
    assert len({await schedules.run_now("t:s") for _ in range(3)}) == 1


async def test_change(schedules: Schedules) -> None:
    await schedules.add("s", "work", {"a": 1}, family="t", cron="@daily", start=SOON, priority="high", timeout=9)
    before = await schedules.get("t:s")
    after = await schedules.change(
        "t:s", payload={"b": 2}, function="other", priority=None, timeout="1m", missed="skip"
    )
    assert (after.function, after.payload, after.missed) == ("other", {"b": 2}, "skip")
    assert after.options == {"timeout": 60}
    assert after.next_runs == before.next_runs
    after = await schedules.change("t:s", every="1h", timezone="Asia/Tokyo", start=SOON, count=2)
    assert (after.cron, after.timezone, after.count) == ("@every 3600s", "Asia/Tokyo", 2)
    assert after.next_runs == [SOON, SOON + timedelta(hours=1)]
    assert (await schedules.change("t:s", cron="@daily", every=None)).cron == "@daily"
    after = await schedules.change("t:s", start=None, end=datetime(2020, 1, 1, tzinfo=UTC))
    assert (after.state, after.next_runs) == ("ended", [])
    after = await schedules.change("t:s", end=None)
    assert after.state == "active"


async def test_the_release_of_a_payload_goes_with_it(schedules: Schedules) -> None:
    async def schema() -> str:
        found = await read_schedule(schedules.redis, KEYS, "s")
        assert found is not None
        return found.schedule.schema

    await schedules.add("s", Work(name="ada"), every=60)
    assert await schema() == schema_mark(Work)
    job = await schedules.run_now("t:s")
    raw = await schedules.redis.get(f"arq:job:{{t}}:{job.partition(':')[2]}")
    assert f"\t{schema_mark(Work)}\n".encode() in raw
    await schedules.change("t:s", priority=9)
    assert await schema() == schema_mark(Work)
    await schedules.change("t:s", payload={"name": "bob"})
    assert await schema() == ""
    info = await schedules.change("t:s", payload=Work(name="eve"))
    assert (info.payload, await schema()) == ({"name": "eve"}, schema_mark(Work))


async def test_a_change_does_not_end_a_pause(schedules: Schedules) -> None:
    await schedules.add("s", "work", family="t", cron="@daily")
    await schedules.pause("t:s")
    assert (await schedules.change("t:s", cron="@hourly")).state == "paused"
    await schedules.resume("t:s")
    info = await schedules.get("t:s")
    assert info.next_runs[1] - info.next_runs[0] == timedelta(hours=1)


async def test_a_bad_change_changes_nothing(schedules: Schedules) -> None:
    before = await schedules.add("s", "work", family="t", cron="@daily", start=SOON)
    for changes in (
        {"cron": "bad"}, {"cron": "@daily", "every": 3}, {"priority": 11}, {"colour": 1}, {"count": 0},
        {"cron": None}, {"every": None}, {"cron": None, "every": None}, {"cron": None, "timezone": "Asia/Tokyo"},
        {"function": None}, {"missed": None}, {"timezone": None},
    ):  # fmt: skip
        with pytest.raises(InvalidJob):
            await schedules.change("t:s", **changes)
    assert await schedules.get("t:s") == before


async def test_changes_of_several_at_once_are_all_made(schedules: Schedules) -> None:
    await schedules.add("s", "work", family="t", cron="@daily")
    await asyncio.gather(
        schedules.change("t:s", priority=2), schedules.change("t:s", group="acme"), schedules.change("t:s", count=7)
    )
    info = await schedules.get("t:s")
    assert (info.options, info.count) == ({"priority": 2, "group": "acme"}, 7)


async def test_remove(schedules: Schedules) -> None:
    await schedules.add("s", "work", family="t", cron="@daily")
    await schedules.remove("t:s")
    assert await keys(schedules) == set()
    await schedules.add("s", "work", family="t", cron="@daily")


async def test_what_is_no_schedule_is_listed_and_can_be_removed(schedules: Schedules) -> None:
    await schedules.add("s", "work", family="t", cron="@daily")
    nowhere = b'{"name": "bad", "function": "f", "expression": "* * * * *", "timezone": "Mars/Phobos"}'
    for raw in (b"garbage", b'{"name": "bad", "function": "f", "expression": 3}', nowhere):
        await schedules.redis.hset(KEYS.key("schedules"), "bad", raw)
        await schedules.redis.zadd(KEYS.key("ticks"), {"bad": 5})
        bad, good = await schedules.list("t")
        assert (bad.name, bad.state, bad.next_runs) == ("t:bad", "unreadable", [])
        assert good.state == "active"
        await schedules.remove("t:bad")
    assert [info.name for info in await schedules.list("t")] == ["t:s"]


async def test_a_full_server_refuses_a_new_one(redis_server: RedisServerFactory) -> None:
    server = redis_server(maxmemory="100mb", maxmemory_policy="noeviction")
    async with Schedules.connect(server.url) as schedules:
        await schedules.add("s", "work", family="t", cron="@daily")
        await schedules.redis.config_set("maxmemory", 1)
        with pytest.raises(RedisFull):
            await schedules.add("other", "work", family="t", cron="@daily")
        assert await schedules.pause("t:s")
        assert [info.name for info in await schedules.list()] == ["t:s"]


async def test_leading_is_not_needed_to_know_what_is_due(schedules: Schedules) -> None:
    """Nobody makes ticks here: they stay due, and are told so."""
    await schedules.add("s", "work", family="t", every=1)

    async def over() -> bool:
        return (await schedules.get("t:s")).next_runs[0] < datetime.now(UTC)

    await eventually(over)
