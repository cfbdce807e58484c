"""When a schedule is due: crontab text or a period, a time zone, a first and a last time. Pure: no clock, no Redis.

Crontab text is `cronsim`'s, a cron of Debian's kind: five fields (minute, hour, day, month, weekday), or six with
seconds before them; ``L``, ``LW``, ``MON#2`` and ``5L`` work. Of our own: ``@hourly`` and its like, ``@every 30s``, and
a ``&`` before the weekday, which then must match as well as the day (``0 9 1-7 * &MON``: the month's first Monday).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from datetime import timezone as fixed
from functools import cached_property, lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from daemon.errors import InvalidJob
from daemon.job import from_ms, seconds

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
EVERY = "@every "
#: The shortest period, and the step of crontab text, in ms.
SHORTEST_MS = 1000
_WEEK_MS = 7 * 86_400_000
_HINT = "write minute hour day month weekday (seconds before them if wanted), @hourly, @daily ... or @every 30s"


@lru_cache(64)
def zone(name: str) -> tzinfo:
    """Give a time zone by its IANA name.

    Raises:
        InvalidJob: when there is none of this name.
    """
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InvalidJob(f"there is no time zone {name!r}: use a name such as Europe/Berlin or UTC") from None


@dataclass(frozen=True)
class Timing:
    """When a schedule is due.

    Attributes:
        expression: crontab text, or ``@every`` and a period.
        timezone: IANA name of the zone in which crontab text is read.
        start: first time it may be due, ms since the epoch; also where its periods begin (None: 1970, so that every
            process that works it out agrees).
        end: last time it may be due, ms.

    Raises:
        InvalidJob: for what is none of this, and for what is never due.
    """

    expression: str
    timezone: str = "UTC"
    start: int | None = None
    end: int | None = None

    def __post_init__(self) -> None:
        zone(self.timezone)
        if self.period is None:
            self._simulate(datetime(2000, 1, 1, tzinfo=UTC))
        if self.start is not None and self.end is not None and self.end < self.start:
            raise InvalidJob("its end is before its start")
        # 1996 and the 50 years after it have every day there is.
        if self.after(self.start - 1 if self.start is not None else 820_454_400_000) is None:
            raise InvalidJob(f"{self.expression!r} is never due")

    @cached_property
    def period(self) -> int | None:
        """Its period in ms; None for crontab text."""
        if not self.expression.startswith(EVERY):
            return None
        ms = round(seconds(self.expression[len(EVERY) :]) * 1000)
        if ms < SHORTEST_MS:
            raise InvalidJob(f"{self.expression!r}: the shortest period is a second")
        return ms

    def after(self, ms: int) -> int | None:
        """Give the first time it is due after ``ms``; None when it never is again."""
        if self.start is not None:
            ms = max(ms, self.start - 1)
        if self.period is None:
            due = self._next(ms)
        else:
            base = (self.start or 0) % self.period
            due = base + ((ms - base) // self.period + 1) * self.period
        return None if due is None or (self.end is not None and due > self.end) else due

    def newest(self, ms: int, count: int, since: int = 0) -> int | None:
        """Give the time it was due ``count`` times ago, at ``ms`` or before; None when there were fewer ``since``.

        For what is due once a year ``since`` saves looking back over a hundred of them, which takes a second.
        """
        due: int | None = (ms if self.end is None else min(ms, self.end)) + 1
        if self.period is not None and due is not None:
            base = (self.start or 0) % self.period
            due = base + ((due - 1 - base) // self.period - count + 1) * self.period
        else:
            for _ in range(count):
                due = None if due is None or due < since else self._next(due, back=True)
        return due if due is not None and due >= max(self.start or 0, since) else None

    # ------------------------------------------------------------------ crontab text

    def _next(self, ms: int, back: bool = False) -> int | None:
        """Give the next time after ``ms``, or the last before it."""
        try:
            simulated = self._simulate(self._local(ms), back)
            if simulated.fixup_tz is not None or zone(self.timezone) is UTC:
                # In a repeated hour the simulation starts from the first of the two: what it gives may have passed.
                return next(due for due in map(_ms, simulated) if (due < ms if back else due > ms))
            return self._next_by_segment(ms, back)
        except (StopIteration, OverflowError):
            return None

    def _next_by_segment(self, ms: int, back: bool) -> int:
        """As `_next`, for text whose times are those of the clock on the wall, however often it shows them.

        cronsim itself loses some where clocks change by half an hour. From one change to the next the zone is a fixed
        offset, in which nothing can go wrong.
        """
        while True:
            first = ms - 1 if back else ms + 1
            clock = self._clock(first)
            due = _ms(next(self._simulate(from_ms(ms).astimezone(clock), back)))
            last = self._last_with(clock, first, due)
            if last == due:
                return due
            ms = last

    def _last_with(self, clock: tzinfo, first: int, due: int) -> int:
        """Give the last time from ``first`` to ``due`` at which this clock is in force without a break."""
        step = _WEEK_MS if due > first else -_WEEK_MS
        near = far = first
        while self._clock(far) == clock:
            if far == due:
                return due
            near, far = far, min(far + step, due) if step > 0 else max(far + step, due)
        while abs(far - near) > 1:
            middle = (near + far) // 2
            near, far = (middle, far) if self._clock(middle) == clock else (near, middle)
        return near

    def _clock(self, ms: int) -> tzinfo:
        return fixed(self._local(ms).utcoffset() or timedelta())

    def _local(self, ms: int) -> datetime:
        return from_ms(ms).astimezone(zone(self.timezone))

    def _simulate(self, at: datetime, reverse: bool = False) -> CronSim:
        text = ALIASES.get(self.expression.strip().lower(), self.expression).strip()
        fields = text.split()
        both = bool(fields) and fields[-1].startswith("&")
        if both:
            text = " ".join([*fields[:-1], fields[-1][1:]])
        try:
            simulated = CronSim(text, at, reverse)
        except (CronSimError, AssertionError, ValueError) as error:
            reason = str(error) or "a field cannot be read"
            raise InvalidJob(f"cron {self.expression!r}: {reason[0].lower() + reason[1:]}: {_HINT}") from None
        simulated.day_and |= both
        return simulated


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def every(period: float | str | timedelta) -> str:
    """Give the expression of a period: ``@every 30s``.

    Raises:
        InvalidJob: for what is no duration.
    """
    return f"{EVERY}{seconds(period):.15g}s"
