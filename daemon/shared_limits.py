"""Limits that families share: the calls of ``lua/permits.lua``, what there is of a limit, and an operator's changes.

What a worker does with its permits is in `daemon.permits`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from redis.exceptions import NoScriptError

from daemon.errors import InvalidJob
from daemon.family import SharedLimit
from daemon.job import from_ms
from daemon.keys import LimitKeys
from daemon.limits import NONE, LaneLimit, concurrency_of, rate_of, rate_text
from daemon.lua import SCRIPTS


class Grant(NamedTuple):
    """What came of asking: ``wait`` is after how many ms to ask again, ``good_us`` how long the permits may be used.

    ``by_jobs``: there are none before a job of somebody ends.
    """

    permits: int
    wait: int = 0
    good_us: int = 0
    by_jobs: bool = False


def limit_text(limit: SharedLimit) -> str:
    """Give the form the script reads."""
    return LaneLimit(limit.concurrency, limit.rate).as_text()


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
        self._text = limit_text(limit)
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
    """An entry of ``holders``, see lua/permits.lua; ``text`` is its settings' limit."""

    number: int
    till: int
    jobs: int
    permits: int
    good: int
    since: int
    asked: int
    text: str


async def read_shared(redis: Any, names: Iterable[str]) -> list[SharedLimitInfo]:
    """Read these shared limits; one that no worker ever had and nobody set limits nothing."""
    found = []
    for name in names:
        keys = LimitKeys(name)
        async with redis.pipeline(transaction=False) as pipe:
            pipe.hmget(keys.key("conf"), "own", "starts").hgetall(keys.key("holders")).time()
            (own, starts), holders, (second, us) = await pipe.execute()
        found.append(_info(name, own, starts or b"", holders, int(second) * 1_000_000 + int(us)))
    return found


def _info(
    name: str, own: bytes | None, starts: bytes, raw: Mapping[bytes, bytes], now_us: int
) -> SharedLimitInfo:
    holders: dict[str, _Holder] = {}
    for key, text in raw.items():
        *numbers, limit = text.decode().split(" ")
        holders[key.decode()] = _Holder(*(int(number) for number in numbers), limit)
    alive = {key: holder for key, holder in holders.items() if holder.till * 1000 >= now_us}
    limit = _in_force([own.decode()] if own is not None else [holder.text for holder in alive.values()])
    running: dict[str, int] = {}
    for key, holder in sorted(alive.items()):
        family = key.rpartition(":")[0]
        running[family] = running.get(family, 0) + holder.jobs
    line = sorted((holder.since, key.rpartition(":")[0]) for key, holder in alive.items() if holder.since)
    started, until = _window(limit, starts, list(holders.values()), now_us)
    return SharedLimitInfo(
        name,
        "settings" if own is None else "operator",
        limit.concurrency,
        rate_text(limit.rate) if limit.rate else None,
        running,
        started,
        list(dict.fromkeys(family for _, family in line)),
        until,
    )


def _in_force(texts: list[str]) -> LaneLimit:
    """Of different limits the smallest counts, as in the script."""
    limits = [LaneLimit.from_text(text) for text in texts]
    rates = [limit.rate for limit in limits if limit.rate]
    jobs = [limit.concurrency for limit in limits if limit.concurrency is not None]
    return LaneLimit(min(jobs, default=None), min(rates, key=lambda rate: rate.count / rate.per, default=None))


def _window(
    limit: LaneLimit, starts: bytes, holders: list[_Holder], now_us: int
) -> tuple[int, datetime | None]:
    if limit.rate is None:
        return 0, None
    period = round(limit.rate.per * 1_000_000)
    entries = [(int(us), int(count)) for us, count in re.findall(rb"(\d+):(\d+)", starts)]
    entries += [(holder.good, holder.permits) for holder in holders if holder.permits]
    counted = sorted(entry for entry in entries if entry[0] > now_us - period)
    total = sum(count for _, count in counted)
    over = total - limit.rate.count
    for us, count in counted if over >= 0 else ():
        over -= count
        if over < 0:
            return total, from_ms(-(-(us + period) // 1000))
    return total, None


async def known(redis: Any, name: str) -> bool:
    """Whether a worker ever had this shared limit, or an operator set it."""
    return bool(await redis.exists(LimitKeys(name).key("conf")))


async def change_shared(
    redis: Any, name: str, *, rate: str | None = None, concurrency: str | None = None, reset: bool = False
) -> None:
    """Set an operator's own limit, which wins over all settings, or take it back.

    Workers that wait for permits see it within a second, others at once. Running jobs are not stopped.

    Args:
        rate: ``50/s``, ``30/m`` or ``none``; None leaves it as it is in force.
        concurrency: jobs at the same time, or ``none``; None leaves it as it is in force.

    Raises:
        InvalidJob: for what is no limit, or a shared limit that nobody has.
    """
    key = LimitKeys(name).key("conf")
    if not await known(redis, name):
        raise InvalidJob(f"there is no shared limit {name!r}: no worker has had one of this name")
    if reset:
        await redis.hdel(key, "own")
    elif rate is not None or concurrency is not None:
        (now,) = await read_shared(redis, [name])
        limit = LaneLimit(
            now.concurrency if concurrency is None else concurrency_of(concurrency),
            rate_of(now.rate or NONE) if rate is None else rate_of(rate),
        )
        await redis.hset(key, "own", limit.as_text())
