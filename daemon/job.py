"""A job as people and programs see it: states, priorities, ids, times."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from struct import Struct
from typing import Any

from daemon.errors import InvalidJob

PRIORITIES = {
    "critical": 1,
    "urgent": 1,
    "high": 3,
    "normal": 5,
    "medium": 5,
    "low": 7,
    "background": 10,
    "deferred": 10,
}


class JobState(StrEnum):
    """Where a job stands: ``parked`` waits for a worker that can run it, ``blocked`` for other jobs, ``failed`` is the
    dead letters.

    Paused is a state of a queue, not of a job.
    """

    WAITING = "waiting"
    DELAYED = "delayed"
    PARKED = "parked"
    BLOCKED = "blocked"
    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"
    ABORTED = "aborted"
    EXPIRED = "expired"
    NOT_FOUND = "not_found"


ENDED = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.ABORTED, JobState.EXPIRED})


def priority_level(priority: int | str) -> int:
    """Give the level 1 (first) to 10 (last) of a number or a name.

    Raises:
        InvalidJob: for anything else; the message lists what is accepted.
    """
    if isinstance(priority, str):
        level = PRIORITIES.get(priority.lower())
        if level is None and priority.isdecimal() and len(priority) < 10:
            level = int(priority)
    else:
        level = None if isinstance(priority, bool) or not isinstance(priority, int) else priority
    if level is None or not 1 <= level <= 10:
        names = ", ".join(f"{name}={value}" for name, value in PRIORITIES.items())
        raise InvalidJob(f"priority {priority!r} is not a level: use 1 (first) to 10 (last), or {names}")
    return level


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds(duration: float | int | str | timedelta) -> float:
    """Give a duration in seconds; text such as ``"30s"``, ``"1h30m"`` or ``"30d"`` and a timedelta are accepted.

    Raises:
        InvalidJob: when it is neither, or negative.
    """
    if isinstance(duration, timedelta):
        duration = duration.total_seconds()
    if isinstance(duration, bool) or not isinstance(duration, int | float | str):
        raise InvalidJob(f"{duration!r} is not a duration: use seconds, or text such as 30s, 15m, 30d")
    if isinstance(duration, str):
        text = duration.strip().lower()
        parts = _DURATION.findall(text)
        if parts and "".join(a + b for a, b in parts) == text:
            duration = float(sum(float(number) * _UNITS[unit] for number, unit in parts))
        else:
            try:
                duration = float(text)
            except ValueError:
                told = f"{duration!r} is not a duration: use seconds, or text such as 30s, 15m, 30d"
                raise InvalidJob(told) from None
    if not 0 <= duration < 2**43 / 1000:
        raise InvalidJob(f"{duration!r} is not a duration: it must be 0 or more seconds, and at most 278 years")
    return float(duration)


def new_id() -> str:
    """Give a time-ordered unique id (RFC 9562, version 7) as 32 hexadecimal digits."""
    return _id_of(time.time_ns() // 1_000_000, _random_digits())


def new_ids(count: int) -> list[str]:
    """Give so many new ids, of one millisecond and in order.

    Only the first is all random, each other one a random step of 32 bits behind the one before (RFC 9562, section 6.2,
    method 2): so all begin alike, and what tells of many jobs says that once.
    """
    ms = time.time_ns() // 1_000_000
    # The highest random bit behind the variant is 0, so that steps cannot reach it.
    number = int(_id_of(ms, _random_digits()), 16) & ~(1 << 61)
    ids = []
    for (step,) in _STEP.iter_unpack(os.urandom(_STEP.size * count)):
        ids.append(f"{number:032x}")
        number += step + 1
    return ids


#: From one id to the next of the same call.
_STEP = Struct("=I")
#: The first digit behind the version holds two bits of the variant, binary 10.
_VARIANT = {digit: f"{0x8 | int(digit, 16) & 0x3:x}" for digit in "0123456789abcdef"}
_RANDOM_DIGITS, _IDS_AT_ONCE = 19, 256
_reserve: list[str] = []


def _id_of(ms: int, digits: str) -> str:
    return f"{ms:012x}7{digits[:3]}{_VARIANT[digits[3]]}{digits[4:]}"


def _random_digits() -> str:
    try:
        return _reserve.pop()
    except IndexError:
        _reserve.extend(_random_parts(_IDS_AT_ONCE))
        return _reserve.pop()


def _random_parts(count: int) -> list[str]:
    """Give the random digits of so many ids; asking the system for those of many at once takes a third of the time."""
    size = _RANDOM_DIGITS * count
    text = os.urandom(-(-size // 2)).hex()
    return [text[start : start + _RANDOM_DIGITS] for start in range(0, size, _RANDOM_DIGITS)]


# A child must not give out what its parent gives out, too.
os.register_at_fork(after_in_child=_reserve.clear)


#: The last millisecond a datetime can tell.
LAST_MS = 253_402_300_799_000


def from_ms(ms: int) -> datetime:
    """Give the aware UTC time of a Unix time in milliseconds, at most the last second of the year 9999."""
    return datetime.fromtimestamp(min(max(ms, 0), LAST_MS) / 1000, UTC)


@dataclass(slots=True)
class JobInfo:
    """Everything known about one job; times are aware UTC datetimes, ``payload`` and ``result`` plain JSON data.

    ``tries`` counts ended tries, ``crashes`` the workers that died while they ran it, ``history`` holds one entry
    per failed try, oldest first: ``{"at", "try", "type", "message"}``. ``error`` is what it failed of:
    ``{"type", "message", "traceback", "reason"}``, ``cause`` the group of a dead letter (`daemon.dead_letters`).
    ``group`` is whose turn it takes, where its record still says so (not of one that has completed). Of a flow (only
    where one job is asked for): ``parents`` that wait for it, how many ``children`` it has or had and how many of them
    have not ended (``children_left``).
    """

    id: str
    family: str
    state: JobState
    function: str | None = None
    payload: Any = None
    priority: int | None = None
    progress: int | None = None
    note: str | None = None
    tries: int = 0
    crashes: int = 0
    max_tries: int | None = None
    worker: str | None = None
    enqueued_at: datetime | None = None
    due_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    result: Any = None
    error: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    children: int | None = None
    children_left: int | None = None
    cause: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line a handler logged: when, by Redis's clock, and in which try."""

    at: datetime
    job_try: int
    text: str


@dataclass(frozen=True, slots=True)
class JobLogs:
    """What a job's handler logged, oldest first; ``dropped`` older lines are not kept any more."""

    lines: list[LogLine] = field(default_factory=list)
    dropped: int = 0
