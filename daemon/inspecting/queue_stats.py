"""Counts of queues and the workers of families, read for many of them in a few round trips; `inspector` gives them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from daemon.connecting.connections import translated
from daemon.connecting.routed import by_place
from daemon.errors import Unreadable
from daemon.inspecting.job_info import BLOCKED, HELD, LANE, LEVEL, PARKED, READY_BASE, SUSPECT
from daemon.job import from_ms
from daemon.keys import JOB, FamilyKeys
from daemon.limits import budget
from daemon.limits.queue_limits import lane_of_group
from daemon.pages import INDEX, server_ms
from daemon.records import split_head, split_record

T = TypeVar("T")

#: Only the head of a record is read where its times are enough.
_HEAD = 140
#: Among so many of a level a group's next job is looked for.
_NEAR = 200


@dataclass(slots=True)
class QueueStats:
    """A queue at a glance. ``limited`` of those ``waiting`` are kept back by a limit of their group or function, the
    others can run now; ``bytes`` is what it takes of its ``max_bytes`` in Redis (both None without such a budget);
    ``oldest_age_seconds`` is the age of the oldest that can run (None without any); ``totals`` counts outcomes since
    the queue exists; ``blocked`` wait for other jobs and are not among those ``waiting``."""

    family: str
    waiting: int = 0
    active: int = 0
    delayed: int = 0
    parked: int = 0
    completed: int = 0
    failed: int = 0
    aborted: int = 0
    expired: int = 0
    paused: bool = False
    oldest_age_seconds: float | None = None
    workers: int = 0
    slots: int = 0
    totals: dict[str, int] = field(default_factory=dict)
    limited: int = 0
    blocked: int = 0
    bytes: int | None = None
    max_bytes: int | None = None


@dataclass(slots=True)
class WorkerInfo:
    """A process working a family; ``lease_seconds`` until it counts as dead (negative: it does), ``lag`` of its event
    loop in seconds, ``memory`` it takes in bytes (None where it does not tell), ``stalled``: the last job that blocked
    its loop (``at``, ``seconds``, ``job_id``, ``function``, ``where``, ``stack``)."""

    session: str
    family: str
    lease_seconds: float
    holds: int
    host: str = ""
    pid: int = 0
    slots: int = 0
    running: int = 0
    draining: bool = False
    functions: list[str] = field(default_factory=list)
    shared_limits: list[str] = field(default_factory=list)
    max_tries: dict[str, int] = field(default_factory=dict)
    started: datetime | None = None
    mean_seconds: float | None = None
    lag: float = 0.0
    memory: int | None = None
    stalled: dict[str, Any] | None = None


async def read_queues(redis: Any, families: Sequence[FamilyKeys]) -> list[QueueStats]:
    """Give the stats of families, in as many round trips as one has.

    Raises:
        RedisUnavailable, RedisRefused: never zeros instead.
    """
    with translated():
        found = await _by_place(redis, families, _read_queues)
    for stats, workers in zip(found, await read_workers(redis, families), strict=True):
        live = [worker for worker in workers if worker.lease_seconds > 0]
        stats.workers, stats.slots = len(live), sum(worker.slots for worker in live)
    return found


async def _by_place(
    redis: Any, families: Sequence[FamilyKeys], read: Callable[[Any, Sequence[FamilyKeys], int], Awaitable[list[T]]]
) -> list[T]:
    """Read of families server by server, each by its own clock; gives what was read in their order."""
    groups = by_place(redis, families, lambda keys: keys.queue)
    found: dict[str, T] = {}
    for group in groups.values():
        answers = await read(redis, group, await server_ms(redis, group[0]))
        found |= {keys.family: answer for keys, answer in zip(group, answers, strict=True)}
    return [found[keys.family] for keys in families]


async def _read_queues(redis: Any, families: Sequence[FamilyKeys], now: int) -> list[QueueStats]:
    async with redis.pipeline(transaction=False) as pipe:
        for keys in families:
            pipe.zcount(keys.queue, "-inf", f"({now + 1}")
            pipe.zcount(keys.queue, SUSPECT, f"({BLOCKED}")
            pipe.zcount(keys.queue, LANE, f"({PARKED}")
            pipe.zcount(keys.queue, HELD, f"({SUSPECT}")
            pipe.zcount(keys.queue, now + 1, f"({HELD}")
            pipe.zcount(keys.queue, PARKED, "+inf")
            pipe.zcount(keys.queue, BLOCKED, f"({LANE}")
            for index in INDEX.values():
                pipe.zcard(keys.key(index))
            pipe.hmget(keys.key("conf"), budget.CONF).hmget(keys.key("clock"), budget.CLOCK)
            pipe.hget(keys.key("conf"), "paused")
            pipe.hgetall(keys.key("totals"))
        answers = await pipe.execute()
    each = len(answers) // len(families)
    ages = await _oldest_ages(redis, families, now)
    return [
        _stats(keys, answers[number * each : (number + 1) * each], age)
        for number, (keys, age) in enumerate(zip(families, ages, strict=True))
    ]


def _stats(keys: FamilyKeys, answers: Sequence[Any], age: float | None) -> QueueStats:
    ready, suspects, limited, *counts, conf, clock, paused, totals = answers
    stats = QueueStats(keys.family, ready + suspects + limited, paused=paused is not None)
    for name, count in zip(("active", "delayed", "parked", "blocked", *INDEX), counts, strict=True):
        setattr(stats, name, count)
    stats.limited, stats.oldest_age_seconds = limited, age
    _add_bytes(stats, conf, clock)
    stats.totals = {name.decode(): int(count) for name, count in totals.items()}
    return stats


def _add_bytes(stats: QueueStats, *found: Iterable[bytes | None]) -> None:
    texts = [[None if value is None else value.decode() for value in values] for values in found]
    conf, clock = (
        dict(zip(names, values, strict=True)) for names, values in zip((budget.CONF, budget.CLOCK), texts, strict=True)
    )
    taken = budget.read_budget(conf, clock)
    if taken is not None:
        stats.bytes, stats.max_bytes = taken.bytes, taken.max_bytes


async def _oldest_ages(redis: Any, families: Sequence[FamilyKeys], now: int) -> list[float | None]:
    """The head of each level is its oldest; one that came due waits since its due time."""
    async with redis.pipeline(transaction=False) as pipe:
        for keys in families:
            for level in range(1, 11):
                low = READY_BASE + level * LEVEL
                pipe.zrangebyscore(keys.queue, low, f"({low + LEVEL}", start=0, num=1)
            pipe.zrangebyscore(keys.queue, 0, now, start=0, num=1, withscores=True)
        found = await pipe.execute()
        heads = [[head[0] for head in found[at : at + 10] if head] for at in range(0, len(found), 11)]
        for job_id in (job_id for ids in heads for job_id in ids):
            pipe.getrange(JOB.encode() + job_id, 0, _HEAD)
        records = iter(await pipe.execute() if any(heads) else [])
    ages: list[float | None] = []
    for ids, due in zip(heads, found[10::11], strict=True):
        since = [int(score) for _, score in due if score > 1]
        for record in (next(records) for _ in ids):
            with contextlib.suppress(Unreadable):
                since.append(split_head(record)[0].stamp)
        ages.append(max(0.0, (now - min(since)) / 1000) if since else None)
    return ages


async def oldest_of_group(redis: Any, keys: FamilyKeys, group: str) -> float | None:
    """Give the age of the oldest waiting job of a group, seconds; None where none is found.

    Groups take turns, so its next job stands near the head of its level: it is looked for among the first `_NEAR` of
    each, and in the group's line where that has a limit.
    """
    now = await server_ms(redis, keys)
    async with redis.pipeline(transaction=False) as pipe:
        for level in range(1, 11):
            low = READY_BASE + level * LEVEL
            pipe.zrangebyscore(keys.queue, low, f"({low + LEVEL}", start=0, num=_NEAR)
        pipe.zrangebyscore(keys.queue, 0, now, start=0, num=_NEAR)
        pipe.zrange(keys.key("lane", lane_of_group(group)), 0, 0)
        ids = [job_id for found in await pipe.execute() for job_id in found]
        for job_id in ids:
            pipe.getrange(JOB.encode() + job_id, 0, _HEAD + len(group.encode()))
        records = await pipe.execute() if ids else []
    since = []
    for record in records:
        with contextlib.suppress(Unreadable):
            head = split_record(record)
            if head.group == group:
                since.append(head.stamp)
    return max(0.0, (now - min(since)) / 1000) if since else None


async def read_workers(redis: Any, families: Sequence[FamilyKeys]) -> list[list[WorkerInfo]]:
    """Give the processes that work each of some families.

    Raises: as `read_queues`.
    """
    with translated():
        return await _by_place(redis, families, _read_workers)


async def _read_workers(redis: Any, families: Sequence[FamilyKeys], now: int) -> list[list[WorkerInfo]]:
    async with redis.pipeline(transaction=False) as pipe:
        for keys in families:
            pipe.zrange(keys.key("workers"), 0, -1, withscores=True)
        leases = await pipe.execute()
        for keys, sessions in zip(families, leases, strict=True):
            for session, _ in sessions:
                pipe.hget(keys.key("session", session.decode()), "info")
                pipe.hlen(keys.key("held", session.decode()))
        found = iter(await pipe.execute() if any(leases) else [])
    return [
        [_worker(keys.family, session.decode(), (end - now) / 1000, next(found), next(found)) for session, end in of]
        for keys, of in zip(families, leases, strict=True)
    ]


def _worker(family: str, session: str, lease: float, info: bytes | None, holds: int) -> WorkerInfo:
    """Read what a worker publishes; one of a later release may tell more than is known here."""
    told = {name: value for name, value in json.loads(info or b"{}").items() if name in WorkerInfo.__slots__}
    if told.get("started"):
        told["started"] = _moment(told["started"])
    if told.get("stalled"):
        told["stalled"] = {**told["stalled"], "at": _moment(told["stalled"]["at"])}
    return WorkerInfo(session, family, lease, holds, **told)


def _moment(seconds: float) -> datetime:
    return from_ms(round(seconds * 1000))
