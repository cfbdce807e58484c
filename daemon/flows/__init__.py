"""Jobs that wait for others: `node`, `chain` and `batch` describe a flow, ``Producer.enqueue_flow`` hands it over.

    report = node(MakeReport(...), children=[Collect(part=n) for n in range(10)])
    await producer.enqueue_flow(report)

The parent runs when its children have ended, and reads their results with ``ctx.children()``. Cheap to import.

Behind it, in order: `plan` (what is sent), `broker` (the scripts' calls), `courier` (from slot to slot), `view` (a flow
as people see it).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Unpack

from daemon import codec, lazily
from daemon.encryption import JobCipher, KeyRing, shown, shown_error
from daemon.errors import InvalidJob, JobNotFound, Unreadable
from daemon.job import JobState
from daemon.keys import RESULT, FamilyKeys, family_of, spoken_id

if TYPE_CHECKING:
    from daemon.payload import Payload
    from daemon.producing.handle import JobHandle
    from daemon.producing.options import JobOptions
    from daemon.producing.sync_producer import SyncProducer

__all__ = [
    "Batch",
    "BatchHandle",
    "BatchStatus",
    "ChildResult",
    "Node",
    "Step",
    "SyncBatchHandle",
    "batch",
    "chain",
    "node",
]

Rule = Literal["fail", "ignore", "continue"]
RULES = ("fail", "ignore", "continue")

#: How a child ended, by the kinds of lua/flows.lua.
STATES = {
    "c": JobState.COMPLETED,
    "b": JobState.FAILED,
    "a": JobState.ABORTED,
    "e": JobState.EXPIRED,
    "x": JobState.NOT_FOUND,
    "m": JobState.NOT_FOUND,
}


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A job of a flow with the children it waits for; `node` makes one. The same node in two places is one job."""

    job: Payload | str
    payload: Mapping[str, Any] | Sequence[Any] | None
    family: str | None
    children: tuple[Node, ...]
    rule: Rule
    options: JobOptions


#: What stands for a node: a payload alone is a job without children.
Step: TypeAlias = "Payload | Node"


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Jobs with callbacks; `batch` makes one."""

    jobs: tuple[Node, ...]
    on_complete: Node | None
    on_success: Node | None
    on_death: Node | None


def node(
    job: Payload | str,
    payload: Mapping[str, Any] | Sequence[Any] | None = None,
    *,
    family: str | None = None,
    children: Sequence[Step] = (),
    rule: Rule = "fail",
    **options: Unpack[JobOptions],
) -> Node:
    """Describe a job of a flow.

    Args:
        job, payload, family, options: as ``Producer.enqueue`` takes them; a job with children takes no ``delay`` and
            no ``run_at``, and none takes a dedup key.
        children: jobs it waits for.
        rule: what its own failure (dead letter, aborted, expired, removed) does to its parent: ``fail`` makes that a
            dead letter, too; ``ignore`` counts it as ended; ``continue`` lets the parent run at once.

    Raises:
        InvalidJob: for an unknown rule or something that is no job.
    """
    if rule not in RULES:
        raise InvalidJob(f"rule {rule!r} is not one of {', '.join(RULES)}")
    return Node(job, payload, family, tuple(map(_node, children)), rule, options)


def _node(step: Step) -> Node:
    if isinstance(step, lazily.Payload):
        return node(step)
    if not isinstance(step, Node):
        raise InvalidJob(f"{type(step).__name__} is no job of a flow: give a Payload or a node(...)")
    return step


def chain(*steps: Step | Sequence[Step]) -> Node:
    """Describe jobs that run one after the other: each starts when the one before has completed.

    A step reads the result of the one before with ``ctx.previous()``. A list is a step of several jobs that run side by
    side; the step after it reads their results with ``ctx.children()``. A step that has children is a step as a whole.

    Returns:
        The last step, which is the parent of the one before, and so on.

    Raises:
        InvalidJob: without steps, for an empty list, or when the last step is a list.
    """
    before: tuple[Node, ...] = ()
    for step in steps:
        jobs = tuple(map(_node, [step] if isinstance(step, (Node, lazily.Payload)) else step))
        if not jobs:
            raise InvalidJob("a step of a chain is a job or a list with at least one")
        known: dict[Node, Node] = {}
        before = tuple(_after(job, before, known) for job in jobs) if before else jobs
    if len(before) != 1:
        raise InvalidJob("a chain ends with one job, which is the one to wait for")
    return before[0]


def _after(job: Node, before: tuple[Node, ...], known: dict[Node, Node]) -> Node:
    """Give a step that starts after others: what of it has no children gets them."""
    if job not in known:
        children = tuple(_after(child, before, known) for child in job.children) or before
        known[job] = replace(job, children=children)
    return known[job]


def batch(
    jobs: Sequence[Step],
    *,
    on_complete: Step | None = None,
    on_success: Step | None = None,
    on_death: Step | None = None,
) -> Batch:
    """Describe jobs with callbacks, which are jobs themselves. One that is not due is removed.

    Args:
        jobs: at least one.
        on_complete: runs when all have ended, however.
        on_success: runs when all have completed.
        on_death: runs when the first has ended without completing.

    Raises:
        InvalidJob: without jobs or callbacks.
    """
    callbacks = [None if step is None else _node(step) for step in (on_complete, on_success, on_death)]
    if not jobs or callbacks == [None, None, None]:
        raise InvalidJob("a batch has at least one job, and one of on_complete, on_success and on_death")
    return Batch(tuple(map(_node, jobs)), *callbacks)


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class ChildResult:
    """How a child ended. ``result`` is plain JSON data; ``error`` of one that failed has ``type``, ``message`` and
    ``reason``; a ``state`` of ``not_found`` is one that was removed or never there."""

    id: str
    function: str
    state: JobState
    result: Any = None
    error: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """How far a batch is: how many of its jobs have not ended, and how many of each state."""

    total: int
    pending: int
    states: dict[JobState, int]


class BatchHandle:
    """A batch that was handed over.

    Attributes:
        on_complete, on_success, on_death: the handles of its callbacks; one that was not due is ``not_found`` later.
        jobs: the handles of its jobs.
    """

    __slots__ = ("jobs", "on_complete", "on_death", "on_success")

    def __init__(self, jobs: Sequence[Any], on_complete: Any, on_success: Any, on_death: Any) -> None:
        self.jobs = list(jobs)
        self.on_complete = on_complete
        self.on_success = on_success
        self.on_death = on_death

    @property
    def callbacks(self) -> list[Any]:
        """The handles of the callbacks it has."""
        return [handle for handle in (self.on_complete, self.on_success, self.on_death) if handle is not None]

    async def status(self) -> BatchStatus:
        """Give how far it is.

        Raises:
            JobNotFound: when nothing is kept of it any more: its callbacks have ended and their results are gone.
        """
        for handle in self.callbacks:
            found = await batch_status(handle)
            if found is not None:
                return found
        raise JobNotFound("nothing is kept of this batch any more")


class SyncBatchHandle:
    """`BatchHandle` without ``await``."""

    def __init__(self, producer: SyncProducer, handle: BatchHandle) -> None:
        from daemon.producing.handle import SyncJobHandle

        self._producer = producer
        self._handle = handle
        self.jobs = [SyncJobHandle(producer, job) for job in handle.jobs]
        self.on_complete, self.on_success, self.on_death = (
            callback and SyncJobHandle(producer, callback)
            for callback in (handle.on_complete, handle.on_success, handle.on_death)
        )

    def status(self) -> BatchStatus:
        """See `BatchHandle.status`."""
        return self._producer._run(self._handle.status())


async def batch_status(handle: JobHandle) -> BatchStatus | None:
    """Give how far the batch of a callback is; None when nothing is kept of that."""
    redis, keys = handle._producer.redis, FamilyKeys.of(handle.family)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hexists(keys.key("flows"), handle.job_id)
        pipe.scard(keys.key("pending", handle.job_id))
        pipe.hvals(keys.key("children", handle.job_id))
        there, pending, ended = await pipe.execute()
    if not there:
        return None
    kinds = [child.partition(b"\n")[0].decode().rpartition("\t")[2] for child in ended]
    counts = Counter(STATES[kind] for kind in kinds)
    return BatchStatus(pending + len(ended), pending, {state: counts[state] for state in JobState if counts[state]})


async def read_children(redis: Any, job_id: str, ring: KeyRing) -> dict[str, ChildResult]:
    """Give the children of a job that have ended, by id, in the order they were given; read 500 at a time.

    Raises:
        KeyMissing: when a result is encrypted with a key that is not in the ring.
    """
    if not job_id.startswith("{"):
        # A stock producer's: such an id is in no flow.
        return {}
    key = FamilyKeys.of(family_of(job_id)).key("children", job_id)
    found: dict[bytes, tuple[int, str, list[Any]]] = {}
    cursor = None
    while cursor != 0:
        cursor, portion = await redis.hscan(key, cursor or 0, count=500)
        for child, value in portion.items():
            head, _, result = value.partition(b"\n")
            index, _, kind = head.decode().split("\t")
            found[child] = (int(index), kind, lazily.from_json(result))
    ordered = sorted(found.items(), key=lambda item: item[1][0])
    return {
        spoken_id(child.decode()): await _child(redis, child, kind, kept, ring) for child, (_, kind, kept) in ordered
    }


async def _child(redis: Any, child: bytes, kind: str, kept: list[Any], ring: KeyRing) -> ChildResult:
    name, state, function = spoken_id(child.decode()), STATES[kind], kept[0]
    cipher = JobCipher(ring, family_of(child.decode()), child.decode())
    if kind != "c":
        error: dict[str, Any] = shown_error(kept[1], cipher)
        error.pop("traceback", None)
        return ChildResult(name, function, state, error=error)
    if len(kept) > 1:
        return ChildResult(name, function, state, shown(kept[1], "result", cipher))
    raw = await redis.get(RESULT.encode() + child)
    try:
        return ChildResult(name, function, state, shown(codec.decode_result(raw or b"")["r"], "result", cipher))
    except Unreadable:
        gone = {"type": "ResultGone", "message": "its result was too long to be copied and is not kept any more"}
        return ChildResult(name, function, state, error=gone)
