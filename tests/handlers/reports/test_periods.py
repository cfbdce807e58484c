"""The time a report is of."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from handlers.reports.payloads import GenerateReport
from handlers.reports.periods import Period, period_of
from handlers.reports.texts import changed, day, number

NOW = datetime(2026, 3, 9, 8, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "text", "first", "last"),
    [
        ("daily", None, "2026-03-08", "2026-03-08"),
        ("daily", "2026-02-28", "2026-02-28", "2026-02-28"),
        ("weekly", None, "2026-03-02", "2026-03-08"),
        ("weekly", "2026-W10", "2026-03-02", "2026-03-08"),
        ("weekly", "2026-03-05", "2026-03-02", "2026-03-08"),
        ("custom", "2026-02", "2026-02-01", "2026-02-28"),
        ("custom", "2026-02-10/2026-03-01", "2026-02-10", "2026-03-01"),
    ],
)
def test_periods(kind: Any, text: str | None, first: str, last: str) -> None:
    assert period_of(kind, text, NOW) == Period(date.fromisoformat(first), date.fromisoformat(last))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("custom", None),
        ("daily", "2026-W10"),
        ("weekly", "2026-02"),
        ("custom", "2026-03-02/2026-03-01"),
        ("custom", "2024-01-01/2026-01-01"),
        ("daily", "yesterday"),
        ("weekly", "2026-W60"),
        ("weekly", "9999-W52"),
        ("custom", "9999-12"),
        ("daily", "0001-01-01"),
    ],
)
def test_what_is_none_is_refused_at_the_producer(kind: Any, text: str | None) -> None:
    with pytest.raises(ValidationError):
        GenerateReport(kind=kind, period=text)


def test_steps_and_the_period_before() -> None:
    week = Period(date(2026, 3, 2), date(2026, 3, 8))
    assert (len(week.steps), week.before) == (7, Period(date(2026, 2, 23), date(2026, 3, 1)))
    one = Period(date(2026, 3, 2), date(2026, 3, 2))
    assert (len(one.steps), one.steps[23].hour, str(one.before)) == (24, 23, "2026-03-01")


@pytest.mark.parametrize(
    ("value", "unit", "lang", "text"),
    [
        (1234567.0, "", "en", "1,234,567"),
        (1234567.5, "EUR", "fr", "1\u202f234\u202f567,50\u00a0EUR"),
        (0.125, "%", "en", "12.5%"),
        (0.125, "%", "fr", "12,5\u00a0%"),
        (-3.0, "", "en", "−3"),
        (None, "", "fr", "–"),
    ],
)
def test_numbers(value: float | None, unit: str, lang: Any, text: str) -> None:
    assert number(value, unit, lang) == text


def test_changes_and_days() -> None:
    assert [changed(value, "en") for value in (0.041, -0.5, 0.0, None)] == ["+4.1%", "−50.0%", "±0.0%", "–"]
    assert (day(date(2026, 8, 1), "fr"), day(date(2026, 8, 1), "en")) == ("1er août 2026", "1 August 2026")
