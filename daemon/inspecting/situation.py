"""A job and what stands around it, from two looks at Redis; `explain` judges it.

The first look takes the job, the queue's limits and the leases of its workers. What it found says what to take in the
second: what workers publish, the job's lane, how many stand before it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from daemon.errors import Unreadable
from daemon.inspecting.job_info import HELD, LANE, LEVEL, PARKED, READY_BASE, SUSPECT, job_info
from daemon.job import JobInfo
from daemon.keys import IN_PROGRESS, JOB, RESULT, RETRY, FamilyKeys
from daemon.limits.queue_limits import fields_of, lane_of_function, lane_of_group
from daemon.limits.shared import SharedLimitInfo, read_shared
from daemon.records import Record, split_record

_CONF = ("paused", "until", "rate", "per", "global", "own:rate", "own:per", "own:global", "priority")
#: A job that moves between the two looks is looked at again, at most so often.
_LOOKS = 3
#: Most children that are named.
_AWAITED = 5


@dataclass(slots=True)
class Worker:
    """A session of this family's workers; ``info`` is what it publishes, ``holds`` whether it holds the job."""

    session: str
    lease_end: float
    info: dict[str, Any] = field(default_factory=dict)
    holds: bool = False

    @property
    def name(self) -> str:
        """Host and process id; the session where it has published none yet."""
        return f"{self.info['host']}:{self.info['pid']}" if "host" in self.info else self.session


@dataclass(slots=True)
class Window:
    """A rate limit and the starts of its last period, as window() in lua/room.lua writes them."""

    count: int
    per_us: int
    starts: bytes

    @property
    def seconds(self) -> float:
        """The period."""
        return self.per_us / 1_000_000

    def full_until(self, now_us: int) -> int | None:
        """Give when it lets the next one start, ms; None when it does now."""
        pairs = [pair.split(b":") for pair in self.starts.split()[1:]]
        entries = [(int(us), int(count)) for us, count in pairs if now_us - self.per_us < int(us) <= now_us]
        if sum(count for _, count in entries) < self.count:
            return None
        return -(-(min(entries)[0] + self.per_us) // 1000)


@dataclass(slots=True)
class Lane:
    """The line of a limited group or function a job stands in: how many before it, what runs, what may."""

    kind: str
    name: str
    rank: int
    active: int
    until: int
    limit: int | None
    window: Window | None


@dataclass(slots=True)
class Situation:
    """A job and its surroundings; times in ms since the epoch on Redis's clock.

    Attributes:
        score: its score in the queue, None when it has ended.
        conf: the queue's own switches and limits; a missing one is None.
        active: how many jobs of the queue run.
        window: the queue's rate limit.
        levels: how many wait at each level from 1 to its own.
        rank: how many have a lower score.
        due: how many came due before it, or at all where it has its place; theirs they get with the next claim.
        suspects: how many that run alone stand before it.
        shared: limits that its workers share with other families.
        awaited: some of the children it waits for; ``children_left`` of them have not ended, ``children_ended`` have.
    """

    keys: FamilyKeys
    name: bytes
    info: JobInfo
    record: Record | None
    score: float | None
    now_us: int
    conf: dict[str, bytes | None]
    active: int
    quiet: int
    window: Window | None
    workers: list[Worker]
    levels: list[int] = field(default_factory=list)
    rank: int = 0
    due: int = 0
    suspects: int = 0
    lane: Lane | None = None
    shared: list[SharedLimitInfo] = field(default_factory=list)
    awaited: list[bytes] = field(default_factory=list)
    children_left: int = 0
    children_ended: int = 0

    @property
    def now(self) -> int:
        """The time of the first look, ms."""
        return self.now_us // 1000

    @property
    def level(self) -> int:
        """Its level; the family's where it was given none."""
        return min(self.info.priority or int(self.conf["priority"] or 5), 10)

    @property
    def lanes(self) -> list[str]:
        """The lanes it may stand in."""
        if self.record is None or self.score is None or not LANE <= self.score < PARKED:
            return []
        return [lane_of_group(self.record.group), lane_of_function(self.record.function)]

    @property
    def global_limit(self) -> int | None:
        """How many jobs of the queue may run; an operator's limit wins, an empty one is none."""
        own = self.conf["own:global"]
        limit = self.conf["global"] if own is None else own
        return int(limit) if limit else None

    @property
    def live(self) -> list[Worker]:
        """Workers with a lease."""
        return [worker for worker in self.workers if worker.lease_end > self.now]

    @property
    def able(self) -> list[Worker]:
        """Those of them that claim jobs."""
        return [worker for worker in self.live if not worker.info.get("draining")]

    def before(self) -> dict[str, int]:
        """How many stand before it at each level that has any, and ``due``: those that get their places next."""
        assert self.score is not None
        counts = {str(level): count for level, count in enumerate(self.levels, 1)}
        counts["due"] = self.due
        if self.score < 0:
            counts[str(self.level)] = self.rank - sum(self.levels[:-1])
        return {level: count for level, count in counts.items() if count}


async def look(redis: Any, keys: FamilyKeys, job_id: str) -> Situation | None:
    """Look twice at a job by its id in Redis; None when nothing is left of it."""
    found = None
    for _ in range(_LOOKS):
        found = await _first_look(redis, keys, job_id)
        if found is None or found.score is None or await _second_look(redis, found):
            break
    return found


async def _first_look(redis: Any, keys: FamilyKeys, job_id: str) -> Situation | None:
    name = job_id.encode("utf-8", "surrogateescape")
    async with redis.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.mget([prefix.encode() + name for prefix in (JOB, RESULT, RETRY, IN_PROGRESS)])
        for kept in ("progress", "history", "crashes"):
            pipe.hget(keys.key(kept), name)
        pipe.zscore(keys.queue, name)
        pipe.hmget(keys.key("conf"), _CONF)
        pipe.hmget(keys.key("clock"), ("starts", "quiet"))
        pipe.zrange(keys.key("workers"), 0, -1, withscores=True)
        pipe.zcount(keys.queue, HELD, f"({SUSPECT}")
        (second, us), stored, *noted, score, values, (starts, quiet), leases, active = await pipe.execute()
    now_us = int(second) * 1_000_000 + int(us)
    info = job_info(keys, job_id, now_us // 1000, *[*stored, *noted, score])
    if info is None:
        return None
    try:
        record = split_record(stored[0] or b"")
    except Unreadable:
        record = None
    conf = dict(zip(_CONF, values, strict=True))
    own = "" if conf["own:rate"] is None else "own:"
    window = _window(conf[own + "rate"], conf[own + "per"], starts)
    workers = [Worker(session.decode(), end) for session, end in leases]
    return Situation(keys, name, info, record, score, now_us, conf, active, int(quiet or 0), window, workers)


async def _second_look(redis: Any, at: Situation) -> bool:
    """Add what the first look led to; False when the job has moved meanwhile."""
    assert at.score is not None
    key, queue, lanes = at.keys.key, at.keys.queue, at.lanes
    job_id = at.name.decode("utf-8", "surrogateescape")
    async with redis.pipeline(transaction=True) as pipe:
        for level in range(1, at.level + 1):
            low = READY_BASE + level * LEVEL
            pipe.zcount(queue, low, f"({low + LEVEL}")
        pipe.zscore(queue, at.name)
        pipe.zrank(queue, at.name)
        pipe.zcount(queue, 0, f"({at.score:.17g}" if 0 <= at.score < at.now + 1 else at.now)
        pipe.zcount(queue, SUSPECT, f"({at.score:.17g}")
        pipe.srandmember(key("pending", job_id), _AWAITED)
        pipe.scard(key("pending", job_id))
        pipe.hlen(key("children", job_id))
        for lane in lanes:
            pipe.hmget(key("limits"), [f"until:{lane}", *fields_of(lane)])
            pipe.hget(key("active"), lane)
            pipe.hget(key("windows"), lane)
            pipe.zrank(key("lane", lane), at.name)
        for worker in at.workers:
            pipe.hget(key("session", worker.session), "info")
            pipe.hexists(key("held", worker.session), at.name)
        found = iter(await pipe.execute())
    at.levels = [next(found) for _ in range(at.level)]
    score, at.rank, at.due, at.suspects = (next(found) for _ in range(4))
    at.awaited, at.children_left, at.children_ended = sorted(next(found)), next(found), next(found)
    for lane in lanes:
        limits, active, starts, rank = (next(found) for _ in range(4))
        if rank is not None:
            at.lane = _lane(lane, rank, int(active or 0), starts, limits)
    for worker in at.workers:
        worker.info, worker.holds = json.loads(next(found) or b"{}"), bool(next(found))
    names = dict.fromkeys(name for worker in at.able for name in worker.info.get("shared_limits", ()))
    at.shared = await read_shared(redis, names)
    return bool(score == at.score)


def _window(count: bytes | None, per_us: bytes | None, starts: bytes | None) -> Window | None:
    return Window(int(count), int(per_us), starts or b"") if count and per_us else None


def _lane(lane: str, rank: int, active: int, starts: bytes | None, limits: Sequence[bytes | None]) -> Lane:
    """Read a lane; ``limits`` are the end of its wait and what its `fields_of` hold."""
    until, *specs = limits
    jobs, count, per_us = next((spec for spec in specs if spec is not None), b"||").split(b"|")
    kind = "group" if lane.startswith("g:") else "function"
    limit = int(jobs) if jobs else None
    return Lane(kind, lane[2:], rank, active, int(until or 0), limit, _window(count, per_us, starts))
