"""Limits of a queue, of its groups and functions ("lanes"), and those it shares: from settings, and an operator's own.

An operator's win over the settings' until they are reset; scripts read both (``lua/room.lua``, ``lua/lanes.lua``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from daemon.broker import Broker
from daemon.errors import InvalidJob
from daemon.family import Family, RateLimit
from daemon.inspecting.job_info import HELD, SUSPECT
from daemon.job import from_ms
from daemon.keys import FamilyKeys, LimitKeys
from daemon.limits.budget import Budget, budget_change, read_budget
from daemon.limits.shared import SharedLimitInfo, known, read_shared
from daemon.limits.text import NONE, LaneLimit, concurrency_of, rate_of, rate_text

LARGEST_WEIGHT = 64
#: Of a group or a function.
LONGEST_NAME = 256

#: Functions that a warning names.
TOLD = 20

#: A group's kind is what its name has before the first colon; functions have none (``cron:nightly`` is arq's name).
_KIND = re.compile(r"g:[^:]+:")

#: What `daemon.broker.Broker.set_limits` takes: ``conf`` or ``limits``, field, value; ``-`` removes it.
Change = tuple[str, str, str]
Scope = Literal["queue", "group", "function"]


@dataclass(frozen=True, slots=True)
class LimitInfo:
    """A limit as it is set.

    Attributes:
        scope: what it is for: the ``queue``, a ``group``, a ``function``.
        name: the group or function, ``*`` for each without a limit of its own, ``<kind>:*`` for each group of a kind,
            None for the queue.
        source: ``settings`` or ``operator``; the latter wins.
        concurrency: jobs at the same time over all processes; ``none``: any number; None: it says nothing of it.
        rate: starts per period over all processes, ``50/1s``, or the same words.
    """

    scope: Scope
    name: str | None
    source: Literal["settings", "operator"]
    concurrency: int | str | None = None
    rate: str | None = None

    @property
    def is_each(self) -> bool:
        """Whether each of many may do so much, and not one alone."""
        return self.name == "*" or (self.scope == "group" and self.name is not None and is_kind(self.name))


@dataclass(frozen=True, slots=True)
class FamilyLimits:
    """The limits of a family.

    Attributes:
        limits: as they are set.
        waits: until when a handler's `RetryAfter` makes a lane wait; ``""`` is the queue.
        running: jobs that run now of each lane that has a limit; ``""`` is the queue.
        weights: turns of each group that has more than one.
        shared: limits that its running workers share with other families.
        budget: bytes it may take in Redis and takes, None where nobody has set any.
        warnings: an operator's limits that hold for nothing, since nobody has the function they name.
    """

    family: str
    limits: list[LimitInfo]
    waits: dict[str, datetime]
    running: dict[str, int]
    weights: dict[str, int]
    shared: list[SharedLimitInfo] = field(default_factory=list)
    budget: Budget | None = None
    warnings: list[str] = field(default_factory=list)


def lane_of_group(group: str) -> str:
    """The lane of a group; ``*`` is every group without a limit of its own, ``<kind>:*`` every such one of a kind."""
    return f"g:{group}"


def lane_of_function(function: str) -> str:
    """The lane of a function."""
    return f"f:{function}"


def is_kind(group: str) -> bool:
    """Whether it names a kind of groups and not one: ``<kind>:*``."""
    lane = lane_of_group(group)
    found = _KIND.match(lane)
    return found is not None and lane == found[0] + "*"


def fields_of(lane: str) -> list[str]:
    """Give the fields a lane's limit may stand in; the first that is there counts (``limits_of`` in lua/lanes.lua)."""
    kind = _KIND.match(lane)
    kinds = [f"{kind[0]}*", f"s:{kind[0]}*"] if kind else []
    every = lane[:2] + "*"
    return [lane, *kinds, every, f"s:{lane}", f"s:{every}"]


def lanes_of_settings(family: Family) -> Mapping[str, str]:
    """Give the lane limits a family's settings ask for, by the field scripts look them up under."""
    values = family.values
    found = {"g:*": LaneLimit(values.group_limit, values.group_rate)}
    found |= {lane_of_group(kind): LaneLimit(jobs, values.group_rate) for kind, jobs in values.group_limits.items()}
    found |= {lane_of_function(f.name): LaneLimit(f.global_limit, f.rate_limit) for f in family.functions.values()}
    return {f"s:{lane}": limit.as_text() for lane, limit in found.items() if limit != LaneLimit()}


def queue_changes(
    rate: str | None = None, concurrency: str | None = None, max_bytes: str | None = None
) -> list[Change]:
    """Give the changes that set limits of the queue; None leaves one as it is.

    Raises:
        InvalidJob: for what is no limit.
    """
    changes: list[Change] = []
    if rate is not None:
        limit = rate_of(rate)
        changes.append(("conf", "own:rate", str(limit.count) if limit else ""))
        changes.append(("conf", "own:per", str(round(limit.per * 1_000_000)) if limit else ""))
    if concurrency is not None:
        jobs = concurrency_of(concurrency)
        changes.append(("conf", "own:global", "" if jobs is None else str(jobs)))
    if max_bytes is not None:
        changes.append(budget_change(max_bytes))
    return changes


async def lane_changes(
    redis: Any, keys: FamilyKeys, lane: str, rate: str | None = None, concurrency: str | None = None
) -> list[Change]:
    """Give the changes that set limits of a lane; None leaves one as it is in force now.

    Raises:
        InvalidJob: for what is no limit.
    """
    if rate is None and concurrency is None:
        return []
    found = await redis.hmget(keys.key("limits"), fields_of(lane))
    now = next((LaneLimit.from_text(text.decode()) for text in found if text is not None), LaneLimit())
    limit = LaneLimit(
        now.concurrency if concurrency is None else concurrency_of(concurrency),
        now.rate if rate is None else rate_of(rate),
    )
    return [("limits", lane, limit.as_text())]


def weight_changes(group: str, weight: int) -> list[Change]:
    """Give the change that lets a group have so many turns where others have one.

    Raises:
        InvalidJob: for a weight that is not 1 to 64.
    """
    if not 1 <= weight <= LARGEST_WEIGHT:
        raise InvalidJob(f"a weight is 1 to {LARGEST_WEIGHT} turns, not {weight}")
    return [("conf", f"weight:{group}", str(weight) if weight > 1 else "-")]


def reset_changes(lane: str | None = None) -> list[Change]:
    """Give the changes that make the settings' limits of the queue or of a lane count again, and end a wait."""
    if lane is None:
        return [("conf", field, "-") for field in ("own:rate", "own:per", "own:global", "own:max_bytes", "until")]
    weight: list[Change] = [("conf", f"weight:{lane[2:]}", "-")] if lane.startswith("g:") else []
    return [("limits", lane, "-"), ("limits", f"until:{lane}", "-"), *weight]


async def change_limits(
    redis: Any, keys: FamilyKeys, *, rate: str | None = None, concurrency: str | None = None, group: str | None = None,
    function: str | None = None, weight: int | None = None, max_bytes: str | None = None, reset: bool = False,
    functions: Iterable[str] = (),
) -> FamilyLimits:  # fmt: skip
    """Change limits of the queue, or of one group or function, while it runs; gives all of them as they are then.

    Args:
        rate: ``50/s``, ``30/m`` or ``none``; None leaves it as it is, here and below.
        concurrency: jobs at the same time, or ``none``.
        group, function: whose limits; ``*``: of each without limits of its own; group ``<kind>:*``: of each such one
            whose name begins with ``<kind>:``.
        weight: turns of the group where others have one.
        max_bytes: what the queue may take in Redis, ``500MB`` or ``none``.
        reset: take back what was set so, and end a wait.
        functions: as for `read_limits`.

    Raises:
        InvalidJob: for what is no limit, or what does not go together; nothing was changed.
    """
    _refuse_mixed(rate, concurrency, group, function, weight, max_bytes, reset)
    lane = lane_of_group(group) if group else lane_of_function(function) if function else None
    changes: list[Change] = []
    if reset:
        changes = reset_changes(lane)
    elif lane is None:
        changes = queue_changes(rate, concurrency, max_bytes)
    else:
        changes = await lane_changes(redis, keys, lane, rate, concurrency)
    if weight is not None and group:
        changes += weight_changes(group, weight)
    if changes:
        await Broker(redis, keys).set_limits(changes)
    return await read_limits(redis, keys, functions)


def _refuse_mixed(
    rate: str | None, concurrency: str | None, group: str | None, function: str | None, weight: int | None,
    max_bytes: str | None, reset: bool,
) -> None:  # fmt: skip
    if group is not None and function is not None:
        raise InvalidJob("give group or function, not both")
    named = (group or "") + (function or "")
    if "" in (group, function) or not named.isprintable() or len(named) > LONGEST_NAME:
        raise InvalidJob(f"a group or function has a name of plain text, at most {LONGEST_NAME} characters")
    if reset and any(value is not None for value in (rate, concurrency, weight, max_bytes)):
        raise InvalidJob("reset takes back all that was set: give it alone")
    if weight is not None and (group in (None, "*") or is_kind(group)):
        raise InvalidJob("weight is that of a group: name it")
    if max_bytes is not None and (group or function):
        raise InvalidJob("max_bytes is for the whole queue")


async def read_limits(redis: Any, keys: FamilyKeys, functions: Iterable[str] = ()) -> FamilyLimits:
    """Read all limits of a family, the settings' as its workers have published them.

    Args:
        functions: those of the family that are registered here: of what neither they nor a worker has, `warnings` tell.
    """
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hgetall(keys.key("conf")).hgetall(keys.key("limits")).hgetall(keys.key("active")).time()
        pipe.zcount(keys.queue, HELD, f"({SUSPECT}").zrange(keys.key("workers"), 0, -1)
        pipe.hgetall(keys.key("clock"))
        raw = await pipe.execute()
    conf, lanes, active = ({k.decode(): v.decode() for k, v in found.items()} for found in raw[:3])
    now = raw[3][0] * 1000
    told = {field.removeprefix("until:"): ms for field, ms in lanes.items() if field.startswith("until:")}
    waits = {lane: from_ms(int(ms)) for lane, ms in {"": conf.get("until", "0"), **told}.items() if int(ms) > now}
    limits = [*_queue_limits(conf)]
    for lane, text in sorted(lanes.items()):
        if not lane.startswith("until:"):
            limits.append(_lane_limit(lane, LaneLimit.from_text(text)))
    weights = {field[7:]: int(weight) for field, weight in conf.items() if field.startswith("weight:")}
    running = {"": int(raw[4]), **{lane: int(jobs) for lane, jobs in active.items()}}
    published = await _published(redis, keys, raw[5])
    shared = await read_shared(redis, sorted({name for info in published for name in info.get("shared_limits", ())}))
    clock = {k.decode(): v.decode() for k, v in raw[6].items()}
    known = {*functions, *(name for info in published for name in info.get("functions", ()))}
    warnings = _for_nothing(keys.family, limits, known)
    return FamilyLimits(keys.family, limits, waits, running, weights, shared, read_budget(conf, clock), warnings)


async def _published(redis: Any, keys: FamilyKeys, sessions: list[bytes]) -> list[dict[str, Any]]:
    """Read what workers publish of themselves."""
    async with redis.pipeline(transaction=False) as pipe:
        for session in sessions:
            pipe.hget(keys.key("session", session.decode()), "info")
        return [json.loads(info) for info in (await pipe.execute() if sessions else []) if info]


def _for_nothing(family: str, limits: Sequence[LimitInfo], known: set[str]) -> list[str]:
    """Tell of an operator's limits of functions that nobody has; of none where nobody could say which there are."""
    return [
        f"{family} has no function {limit.name!r}: its limit counts once a worker has one "
        f"(known are {', '.join(sorted(known)[:TOLD])}{' …' if len(known) > TOLD else ''})"
        for limit in limits
        if limit.scope == "function" and limit.source == "operator" and known and limit.name not in {"*", *known}
    ]


async def change_shared(
    redis: Any, name: str, *, rate: str | None = None, concurrency: str | None = None, reset: bool = False
) -> SharedLimitInfo:
    """Set an operator's own limit for all families that share one, which wins over their settings, or take it back.

    Workers that wait for permits see it within a second, others at once. Running jobs are not stopped.

    Args:
        rate: ``50/s``, ``30/m`` or ``none``; None leaves it as it is.
        concurrency: jobs at the same time, or ``none``; None leaves it as it is.

    Raises:
        InvalidJob: for what is no limit, or a shared limit that no worker ever had.
    """
    key = LimitKeys(name).key("conf")
    if not await known(redis, name):
        raise InvalidJob(f"there is no shared limit {name!r}: no worker has had one of this name")
    own: dict[str, str] = {}
    if rate is not None:
        own["own:rate"] = LaneLimit(None, rate_of(rate)).as_text()[1:]
    if concurrency is not None:
        own["own:jobs"] = LaneLimit(concurrency_of(concurrency)).as_text().partition("|")[0]
    if reset:
        await redis.hdel(key, "own:rate", "own:jobs")
    elif own:
        await redis.hset(key, mapping=own)
    return (await read_shared(redis, [name]))[0]


def _queue_limits(conf: Mapping[str, str]) -> list[LimitInfo]:
    found = []
    sources: tuple[tuple[Literal["settings", "operator"], str], ...] = (("settings", ""), ("operator", "own:"))
    for source, own in sources:
        count, per, jobs = (conf.get(own + field) for field in ("rate", "per", "global"))
        rate = RateLimit(int(count), int(per) / 1_000_000) if count and per else None
        if count is not None or jobs is not None:
            concurrency = None if jobs is None else int(jobs) if jobs else NONE
            found.append(LimitInfo("queue", None, source, concurrency, None if count is None else rate_text(rate)))
    return found


def _lane_limit(field: str, limit: LaneLimit) -> LimitInfo:
    lane = field.removeprefix("s:")
    scope: Scope = "group" if lane.startswith("g:") else "function"
    concurrency = NONE if limit.concurrency is None else limit.concurrency
    source: Literal["settings", "operator"] = "operator" if lane == field else "settings"
    return LimitInfo(scope, lane[2:], source, concurrency, rate_text(limit.rate))
