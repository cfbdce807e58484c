"""``cron_jobs`` of a family's settings: checked when it is loaded, made known when a worker starts, and run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from arq.cron import cron

from daemon.context import JobContext
from daemon.errors import ConfigurationError, ScheduleConflict
from daemon.family import Family, FamilySettings, crontab, func, load_family
from daemon.payload import Payload
from daemon.schedules import ScheduleInfo, Schedules
from tests.engine import eventually, make_family, run_burst, until, working


class CleanUp(Payload, family="t", priority="low"):
    older_than: str


ran: list[Any] = []


async def clean_up(ctx: JobContext, job: CleanUp) -> None:
    ran.append((job.older_than, ctx.job_id))


async def warm(ctx: JobContext) -> None:
    ran.append("warm")


async def arqs(ctx: dict[str, Any]) -> str:
    ran.append(ctx["job_id"])
    return "done"


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@pytest.fixture
async def schedules(redis_url: str) -> AsyncIterator[Schedules]:
    async with Schedules.connect(redis_url) as found:
        yield found


def family(*cron_jobs: Any, functions: Any = (clean_up,)) -> Family:
    return load_family(
        type("Settings", (FamilySettings,), {"family": "t", "functions": functions, "cron_jobs": cron_jobs})
    )


DAILY = crontab("0 2 * * *", clean_up, payload=CleanUp(older_than="1d"))
HOURLY = crontab("0 * * * *", clean_up, payload=CleanUp(older_than="1d"))


async def start(url: str, *families: Family) -> None:
    """Start a worker of these families until their schedules are known, and end it."""
    async with working(url, *families) as supervisor:
        await until(lambda: all(worker._scheduled for worker in supervisor.workers))


async def one(schedules: Schedules) -> ScheduleInfo:
    (info,) = await schedules.list()
    return info


# ---------------------------------------------------------------- loading


def test_functions_are_found_and_registered() -> None:
    loaded = family(
        crontab("@daily", clean_up, name="typed", payload=CleanUp(older_than="1d")),
        crontab("@daily", "clean_up", name="plain", payload={"older_than": "2d"}),
        crontab("@daily", warm),
        cron(arqs, hour=3),
        functions=[func(clean_up, name="clean_up", timeout=5)],
    )
    assert set(loaded.functions) == {"clean_up", "warm", "cron:arqs"}
    assert loaded.functions["clean_up"].timeout == 5
    assert {each.schedule.name: each.schedule.function for each in loaded.schedules} == {
        "typed": "clean_up",
        "plain": "clean_up",
        "warm": "warm",
        "cron:arqs": "cron:arqs",
    }


def test_cron_jobs_alone_are_enough() -> None:
    assert set(family(crontab("@daily", warm), functions=[]).functions) == {"warm"}


def test_arqs_fields_count() -> None:
    job = cron(
        arqs,
        name="nightly",
        hour=3,
        minute=12,
        job_id="only",
        timeout=7,
        max_tries=4,
        keep_result=5,
        run_at_startup=True,
    )
    loaded = family(job)
    function, (static,) = loaded.functions["nightly"], loaded.schedules
    assert (function.timeout, function.max_tries, function.keep_result) == (7, 4, 5)
    assert (static.schedule.name, static.schedule.expression) == ("nightly", "0 12 3 * * *")
    assert static.schedule.options == {"dedup_key": "only"}
    assert static.run_at_startup


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (crontab("0 2 * *", warm), "family 't': schedule 'warm': cron '0 2 \\* \\*': wrong number of fields"),
        (crontab("@daily", warm, timezone="Mars"), "no time zone 'Mars'"),
        (crontab("@daily", warm, count=0), "count is 1 or more"),
        (crontab("@daily", warm, start=datetime(2030, 1, 1)), "start .* has no time zone"),  # noqa: DTZ001
        (crontab("@daily", warm, colour=1), "unknown options \\['colour'\\]"),
        (crontab("@daily", "never"), "schedule 'never': the family has no function 'never'"),
        (crontab("@daily", 7), "crontab\\(7\\) is neither a function nor the name of one"),  # type: ignore[arg-type]
        (crontab("@daily", clean_up), "schedule 'clean_up': payload: "),
        (crontab("@daily", clean_up, payload={"older": "1d"}), "schedule 'clean_up': payload: "),
        (crontab("@daily", warm, payload={"a": 1}), "schedule 'warm': payload: "),
        (crontab("@daily", warm, payload={"a": object()}), "payload cannot be written as JSON"),
        (cron(arqs, unique=False), "cron:arqs: unique=False"),
        (cron(arqs, hour=25), "schedule 'cron:arqs': cron '0 \\* 25 \\* \\* \\*': bad hour"),
        ("0 2 * * *", "cron_jobs takes crontab\\(...\\) or arq's cron\\(...\\), not '0 2 \\* \\* \\*'"),
    ],
)
def test_a_wrong_entry_is_told_when_the_family_is_loaded(entry: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        family(entry)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("entries", [(DAILY, HOURLY), (cron(arqs, hour=1), cron(arqs, hour=2))])
def test_names_are_unique(entries: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"two cron_jobs are called .*: give one of them another name="):
        family(*entries)


# ---------------------------------------------------------------- making them known


async def test_a_worker_makes_them_known(redis_url: str, schedules: Schedules) -> None:
    await start(redis_url, family(DAILY), make_family("u", warm))
    info = await one(schedules)
    assert (info.name, info.cron, info.source, info.state) == ("t:clean_up", "0 2 * * *", "settings", "active")
    assert (info.payload, info.options) == ({"older_than": "1d"}, {"priority": 7})
    assert info.next_runs[0].hour == 2


async def test_an_unchanged_one_stays_due_when_it_is(redis_url: str, schedules: Schedules) -> None:
    await start(redis_url, family(DAILY))
    due = datetime(2040, 1, 1, 5, tzinfo=UTC)
    await schedules.redis.zadd("{t}:ticks", {"clean_up": round(due.timestamp() * 1000)})
    await start(redis_url, family(DAILY))
    assert (await one(schedules)).next_runs[0] == due
    # What it does is not when it is due.
    await start(redis_url, family(crontab("0 2 * * *", clean_up, payload=CleanUp(older_than="9d"), missed="skip")))
    info = await one(schedules)
    assert (info.next_runs[0], info.payload, info.missed) == (due, {"older_than": "9d"}, "skip")


async def test_a_changed_one_is_due_anew(redis_url: str, schedules: Schedules) -> None:
    await start(redis_url, family(DAILY))
    await schedules.redis.zadd("{t}:ticks", {"clean_up": 2_208_988_800_000})
    await start(redis_url, family(HOURLY))
    info = await one(schedules)
    assert info.cron == "0 * * * *"
    assert info.next_runs[0].year < 2040


async def test_one_that_is_gone_from_the_settings_is_removed(redis_url: str, schedules: Schedules) -> None:
    await start(redis_url, family(DAILY, crontab("@hourly", warm)))
    await start(redis_url, family(crontab("@hourly", warm)))
    assert [info.name for info in await schedules.list()] == ["t:warm"]
    await start(redis_url, family())
    assert await schedules.list() == []


async def test_a_pause_outlives_restarts_and_changes(redis_url: str, schedules: Schedules) -> None:
    await start(redis_url, family(DAILY))
    await schedules.pause("t:clean_up")
    for settings in (DAILY, HOURLY):
        await start(redis_url, family(settings))
        info = await one(schedules)
        assert (info.state, info.cron) == ("paused", settings.expression)
    await schedules.resume("t:clean_up")
    assert (await one(schedules)).state == "active"


async def test_it_cannot_be_changed_and_comes_back_when_removed(redis_url: str, schedules: Schedules) -> None:
    await start(redis_url, family(DAILY))
    with pytest.raises(ScheduleConflict, match="t:clean_up comes from the family's settings: change it there"):
        await schedules.change("t:clean_up", cron="@hourly")
    await schedules.remove("t:clean_up")
    assert await schedules.list() == []
    await start(redis_url, family(DAILY))
    assert (await one(schedules)).source == "settings"


async def test_those_made_at_run_time_are_not_touched(
    redis_url: str, schedules: Schedules, caplog: pytest.LogCaptureFixture
) -> None:
    start_at = datetime(2040, 1, 1, tzinfo=UTC)
    mine = [
        await schedules.add(name, "warm", family="t", cron="@yearly", start=start_at) for name in ("clean_up", "other")
    ]
    await start(redis_url, family(DAILY, crontab("@daily", warm)))
    assert (await schedules.list())[:2] == mine
    assert "schedule t:clean_up of the settings is not used: one made at run time has its name" in caplog.text
    await start(redis_url, family())
    assert await schedules.list() == mine


async def test_what_cannot_be_read_is_replaced(redis_url: str, schedules: Schedules) -> None:
    nowhere = b'{"name": "clean_up", "function": "f", "expression": "@daily", "timezone": "Mars", "source": "settings"}'
    await schedules.redis.hset("{t}:schedules", mapping={"clean_up": nowhere, "other": "garbage"})
    await start(redis_url, family(DAILY))
    assert [(info.name, info.state) for info in await schedules.list("t")] == [
        ("t:clean_up", "active"),
        ("t:other", "unreadable"),
    ]


async def test_several_that_start_at_once_agree(redis_url: str, schedules: Schedules) -> None:
    await asyncio.gather(*(start(redis_url, family(DAILY, crontab("@hourly", warm))) for _ in range(4)))
    assert [info.name for info in await schedules.list()] == ["t:clean_up", "t:warm"]


async def test_an_ended_one_does_not_begin_anew(redis_url: str, schedules: Schedules) -> None:
    ended = crontab("@daily", clean_up, payload=CleanUp(older_than="1d"), end=datetime(2020, 1, 1, tzinfo=UTC))
    for _ in range(2):
        await start(redis_url, family(ended))
        assert (await one(schedules)).state == "ended"


# ---------------------------------------------------------------- running


async def test_they_run(redis_url: str) -> None:
    settings = family(
        crontab("* * * * * *", clean_up, payload=CleanUp(older_than="1d"), count=2),
        cron(arqs, second=None),
    )
    async with working(redis_url, settings):
        await until(lambda: len([each for each in ran if each[0] == "1d"]) == 2 and len(ran) > 3)
    ids = [each[1] if isinstance(each, tuple) else each for each in ran]
    assert len(set(ids)) == len(ids)
    assert all(job_id.startswith(("{t}:clean_up:", "{t}:cron:arqs:")) for job_id in ids)


async def test_what_runs_at_startup_does_so_in_every_process(redis_url: str, schedules: Schedules) -> None:
    job = cron(arqs, month=2, day=29, hour=0, minute=0, run_at_startup=True)
    for count in (1, 2):
        async with working(redis_url, family(job)):
            await until(lambda count=count: len(ran) == count)
    assert (await one(schedules)).runs == 0


async def test_what_runs_at_startup_does_not_pile_up(redis_url: str, schedules: Schedules) -> None:
    job = cron(arqs, month=2, day=29, hour=0, minute=0, run_at_startup=True)
    await schedules.redis.hset("{t}:conf", "paused", 1)
    for _ in range(3):
        await start(redis_url, family(job))
    assert await schedules.redis.zcard("arq:{t}") == 1


async def test_a_burst_makes_no_ticks(redis_url: str, schedules: Schedules) -> None:
    await schedules.add("s", "warm", family="t", every=1)

    async def due() -> bool:
        return (await schedules.get("t:s")).next_runs[0] < datetime.now(UTC)

    await eventually(due)
    await run_burst(redis_url, make_family("t", warm))
    assert ran == []
