"""What a user wants to get by a channel, and when: pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from daemon.errors import ArqdError

#: How a user is reached beside the app's own list of notifications.
Channel = Literal["push", "email"]
CHANNELS: tuple[Channel, ...] = get_args(Channel)

_HOURS = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-3]):([0-5]\d)")


class InvalidUser(ArqdError):
    """What was to be saved of a user cannot be used: nothing was saved."""


@dataclass(frozen=True, slots=True)
class QuietHours:
    """Hours in which nothing is sent, by the user's clock; they may go over midnight.

    Raises:
        InvalidUser: where they begin and end at the same time.
    """

    begin: time
    end: time

    def __post_init__(self) -> None:
        if self.begin == self.end:
            raise InvalidUser("quiet hours begin and end at the same time: disable the channel instead")

    @classmethod
    def parse(cls, text: str) -> QuietHours:
        """Read ``22:00-07:00``.

        Raises:
            InvalidUser: for anything else.
        """
        found = _HOURS.fullmatch(text.strip())
        if found is None:
            raise InvalidUser(f"quiet hours are written 22:00-07:00, not {text[:40]!r}")
        hours = [int(number) for number in found.groups()]
        return cls(time(hours[0], hours[1]), time(hours[2], hours[3]))

    def __str__(self) -> str:
        return f"{self.begin:%H:%M}-{self.end:%H:%M}"

    def until(self, now: datetime, zone: ZoneInfo) -> datetime | None:
        """Give when they end, in UTC; None where it is not one of them now."""
        local = now.astimezone(zone)
        clock = local.time()
        over_midnight = self.begin > self.end
        inside = clock >= self.begin or clock < self.end if over_midnight else self.begin <= clock < self.end
        if not inside:
            return None
        day = local.date() + timedelta(days=clock >= self.end)
        # A clock that is put back shows this time twice, one that is put forward never: the later moment is meant, so
        # that it has not passed while the clock still shows a quiet hour.
        ends = (datetime.combine(day, self.end.replace(fold=fold), zone).astimezone(UTC) for fold in (0, 1))
        return max(ends)


@dataclass(frozen=True, slots=True)
class Preference:
    """What a user wants of one channel.

    Attributes:
        enabled: whether anything is to be sent.
        muted: types of notifications that are not.
        quiet: hours in which what comes is kept until they end.
    """

    enabled: bool = True
    muted: frozenset[str] = frozenset()
    quiet: QuietHours | None = None

    def refuses(self, kind: str) -> str | None:
        """Tell why a notification of a type is not sent, None where it is."""
        if not self.enabled:
            return "disabled by the user"
        return f"the user has muted {kind}" if kind in self.muted else None
