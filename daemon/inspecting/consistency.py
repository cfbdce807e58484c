"""Does everything in Redis belong together? ``arqd check --deep`` and the fault tests count what does not: leaks.

A leak is a key or an entry that outlived what it belongs to, or lacks what it needs: a payload without an entry in the
queue, an active job nobody holds, a crash count of a job that has ended. Nothing is changed.

The queue goes on meanwhile, and what is read is no snapshot: whatever looks wrong is looked at once more, and only what
still looks wrong in the same way counts.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from daemon.connecting.routed import node_of
from daemon.inspecting.job_info import BLOCKED, HELD, LANE, PARKED, SUSPECT
from daemon.keys import IN_PROGRESS, JOB, RESULT, RETRY, FamilyKeys

if TYPE_CHECKING:
    from daemon.family import Family

#: Between the two looks, seconds: longer than a script takes by far.
AGAIN_SECONDS = 0.5
INDEXES = ("completed", "dead", "aborted", "expired")
_PAGE = 1000
#: A claim's value of an in-progress key; any other is a stock worker's.
_TOKEN = re.compile(rb"[0-9a-f]+:\d+")
_BANDS = {"held": (HELD, SUSPECT), "blocked": (BLOCKED, LANE), "lane": (LANE, PARKED), "parked": (PARKED, math.inf)}

#: Hashes with a field for each job, and where these jobs may be: in the queue ("live"), among the dead letters, in any
#: index ("ended").
_BY_JOB = {
    "crashes": ("live",),
    "progress": ("live",),
    "waiters": ("live",),
    "history": ("live", "dead"),
    "receipts": ("live", "dead"),
    "logs": ("live", "ended"),
    "sizes": ("live", "ended"),
    "caused": ("dead",),
}
#: Sorted sets beside an index, whose members must be in it.
_BESIDE = {
    "kept:completed": "completed",
    "counted:completed": "completed",
    "kept:dead": "dead",
    "counted:dead": "dead",
    "archived": "dead",
}


class Leak(NamedTuple):
    """What is wrong (``kind``, in words) and with which job, session or key (``name``)."""

    kind: str
    name: str


@dataclass(slots=True)
class Findings:
    """What a family's keys show: how many jobs were looked at, and the leaks."""

    jobs: int
    leaks: list[Leak]

    def by_kind(self) -> Mapping[str, list[str]]:
        """Give the names of each kind."""
        found: dict[str, list[str]] = defaultdict(list)
        for leak in self.leaks:
            found[leak.kind].append(leak.name)
        return found


@dataclass(slots=True)
class _State:
    """What was read of one family."""

    queue: dict[bytes, float] = field(default_factory=dict)
    indexes: dict[str, dict[bytes, float]] = field(default_factory=dict)
    #: Ids by kind of key: payloads, results, tries, in-progress.
    keys: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    #: Names behind the family's tag: "held:<session>", "lane:<lane>".
    own: set[bytes] = field(default_factory=set)
    workers: set[bytes] = field(default_factory=set)
    held: dict[bytes, list[bytes]] = field(default_factory=dict)
    fields: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    members: dict[str, set[bytes]] = field(default_factory=dict)

    def places(self, names: Iterable[str]) -> set[bytes]:
        """Give the ids of jobs that are in one of these places."""
        found: set[bytes] = set()
        for name in names:
            if name == "live":
                found |= self.queue.keys()
            elif name == "ended":
                found |= set().union(*self.indexes.values())
            else:
                found |= self.indexes[name].keys()
        return found

    def in_band(self, name: str) -> set[bytes]:
        """Give the jobs of the queue in a band of scores."""
        low, high = _BANDS[name]
        return {job for job, score in self.queue.items() if low <= score < high}


async def find_leaks(redis: Any, family: Family) -> Findings:
    """Look through all of a family's keys; takes about a second for every 50,000 jobs.

    Args:
        redis: an asynchronous client without response decoding.
        family: its keys, and for how long its results are kept.
    """
    # All of the family is on one server: a look through the keys of others would find nothing.
    redis = await node_of(redis, family.keys.queue)
    state = await _read(redis, family.keys)
    leaks = set(await _judge(redis, family, state))
    if leaks:
        await asyncio.sleep(AGAIN_SECONDS)
        state = await _read(redis, family.keys)
        leaks &= set(await _judge(redis, family, state))
    return Findings(len(state.places(("live", "ended"))), sorted(leaks))


# ---------------------------------------------------------------------- reading


async def _read(redis: Any, keys: FamilyKeys) -> _State:
    state = _State()
    prefix = keys.prefix.encode()
    kinds = {name: name.encode() for name in (JOB, RESULT, RETRY, IN_PROGRESS)}
    async for key in redis.scan_iter(count=_PAGE):
        if key.startswith(prefix):
            state.own.add(key[len(prefix) :])
            continue
        for name, start in kinds.items():
            if key.startswith(start):
                state.keys[name].add(key[len(start) :])
    state.queue = await _scores(redis, keys.queue)
    for index in INDEXES:
        state.indexes[index] = await _scores(redis, keys.key(index))
    state.workers = set(await _scores(redis, keys.key("workers")))
    for own in state.own:
        kind, _, rest = own.partition(b":")
        if kind == b"held":
            state.held[rest] = [job async for job, _ in redis.hscan_iter(prefix + own, count=_PAGE)]
        elif kind in (b"lane", b"parked", b"cause") and rest:
            state.members[own.decode("utf-8", "surrogateescape")] = set(await _scores(redis, prefix + own))
    for name in (*_BY_JOB, "dedup", "causes", "flows"):
        state.fields[name] = {job: value async for job, value in redis.hscan_iter(keys.key(name), count=_PAGE)}
    for name in (*_BESIDE, "dedup:ends"):
        state.members[name] = set(await _scores(redis, keys.key(name)))
    return state


async def _scores(redis: Any, key: str | bytes) -> dict[bytes, float]:
    return {member: score async for member, score in redis.zscan_iter(key, count=_PAGE)}


# ---------------------------------------------------------------------- judging


async def _judge(redis: Any, family: Family, state: _State) -> list[Leak]:
    found = [*_payloads(family.keys, state), *_sessions(state), *_beside(state), *_dedup(state), *_waiting(state)]
    found += await _results(redis, family, state)
    found += await _in_progress(redis, family.keys, state)
    if bytes_counted := await redis.hget(family.keys.key("clock"), "bytes"):
        total = sum(map(int, state.fields["sizes"].values()))
        if total != int(bytes_counted):
            found.append(Leak("bytes counted are not the sum of the jobs'", f"{int(bytes_counted)} for {total}"))
    return found


def _leaks(kind: str, names: Iterable[bytes]) -> Iterator[Leak]:
    return (Leak(kind, name.decode("utf-8", "backslashreplace")) for name in names)


def _tagged(keys: FamilyKeys, ids: Iterable[bytes]) -> set[bytes]:
    """Those ids that say whose they are: bare ones may be another queue's."""
    prefix = keys.prefix.encode()
    return {job for job in ids if job.startswith(prefix)}


def _payloads(keys: FamilyKeys, state: _State) -> Iterator[Leak]:
    payloads, kept = state.keys[JOB], state.places(("live", "dead"))
    yield from _leaks("in the queue without a payload", state.queue.keys() - payloads)
    yield from _leaks("dead letter without its payload", state.indexes["dead"].keys() - payloads)
    yield from _leaks("payload without a job", _tagged(keys, payloads) - kept)
    yield from _leaks("count of tries without a job", _tagged(keys, state.keys[RETRY]) - kept)


async def _results(redis: Any, family: Family, state: _State) -> list[Leak]:
    """Results and their entries in the indexes: neither is there without the other."""
    results, ended = state.keys[RESULT], state.places(("ended",))
    found = list(_leaks("result without an entry", _tagged(family.keys, results) - ended))
    found += _leaks("waits or runs, and has ended", state.queue.keys() & ended & results)
    # A function's own `keep_result` may be shorter than the family's, after whose time the entry goes.
    own = [function.keep_result for function in family.functions.values() if function.keep_result is not None]
    seconds, _ = await redis.time()
    since = (seconds - min([family.values.keep_result, *own])) * 1000
    for index, jobs in state.indexes.items():
        lost = {job for job, score in jobs.items() if job not in results and (index == "dead" or score > since)}
        found += _leaks(f"{index} without a result", lost - state.queue.keys())
    return found


async def _in_progress(redis: Any, keys: FamilyKeys, state: _State) -> list[Leak]:
    """In-progress keys of jobs that nobody of ours runs; a stock worker's has a value that is no token."""
    suspects = sorted(_tagged(keys, state.keys[IN_PROGRESS]) - state.in_band("held"))
    if not suspects:
        return []
    tokens = await redis.mget([IN_PROGRESS.encode() + job for job in suspects])
    ours = [job for job, token in zip(suspects, tokens, strict=True) if token and _TOKEN.fullmatch(token)]
    return list(_leaks("in-progress key of a job that is not active", ours))


def _sessions(state: _State) -> Iterator[Leak]:
    held, holders = state.in_band("held"), Counter(job for jobs in state.held.values() for job in jobs)
    yield from _leaks("active, and nobody holds it", held - holders.keys())
    yield from _leaks("held, and not active", holders.keys() - held)
    yield from _leaks("held by more than one", (job for job, count in holders.items() if count > 1))
    known = {name.partition(b":")[2] for name in state.own if name.startswith((b"session:", b"held:"))}
    yield from _leaks("session without a lease", known - state.workers)


def _beside(state: _State) -> Iterator[Leak]:
    """What is kept beside the jobs, and of which jobs."""
    for name, places in _BY_JOB.items():
        yield from _leaks(f"entry in {name} without a job", state.fields[name].keys() - state.places(places))
    for name, index in _BESIDE.items():
        yield from _leaks(f"entry in {name} that is not {index}", state.members[name] - state.indexes[index].keys())
    jobs = state.places(("live", "ended"))
    for kind in (b"pending:", b"children:"):
        parents = {name[len(kind) :] for name in state.own if name.startswith(kind)}
        yield from _leaks(f"{kind.decode()}… without its parent", parents - jobs)
    groups = {name: members for name, members in state.members.items() if name.startswith("cause:")}
    for members in groups.values():
        yield from _leaks("in a group of causes, and no dead letter", members - state.indexes["dead"].keys())
    named = {cause for cause in state.fields["causes"] if "cause:" + cause.decode() not in groups}
    yield from _leaks("cause without a dead letter", named)


def _dedup(state: _State) -> Iterator[Leak]:
    entries = state.fields["dedup"]
    jobs = {name[2:] for name in entries if name.startswith(b"j:")}
    yield from _leaks("dedup key's job that has ended", jobs - state.queue.keys())
    for name, value in entries.items():
        till, _, job = value.partition(b" ")
        if name.startswith(b"k:") and (
            job not in state.queue if till == b"0" else name[2:] not in state.members["dedup:ends"]
        ):
            yield from _leaks("dedup key that nothing ends", [name[2:]])


def _waiting(state: _State) -> Iterator[Leak]:
    """Jobs that wait for something must stand where that something looks for them."""
    lists: Mapping[str, Sequence[str]] = {
        band: [name for name in state.members if name.startswith(start)]
        for band, start in (("lane", "lane:"), ("parked", "parked:"))
    }
    for band, names in lists.items():
        listed = set().union(*(state.members[name] for name in names))
        yield from _leaks(f"{band}, and in no list of those", state.in_band(band) - listed)
    waiting = {job for job, value in state.fields["flows"].items() if value.startswith(b"w")}
    yield from _leaks("blocked, and waits for no child", state.in_band("blocked") - waiting)
