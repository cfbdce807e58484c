"""When schedules are due: crontab text, zones whose clocks change, periods, arq's cron jobs, and what is refused."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from arq.cron import cron, next_cron
from cronsim import CronSim

from daemon.errors import ConfigurationError, InvalidJob
from daemon.scheduling.cron_jobs import arq_expression
from daemon.scheduling.crontab import Timing, every, zone
from tests.dst import ROWS, Row

NOW = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)


def ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def at(*fields: int) -> datetime:
    return datetime(*fields, tzinfo=UTC)  # type: ignore[arg-type, misc]


def following(timing: Timing, count: int = 3, after: datetime = NOW) -> list[datetime]:
    found, last = [], ms(after)
    for _ in range(count):
        due = timing.after(last)
        if due is None:
            break
        assert due > last
        found.append(datetime.fromtimestamp(due / 1000, UTC))
        last = due
    return found


@pytest.mark.parametrize(
    ("expression", "first", "second"),
    [
        ("0 2 * * *", at(2026, 2, 1, 2), at(2026, 2, 2, 2)),
        ("*/15 * * * *", at(2026, 1, 31, 12, 45), at(2026, 1, 31, 13)),
        ("*/20 * * * * *", at(2026, 1, 31, 12, 30, 20), at(2026, 1, 31, 12, 30, 40)),
        ("0 8 * * MON", at(2026, 2, 2, 8), at(2026, 2, 9, 8)),
        ("0 0 L * *", at(2026, 2, 28), at(2026, 3, 31)),
        ("0 0 LW * *", at(2026, 2, 27), at(2026, 3, 31)),
        ("0 0 * * FRI#2", at(2026, 2, 13), at(2026, 3, 13)),
        ("0 0 13 * 5", at(2026, 2, 6), at(2026, 2, 13)),
        ("0 0 13 * &5", at(2026, 2, 13), at(2026, 3, 13)),
        ("0 9 1-7 * &MON", at(2026, 2, 2, 9), at(2026, 3, 2, 9)),
        ("0 0 29 2 *", at(2028, 2, 29), at(2032, 2, 29)),
        ("@yearly", at(2027, 1, 1), at(2028, 1, 1)),
        ("@annually", at(2027, 1, 1), at(2028, 1, 1)),
        ("@monthly", at(2026, 2, 1), at(2026, 3, 1)),
        ("@weekly", at(2026, 2, 1), at(2026, 2, 8)),
        ("@daily", at(2026, 2, 1), at(2026, 2, 2)),
        ("@midnight", at(2026, 2, 1), at(2026, 2, 2)),
        ("@Hourly", at(2026, 1, 31, 13), at(2026, 1, 31, 14)),
        ("@every 90s", at(2026, 1, 31, 12, 31, 30), at(2026, 1, 31, 12, 33)),
        ("@every 7d", at(2026, 2, 5), at(2026, 2, 12)),
    ],
)
def test_when_it_is_due(expression: str, first: datetime, second: datetime) -> None:
    timing = Timing(expression)
    assert following(timing, 2) == [first, second]
    assert timing.newest(ms(second), 1) == ms(second)
    assert timing.newest(ms(second) + 999, 2) == ms(first)
    assert timing.newest(ms(second) - 1, 1) == ms(first)


def test_a_zone_is_the_clock_on_its_wall() -> None:
    assert following(Timing("0 9 * * *", "Asia/Kolkata"), 1) == [at(2026, 2, 1, 3, 30)]


def test_start_and_end() -> None:
    timing = Timing("0 * * * *", start=ms(at(2026, 2, 1, 5)), end=ms(at(2026, 2, 1, 7)))
    assert following(timing, 9) == [at(2026, 2, 1, hour) for hour in (5, 6, 7)]
    assert timing.newest(ms(at(2027, 1, 1)), 3) == ms(at(2026, 2, 1, 5))
    assert timing.newest(ms(at(2027, 1, 1)), 4) is None


def test_periods_begin_at_the_start() -> None:
    timing = Timing("@every 1h", start=ms(at(2026, 1, 31, 12, 47)), end=ms(at(2026, 1, 31, 14)))
    assert following(timing) == [at(2026, 1, 31, 12, 47), at(2026, 1, 31, 13, 47)]
    assert timing.newest(ms(at(2027, 1, 1)), 2) == ms(at(2026, 1, 31, 12, 47))
    assert timing.newest(ms(at(2027, 1, 1)), 3) is None


def test_a_period_as_text() -> None:
    assert (every(30), every("15m"), every(1.5), every(1_234_567)) == (
        "@every 30s", "@every 900s", "@every 1.5s", "@every 1234567s",
    )  # fmt: skip


# ---------------------------------------------------------------- clocks that change


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_table_of_the_documentation(row: Row) -> None:
    timing = Timing(row.expression, row.zone)
    found, last = [], row.begin - 1
    while (due := timing.after(last)) is not None and due < row.end:
        found.append(due)
        last = due
    assert found == row.due
    from_any_minute = {timing.after(minute) for minute in range(row.begin - 1, row.end, 60_000)}
    assert {due for due in from_any_minute if due is not None and due < row.end} == set(found)
    assert [timing.newest(row.end - 1, count) for count in range(len(found), 0, -1)] == found


def test_the_table_covers_three_zones_spring_and_autumn() -> None:
    zones = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")
    assert {(row.zone, row.shift) for row in ROWS} == {
        (name, shift) for name in zones for shift in ((30, -30) if "Lord" in name else (60, -60))
    }


def _field(rand: random.Random, low: int, high: int) -> str:
    kind = rand.random()
    if kind < 0.4:
        return "*"
    if kind < 0.6:
        return f"*/{rand.randint(2, 7)}"
    return ",".join(str(rand.randint(low, high)) for _ in range(rand.randint(1, 3)))


def test_it_is_cronsims_where_clocks_change_by_whole_hours() -> None:
    seed = 7
    rand = random.Random(seed)
    for _ in range(300):
        fields = [_field(rand, 0, 59), _field(rand, 0, 23), "*", "*", "*"]
        text = " ".join([_field(rand, 0, 59), *fields] if rand.random() < 0.5 else fields)
        name = rand.choice(["Europe/Berlin", "America/New_York", "Africa/Casablanca", "UTC"])
        begin = at(2026, rand.choice([2, 3, 10, 11]), rand.randint(1, 28), rand.randint(0, 23))
        simulated = CronSim(text, begin.astimezone(zone(name)))
        expected = [next(simulated).astimezone(UTC) for _ in range(30)]
        assert following(Timing(text, name), 30, begin) == expected, (seed, text, name, begin)


def test_a_time_in_a_repeated_hour_is_after_what_was_asked_for() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    second = datetime(2026, 10, 25, 2, 15, tzinfo=berlin, fold=1)
    assert following(Timing("30 2 * * *", "Europe/Berlin"), 1, second) == [
        datetime(2026, 10, 26, 2, 30, tzinfo=berlin).astimezone(UTC)
    ]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "wrong number of fields"),
        ("* * * *", "wrong number of fields"),
        ("0 0 0 * * * *", "wrong number of fields"),
        ("61 * * * *", "bad minute"),
        ("* 24 * * *", "bad hour"),
        ("* * 0 * *", "bad day-of-month"),
        ("* * * 13 *", "bad month"),
        ("* * * * MON#6", "bad day-of-week"),
        ("*/0 * * * *", "bad minute"),
        ("@reboot", "wrong number of fields"),
        ("@every", "wrong number of fields"),
        ("0 0 31 2 *", "bad day-of-month"),
        ("0 0 31 2 &MON", "is never due"),
        ("@every soon", "'soon' is not a duration"),
        ("@every 0.5s", "the shortest period is a second"),
    ],
)
def test_bad_text_is_refused(expression: str, said: str) -> None:
    with pytest.raises(InvalidJob, match=said) as refused:
        Timing(expression)
    assert "\n" not in str(refused.value)


def test_anything_else_is_refused_as_well() -> None:
    seed = 3
    rand = random.Random(seed)
    for _ in range(3000):
        text = "".join(rand.choice("0123456789*/,-# LW&@EMON²") for _ in range(rand.randint(0, 16)))
        try:
            Timing(text)
        except InvalidJob:
            pass
        except Exception as error:
            raise AssertionError((seed, text)) from error


@pytest.mark.parametrize("name", ["Europe/Berlinn", "", "America", "../etc/passwd", "/etc/localtime", "\0", "Z" * 400])
def test_bad_zones_are_refused(name: str) -> None:
    with pytest.raises(InvalidJob, match="there is no time zone"):
        Timing("* * * * *", name)


@pytest.mark.parametrize(
    ("start", "end", "said"), [(2000, 1000, "its end is before its start"), (1000, 2000, "is never due")]
)
def test_bad_bounds_are_refused(start: int, end: int, said: str) -> None:
    with pytest.raises(InvalidJob, match=said):
        Timing("@daily", start=start, end=end)


# ---------------------------------------------------------------- arq's


async def tick(ctx: dict[str, Any]) -> None: ...


@pytest.mark.parametrize(
    ("fields", "expression"),
    [
        ({}, "0 * * * * *"),
        ({"hour": 3, "minute": 12}, "0 12 3 * * *"),
        ({"hour": {9, 12, 18}, "minute": 0}, "0 0 9,12,18 * * *"),
        ({"second": None}, "* * * * * *"),
        ({"second": {0, 30}, "microsecond": 5}, "0,30 * * * * *"),
        ({"weekday": 0}, "0 * * * * 1"),
        ({"weekday": "sun", "hour": 1, "minute": 1}, "0 1 1 * * 0"),
        ({"weekday": {5, 6}, "hour": 1, "minute": 1}, "0 1 1 * * 0,6"),
        ({"day": 13, "weekday": "fri", "hour": 0, "minute": 0}, "0 0 0 13 * &5"),
        ({"day": {1, 2, 3, 4, 5, 6, 7}, "weekday": "tues", "hour": 7, "minute": 0}, "0 0 7 1,2,3,4,5,6,7 * &2"),
        ({"month": {1, 7}, "day": 1, "hour": 0, "minute": 0}, "0 0 0 1 1,7 *"),
    ],
)
def test_arqs_cron_means_the_same(fields: dict[str, Any], expression: str) -> None:
    job = cron(tick, **fields)
    assert arq_expression(job) == expression
    named = ("month", "day", "weekday", "hour", "minute", "second")
    last = NOW
    for due in following(Timing(expression), 8):
        last = next_cron(last, **{name: getattr(job, name) for name in named}, microsecond=0)
        assert due == last


@pytest.mark.parametrize("fields", [{"weekday": "friday"}, {"hour": "3"}, {"minute": set()}, {"hour": {1.5}}])
def test_fields_that_are_no_numbers_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="is neither a number nor a set of some"):
        arq_expression(cron(tick, **fields))
