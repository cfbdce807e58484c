"""The time a report is of: whole days in UTC, in steps of hours or days. Payloads use it: no libraries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

Kind = Literal["daily", "weekly", "custom"]

DAY = timedelta(days=1)
LONGEST = 366
_WEEK = re.compile(r"(\d{4})-W(\d{2})")
_MONTH = re.compile(r"(\d{4})-(\d{2})")


@dataclass(frozen=True, slots=True)
class Period:
    """Some days in UTC.

    Attributes:
        first, last: the days, both in it.
    """

    first: date
    last: date

    @property
    def days(self) -> int:
        """How many there are."""
        return (self.last - self.first).days + 1

    @property
    def since(self) -> datetime:
        """When it begins."""
        return datetime.combine(self.first, time(), UTC)

    @property
    def until(self) -> datetime:
        """When it has ended."""
        return datetime.combine(self.last + DAY, time(), UTC)

    @property
    def step(self) -> timedelta:
        """How long a step of its series is: an hour of a single day, else a day."""
        return DAY if self.days > 1 else timedelta(hours=1)

    @property
    def steps(self) -> list[datetime]:
        """When each step begins."""
        return [self.since + number * self.step for number in range(int((self.until - self.since) / self.step))]

    @property
    def before(self) -> Period:
        """The period of the same length that ends where this one begins."""
        return Period(self.first - self.days * DAY, self.first - DAY)

    def __str__(self) -> str:
        return f"{self.first}" if self.days == 1 else f"{self.first}/{self.last}"


def period_of(kind: Kind, text: str | None, now: datetime) -> Period:
    """Read a period; without a text it is the last whole day or week before ``now``.

    Args:
        text: ``2026-03-01``, ``2026-W10``, ``2026-03`` or ``2026-03-01/2026-03-10``.

    Raises:
        ValueError: telling what to write.
    """
    if text is None:
        today = now.astimezone(UTC).date()
        if kind == "daily":
            return Period(today - DAY, today - DAY)
        if kind == "weekly":
            monday = today - today.weekday() * DAY
            return Period(monday - 7 * DAY, monday - DAY)
        raise ValueError("a custom report needs a period: 2026-03-01/2026-03-31, or a month, 2026-03")
    found = _read(text)
    if kind == "daily" and found.days != 1:
        raise ValueError("a daily report is of one day: 2026-03-01")
    if kind == "weekly" and (found.days != 7 or found.first.weekday() != 0):
        if found.days != 1:
            raise ValueError("a weekly report is of one week from Monday to Sunday: 2026-W10, or a day in it")
        monday = found.first - found.first.weekday() * DAY
        found = Period(monday, monday + 6 * DAY)
    if found.days < 1 or found.days > LONGEST:
        raise ValueError(f"a period has 1 to {LONGEST} days, and its first day comes first")
    if found.first.year < 1970 or found.last.year > 9998:
        raise ValueError("a period lies between 1970 and 9998")
    return found


def _read(text: str) -> Period:
    try:
        if week := _WEEK.fullmatch(text):
            monday = date.fromisocalendar(int(week[1]), int(week[2]), 1)
            return Period(monday, monday + 6 * DAY)
        if month := _MONTH.fullmatch(text):
            first = date(int(month[1]), int(month[2]), 1)
            return Period(first, (first + 31 * DAY).replace(day=1) - DAY)
        begin, slash, end = text.partition("/")
        return Period(date.fromisoformat(begin), date.fromisoformat(end if slash else begin))
    except (ValueError, OverflowError):
        raise ValueError(
            "a period is a day, 2026-03-01, a week, 2026-W10, a month, 2026-03, or 2026-03-01/2026-03-10"
        ) from None
