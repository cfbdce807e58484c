"""Flows seen from outside: a job with what it waits for as a tree, and the jobs around one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from daemon.encryption import shown_error
from daemon.flows import STATES
from daemon.job import JobInfo, JobState
from daemon.keys import FamilyKeys, family_of, spoken_id
from daemon.pages import describe

#: Jobs looked at in one round trip.
_PORTION = 500


@dataclass(slots=True)
class FlowNode:
    """A job in the tree of what it waits for.

    Attributes:
        state: ``not_found`` of one that was removed or forgotten, or is not made yet; how it ended is still known where
            its parent keeps that.
        children: what it waits or waited for, those that have not ended last.
        left: how many children have not ended.
        more: how many children are left out here.
    """

    id: str
    family: str
    state: JobState
    function: str | None = None
    error: str | None = None
    children: list[FlowNode] = field(default_factory=list)
    left: int = 0
    more: int = 0


async def add_relations(redis: Any, keys: FamilyKeys, job_id: str, info: JobInfo) -> None:
    """Add to a job's info which jobs wait for it, and how many it waits for."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hget(keys.key("parents"), job_id)
        pipe.scard(keys.key("pending", job_id))
        pipe.hlen(keys.key("children", job_id))
        edges, left, ended = await pipe.execute()
    if edges is not None:
        found = [line.partition("\t")[0] for line in edges.decode().split("\n")]
        info.parents = [spoken_id(parent) for parent in found if parent]
    if left or ended:
        info.children, info.children_left = left + ended, left


async def read_flow(redis: Any, keys: FamilyKeys, job_id: str, limit: int) -> FlowNode | None:
    """Give the tree below a job, level by level; None when there is nothing of that job."""
    (info,) = await describe(redis, keys, [job_id])
    if info is None:
        return None
    root = _node(job_id, info)
    level, room = [(job_id, root)], limit - 1
    while level:
        below: list[tuple[str, FlowNode]] = []
        for (parent_id, parent), ended in zip(level, await _count(redis, level), strict=True):
            if parent.left + ended:
                made = await _children(redis, parent_id, parent, ended, room)
                room -= len(made)
                below += made
        await _fill(redis, below)
        level = below
    return root


async def _count(redis: Any, level: list[tuple[str, FlowNode]]) -> list[int]:
    """Note how many children of each job have not ended, and give how many have."""
    async with redis.pipeline(transaction=False) as pipe:
        for job_id, node in level:
            keys = FamilyKeys.of(node.family)
            pipe.scard(keys.key("pending", job_id))
            pipe.hlen(keys.key("children", job_id))
        found = await pipe.execute()
    for (_, node), left in zip(level, found[::2], strict=True):
        node.left = left
    return list(found[1::2])


async def _children(redis: Any, job_id: str, parent: FlowNode, ended: int, room: int) -> list[tuple[str, FlowNode]]:
    """Add a job's children to it, those that have ended with how they did, at most ``room``."""
    keys = FamilyKeys.of(parent.family)
    found: list[tuple[str, FlowNode]] = []
    if ended and room > 0:
        values = await _some(redis.hscan, keys.key("children", job_id), room)
        for child, value in sorted(values.items(), key=lambda item: int(item[1].partition(b"\t")[0])):
            found.append((child.decode(), _ended(child.decode(), value)))
    if parent.left and len(found) < room:
        for child in sorted(await _some(redis.sscan, keys.key("pending", job_id), room - len(found))):
            name = child.decode()
            found.append((name, FlowNode(spoken_id(name), family_of(name), JobState.NOT_FOUND)))
    found = found[: max(room, 0)]
    parent.children = [node for _, node in found]
    parent.more = parent.left + ended - len(found)
    return found


async def _some(scan: Any, key: str, count: int) -> Any:
    """Read about so many of a hash or a set, however large."""
    cursor, found = await scan(key, 0, count=_PORTION)
    while cursor and len(found) < count:
        cursor, more = await scan(key, cursor, count=_PORTION)
        found = {**found, **more} if isinstance(found, dict) else [*found, *more]
    return found


async def _fill(redis: Any, nodes: list[tuple[str, FlowNode]]) -> None:
    """Add what is known of the jobs themselves."""
    by_family: dict[str, list[tuple[str, FlowNode]]] = {}
    for job_id, node in nodes:
        by_family.setdefault(node.family, []).append((job_id, node))
    for family, members in by_family.items():
        for start in range(0, len(members), _PORTION):
            portion = members[start : start + _PORTION]
            infos = await describe(redis, FamilyKeys.of(family), [job_id for job_id, _ in portion])
            for (_, node), info in zip(portion, infos, strict=True):
                if info is not None:
                    node.state, node.error = info.state, _error(info.error)
                    node.function = info.function or node.function


def _node(job_id: str, info: JobInfo) -> FlowNode:
    return FlowNode(spoken_id(job_id), info.family, info.state, info.function, _error(info.error))


def _ended(job_id: str, value: bytes) -> FlowNode:
    head, _, result = value.partition(b"\n")
    kind = head.decode().rpartition("\t")[2]
    kept = from_json(result)
    error = _error(shown_error(kept[1], None)) if kind != "c" else None
    return FlowNode(spoken_id(job_id), family_of(job_id), STATES[kind], kept[0] or None, error)


def _error(error: Any) -> str | None:
    return f"{error['type']}: {error['message']}" if isinstance(error, dict) else None
