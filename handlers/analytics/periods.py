"""Hours, days, weeks and months as they begin and end in a time zone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

Grain = Literal["hourly", "daily", "weekly", "monthly"]
Period = tuple[datetime, datetime]


def period_of(grain: Grain, at: datetime, zone: str) -> Period:
    """Give the period a moment is in, in UTC, its end excluded.

    A day is one of the zone's calendar, so it may have 23 or 25 hours. Weeks begin on Monday. Hours are those of UTC.
    """
    if grain == "hourly":
        start = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        return start, start + timedelta(hours=1)
    day = at.astimezone(ZoneInfo(zone)).date()
    if grain == "weekly":
        day -= timedelta(days=day.weekday())
    elif grain == "monthly":
        day = day.replace(day=1)
    return _midnight(day, zone), _midnight(_following(grain, day), zone)


def periods(grain: Grain, start: datetime, end: datetime, zone: str) -> Iterator[Period]:
    """Give every period that has a moment between two, the end excluded."""
    at = start
    while at < end:
        found = period_of(grain, at, zone)
        yield found
        at = found[1]


def _following(grain: Grain, day: date) -> date:
    if grain == "monthly":
        return (day + timedelta(days=31)).replace(day=1)
    return day + timedelta(days=7 if grain == "weekly" else 1)


def _midnight(day: date, zone: str) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)
