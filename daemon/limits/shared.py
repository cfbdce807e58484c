"""Limits that families share: the calls of ``lua/permits.lua``, and what there is of a limit.

What a worker does with its permits is in `permits`; an operator changes limits by `queue_limits`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from redis.exceptions import NoScriptError

from daemon.family import RateLimit, SharedLimit
from daemon.job import from_ms
from daemon.keys import LimitKeys
from daemon.limits.text import LaneLimit, rate_text
from daemon.lua import SCRIPTS


class Grant(NamedTuple):
    """What came of asking: ``wait`` is after how many ms to ask again, ``good_us`` how long the permits may be used.

    ``by_jobs``: there are none before a job of somebody ends.
    """

    permits: int
    wait: int = 0
    good_us: int = 0
    by_jobs: bool = False


class LimitBroker:
    """The script of one shared limit for one holder; errors of redis-py come out as they are.

    Args:
        redis: an asynchronous redis-py client without response decoding.
        limit: its name and its numbers in this family's settings.
        holder: ``<family>:<session>``.
        lease_ms: after so long a silence what it holds is free again.
        now: a test's clock in ms since the epoch; None is the server's.
    """

    def __init__(self, redis: Any, limit: SharedLimit, holder: str, lease_ms: int, now: int | None = None) -> None:
        self.redis = redis
        self.keys = LimitKeys(limit.name)
        self.holder = holder
        self.lease_ms = lease_ms
        self.now = now
        self._text = LaneLimit(limit.concurrency, limit.rate).as_text()
        self._number = 0

    async def ask(self, running: int, used: int = 0, late: bool = False, wanted: int = 0) -> Grant:
        """Tell what was used and what runs; take up to ``wanted`` permits, which replace any from before.

        Args:
            running: jobs that run now.
            used: how many of the last permits jobs were claimed with.
            late: whether some of them were used when they were not good any more.
            wanted: -1 leaves for good.
        """
        self._number += 1
        command = self._call(self._number, running, used, int(late), wanted)
        try:
            reply = await self.redis.execute_command(*command)
        except NoScriptError:
            reply = await self.redis.execute_command("EVAL", SCRIPTS["permits"].text, *command[2:])
        return Grant(0) if reply[0] < 0 else Grant(reply[0], reply[1], reply[2], reply[3] == b"1")

    def renewal(self) -> tuple[Any, ...]:
        """Give the command that renews the lease; it answers ``[0]`` when what was held has been given to others."""
        return self._call(-1, 0, 0, 0, 0)

    def _call(self, number: int, *values: int) -> tuple[Any, ...]:
        clock = "" if self.now is None else self.now
        start = ("EVALSHA", SCRIPTS["permits"].sha, 2, *self.keys.scripts, self.keys.prefix, clock)
        return (*start, self.holder, number, self.lease_ms, self._text, *values)


@dataclass(frozen=True, slots=True)
class SharedLimitInfo:
    """A shared limit as it is in force.

    Attributes:
        source: who set it: the ``settings`` of the workers there are, or an ``operator``, who wins.
        concurrency: jobs at the same time over all families, None for any number.
        rate: starts per period over all families, ``50/1s``, None for any number.
        running: jobs of each family that run, permits just taken included; a family that runs none has 0.
        starts: starts counted in the period that ends now.
        waiting: families with workers that wait for permits, who waits longest first.
        full_until: when the rate lets the next job start, None when it does now.
    """

    name: str
    source: Literal["settings", "operator"] = "settings"
    concurrency: int | None = None
    rate: str | None = None
    running: dict[str, int] = field(default_factory=dict)
    starts: int = 0
    waiting: list[str] = field(default_factory=list)
    full_until: datetime | None = None

    @property
    def full(self) -> bool:
        """Whether as many jobs run as may."""
        return self.concurrency is not None and sum(self.running.values()) >= self.concurrency


class _Holder(NamedTuple):
    """An entry of ``holders`` as lua/permits.lua writes it: times in ms, ``good`` and ``since`` in microseconds."""

    family: str
    till: int
    jobs: int
    permits: int
    good: int
    since: int
    limit: LaneLimit

    @classmethod
    def read(cls, holder: bytes, text: bytes) -> _Holder:
        _, till, jobs, permits, good, since, _, limit = text.decode().split(" ")
        family = holder.decode().rpartition(":")[0]
        return cls(family, int(till), int(jobs), int(permits), int(good), int(since), LaneLimit.from_text(limit))


async def read_shared(redis: Any, names: Iterable[str]) -> list[SharedLimitInfo]:
    """Read these shared limits; one that no running worker has and nobody set limits nothing."""
    found = []
    for name in names:
        keys = LimitKeys(name)
        async with redis.pipeline(transaction=False) as pipe:
            pipe.hmget(keys.key("conf"), "own:jobs", "own:rate", "starts").hgetall(keys.key("holders")).time()
            conf, raw, (second, us) = await pipe.execute()
        holders = [_Holder.read(key, text) for key, text in sorted(raw.items())]
        found.append(_info(name, conf, holders, int(second) * 1_000_000 + int(us)))
    return found


def _info(name: str, conf: Sequence[bytes | None], holders: Sequence[_Holder], now_us: int) -> SharedLimitInfo:
    own_jobs, own_rate, starts = conf
    alive = [holder for holder in holders if holder.till * 1000 >= now_us]
    jobs = min((h.limit.concurrency for h in alive if h.limit.concurrency is not None), default=None)
    # Of different limits the smallest counts, as in the script.
    rates = (h.limit.rate for h in alive if h.limit.rate is not None)
    rate = min(rates, key=lambda rate: rate.count / rate.per, default=None)
    if own_jobs is not None:
        jobs = int(own_jobs) if own_jobs else None
    if own_rate is not None:
        rate = LaneLimit.from_text("|" + own_rate.decode()).rate
    running: dict[str, int] = {}
    for holder in alive:
        running[holder.family] = running.get(holder.family, 0) + holder.jobs
    line = sorted((holder.since, holder.family) for holder in alive if holder.since)
    started, until = _window(rate, starts or b"", holders, now_us) if rate else (0, None)
    return SharedLimitInfo(
        name,
        "settings" if own_jobs is None and own_rate is None else "operator",
        jobs,
        rate_text(rate) if rate else None,
        running,
        started,
        list(dict.fromkeys(family for _, family in line)),
        until,
    )


def _window(rate: RateLimit, starts: bytes, holders: Sequence[_Holder], now_us: int) -> tuple[int, datetime | None]:
    """Give the starts that count now, and when the rate lets the next one."""
    period = round(rate.per * 1_000_000)
    entries = [(int(us), int(count)) for us, count in re.findall(rb"(\d+):(\d+)", starts)]
    entries += [(holder.good, holder.permits) for holder in holders if holder.permits]
    counted = sorted(entry for entry in entries if entry[0] > now_us - period)
    total = sum(count for _, count in counted)
    over = total - rate.count
    for us, count in counted if over >= 0 else ():
        over -= count
        if over < 0:
            return total, from_ms(-(-(us + period) // 1000))
    return total, None


async def known(redis: Any, name: str) -> bool:
    """Whether a worker ever had this shared limit, or an operator set it."""
    return bool(await redis.exists(LimitKeys(name).key("conf")))
