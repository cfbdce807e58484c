"""Statistics of a family: what ended, how long it ran and how long it waited, per function, minute and hour.

Workers add to them in the calls that settle jobs, producers in the calls that enqueue (``lua/events.lua``). Times are
kept as sums and as histograms whose buckets grow by the square root of two: bucket n holds what took from 2^((n-1)/2)
up to 2^(n/2) microseconds. A percentile is told as the middle of its bucket, so at most 19 % off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from daemon.errors import InvalidJob
from daemon.job import from_ms, seconds
from daemon.keys import FamilyKeys

Step = Literal["minute", "hour"]

#: Between a function's name and what is counted; longer times count as the longest, microseconds.
SEPARATOR, LONGEST = "\x1f", 2**45
#: Length of a bucket and how far back they are shown, ms; the keys' expiry leaves a margin.
_LENGTH: dict[str, int] = {"minute": 60_000, "hour": 3_600_000}
_KEPT: dict[str, int] = {"minute": 86_400_000, "hour": (15 * 24 - 1) * 3_600_000}
#: Up to this range it is told by minutes unless asked otherwise, ms.
_BY_MINUTES = 3 * 3_600_000
_READ = 500
#: Minutes and hours of a family that are remembered.
_REMEMBERED = 3000

#: What was counted in minutes and hours that are over, by step and number.
Past = dict[tuple[Step, int], dict[bytes, bytes]]


@dataclass(slots=True)
class Figures:
    """What ended in a stretch of time. Times are in seconds, None where nothing ran.

    Attributes:
        throughput: completed jobs a second.
        enqueued: jobs handed over; of the queue only, None for a function.
        mean_run, p95_run: run time of the tries that ran, whatever their outcome.
        mean_wait, p95_wait: from when a job could run (it was enqueued, or its delay was over) to its first start.
    """

    throughput: float = 0.0
    enqueued: int | None = None
    completed: int = 0
    failed: int = 0
    retried: int = 0
    aborted: int = 0
    expired: int = 0
    released: int = 0
    parked: int = 0
    mean_run: float | None = None
    p95_run: float | None = None
    mean_wait: float | None = None
    p95_wait: float | None = None


@dataclass(slots=True)
class Point:
    """A minute or an hour of a series, and when it began."""

    at: datetime
    figures: Figures


@dataclass(slots=True)
class FamilyStatistics:
    """Statistics of a family from ``since`` (the beginning of a minute or an hour) until ``until``.

    Attributes:
        function: the one they are of, None for all.
        total: of the whole time.
        functions: the same for each function that had something to do.
        series: each minute or hour (``step``) of the time, oldest first; the last may still go on.
    """

    family: str
    function: str | None
    since: datetime
    until: datetime
    step: Step
    total: Figures
    functions: dict[str, Figures] = field(default_factory=dict)
    series: list[Point] = field(default_factory=list)


_KINDS = {
    "c": "completed",
    "b": "failed",
    "r": "retried",
    "a": "aborted",
    "e": "expired",
    "l": "released",
    "p": "parked",
}
#: Sums of one stretch of time: function ("" for the queue's own) to what is counted to amount.
_Tally = dict[str, "Counter[str]"]


def _tally(raw: dict[bytes, bytes], into: _Tally) -> _Tally:
    for name, amount in raw.items():
        function, _, what = name.decode("utf-8", "replace").rpartition(SEPARATOR)
        into.setdefault(function, Counter())[what] += int(amount)
    return into


def _figures(counts: Counter[str], duration: float) -> Figures:
    """Turn sums into what people want to know."""
    found = Figures(**{name: counts[kind] for kind, name in _KINDS.items()})
    found.throughput = found.completed / duration if duration > 0 else 0.0
    found.mean_run, found.p95_run = _times(counts, "R")
    found.mean_wait, found.p95_wait = _times(counts, "W")
    return found


def _times(counts: Counter[str], letter: str) -> tuple[float | None, float | None]:
    """Give the mean and the 95th percentile of a histogram, seconds."""
    buckets = sorted((int(what[1:]), count) for what, count in counts.items() if what[:1] == letter and what[1:])
    total = sum(count for _, count in buckets)
    if not total:
        return None, None
    seen = 0
    for bucket, count in buckets:
        seen += count
        if seen >= 0.95 * total:
            return counts[letter] / total / 1e6, _middle(bucket)
    raise AssertionError("the last bucket is behind every rank")


def _together(tally: _Tally, function: str | None, duration: float) -> Figures:
    """Give the figures of one function, or of all with what was enqueued."""
    if function is not None:
        return _figures(tally.get(function, Counter()), duration)
    sums: Counter[str] = Counter()
    for counts in tally.values():
        sums.update(counts)
    found = _figures(sums, duration)
    found.enqueued = sums["enqueued"]
    return found


def _range(now: int, last: float | str, since: datetime | None, until: datetime | None) -> tuple[int, int]:
    begin = now - round(seconds(last) * 1000) if since is None else round(since.timestamp() * 1000)
    end = now if until is None else min(now, round(until.timestamp() * 1000))
    if begin >= end:
        raise InvalidJob("statistics are of a time that has begun: since must be before until and now")
    return begin, end


async def read_statistics(
    redis: Any, keys: FamilyKeys, now: int, *, last: float | str, since: datetime | None, until: datetime | None,
    step: Step | None, function: str | None, past: Past | None = None,
) -> FamilyStatistics:  # fmt: skip
    """Read the statistics of a family; see `Inspector.stats`.

    Args:
        past: what was read before of minutes and hours that are over; it is added to.
    """
    begin, end = _range(now, last, since, until)
    if step is None:
        step = "minute" if end - begin <= _BY_MINUTES and begin >= now - _KEPT["minute"] else "hour"
    if step not in _LENGTH:
        raise InvalidJob(f"{step!r} is no step: use minute or hour")
    length = _LENGTH[step]
    # What has just begun belongs to the present, though nothing of it is over yet.
    first, final = max(begin, now - _KEPT[step]) // length, (now if end == now else end - 1) // length
    numbers = range(first, final + 1)
    past = {} if past is None else past
    if step == "hour":
        found = await _hours(redis, keys, past, numbers, now)
    else:
        (found,) = await _raws(redis, [(keys, past)], step, numbers, now)
    return _statistics(keys.family, function, step, numbers, min(now, (final + 1) * length), found)


async def read_figures(redis: Any, many: Sequence[tuple[FamilyKeys, Past]], now: int) -> list[tuple[Figures, Figures]]:
    """Give what queues on one server did in the last minute and in the last hour, as `read_statistics` in all.

    Args:
        many: their keys, and what was read of each before.
    """
    length, current = _LENGTH["minute"], now // _LENGTH["minute"]
    first = (now - _LENGTH["hour"]) // length
    found = []
    for raws in await _raws(redis, many, "minute", range(first, current + 1), now):
        whole, last = _Tally(), _Tally()
        for raw in raws:
            _tally(raw, whole)
        for raw in raws[-2:]:
            _tally(raw, last)
        minute, hour = ((now - begin * length) / 1000 for begin in (current - 1, first))
        found.append((_together(last, None, minute), _together(whole, None, hour)))
    return found


async def read_starts(
    redis: Any, keys: FamilyKeys, past: Past, now: int, limit: float, minutes: int
) -> list[tuple[int, int]]:
    """Give of each of the last minutes, the newest last, how many jobs started first and how many had waited too long.

    Args:
        limit: what is too long, seconds; as exact as the buckets are.
        minutes: how many, the one that goes on included.
    """
    current = now // _LENGTH["minute"]
    (raws,) = await _raws(redis, [(keys, past)], "minute", range(current - minutes + 1, current + 1), now)
    found = []
    for raw in raws:
        started = late = 0
        for name, amount in raw.items():
            what = name.decode("utf-8", "replace").rpartition(SEPARATOR)[2]
            if what[:1] == "W" and what[1:]:
                started += int(amount)
                late += int(amount) if _middle(int(what[1:])) > limit else 0
        found.append((started, late))
    return found


def _middle(bucket: int) -> float:
    """Give the middle of a bucket, seconds."""
    return float(2 ** ((bucket - 0.5) / 2) / 1e6)


async def _hours(
    redis: Any, keys: FamilyKeys, past: Past, numbers: Sequence[int], now: int
) -> list[dict[bytes, bytes]]:
    """Read what was counted in hours, with the minute that is not in its hour yet (``lua/events.lua``)."""
    before: bytes | None = b""
    while before != (latest := await redis.hget(keys.key("clock"), "minute")):
        # Behind the first look it is the same as before, or a minute has been added meanwhile.
        before = latest
        (found,) = await _raws(redis, [(keys, past)], "hour", numbers, now)
        if latest is None:
            continue
        hour = int(latest) // 60
        past.pop(("hour", hour), None)
        if hour in numbers:
            more = await redis.hgetall(keys.key("stats", "m", latest.decode()))
            there = found[hour - numbers[0]]
            found[hour - numbers[0]] = {n: b"%d" % (int(there.get(n, 0)) + int(more.get(n, 0))) for n in there | more}
    return found


async def _raws(
    redis: Any, many: Sequence[tuple[FamilyKeys, Past]], step: Step, numbers: Sequence[int], now: int
) -> list[list[dict[bytes, bytes]]]:
    """Read what was counted of each family in minutes or hours, and remember what is over."""
    unread = [(keys, past, number) for keys, past in many for number in numbers if (step, number) not in past]
    read: dict[tuple[str, int], dict[bytes, bytes]] = {}
    for start in range(0, len(unread), _READ):
        portion = unread[start : start + _READ]
        async with redis.pipeline(transaction=False) as pipe:
            for keys, _, number in portion:
                pipe.hgetall(keys.key("stats", step[0], str(number)))
            raws = await pipe.execute()
        read |= {(keys.tag, number): raw for (keys, _, number), raw in zip(portion, raws, strict=True)}
    found = []
    for keys, past in many:
        found.append([read[keys.tag, n] if (keys.tag, n) in read else past[step, n] for n in numbers])
        if len(past) > _REMEMBERED:
            past.clear()
        past.update({(step, n): raw for n, raw in zip(numbers, found[-1], strict=True) if n < now // _LENGTH[step] - 1})
    return found


def _statistics(
    family: str, function: str | None, step: Step, numbers: Sequence[int], end: int, found: list[dict[bytes, bytes]]
) -> FamilyStatistics:
    length, whole, series = _LENGTH[step], _Tally(), []
    begin = numbers[0] * length if numbers else end
    for number, raw in zip(numbers, found, strict=True):
        _tally(raw, whole)
        duration = min(length, end - number * length) / 1000
        series.append(Point(from_ms(number * length), _together(_tally(raw, {}), function, duration)))
    duration = (end - begin) / 1000
    each = {name: _figures(counts, duration) for name, counts in sorted(whole.items()) if name}
    if function is not None:
        each = {name: figures for name, figures in each.items() if name == function}
    return FamilyStatistics(
        family, function, from_ms(begin), from_ms(end), step, _together(whole, function, duration), each, series
    )
