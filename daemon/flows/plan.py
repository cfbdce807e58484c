"""From a described flow to what is sent: every job checked and named, definitions in the order of their depth."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import RedisError

from daemon import codec
from daemon.broker import NewJob
from daemon.connecting.connections import LOST, translated
from daemon.errors import ArqdError, InvalidJob
from daemon.flows import Batch, BatchHandle, Node
from daemon.flows.broker import FlowBroker, FlowJob
from daemon.flows.courier import FAMILIES, Courier
from daemon.keys import FamilyKeys, family_of, spoken_id
from daemon.producing.batches import ENQUEUE_BYTES, ENQUEUE_JOBS
from daemon.producing.handle import JobHandle
from daemon.producing.handover import in_clear
from daemon.producing.options import JobOptions
from daemon.records import written_tail

if TYPE_CHECKING:
    from daemon.producer import Producer

logger = logging.getLogger("arqd.flows")

#: Most children of one job: they are written with it in one call.
MAX_CHILDREN = 10_000


@dataclass(slots=True, eq=False)
class _Planned:
    """A job of the plan; ``waits_for`` holds the ids of jobs that are there already."""

    node: Node
    family: str
    job: NewJob
    returns: Any
    waits_for: list[str]
    edges: list[str] = field(default_factory=list)
    children: list[str] = field(default_factory=list)
    parents: int = 0
    depth: int = 0


class FlowPlan:
    """A flow ready to be sent.

    Args:
        producer: prepares the jobs; its limits and templates count.
        roots: callbacks of a batch, or the one root; the first holds the definitions.
        links: what each job waits for, and the rule of that edge.

    Raises:
        InvalidJob: for a wrong job, naming what is wrong.
    """

    def __init__(self, producer: Producer, roots: list[Node], links: Mapping[Node, list[tuple[Node, str]]]) -> None:
        self.token = secrets.token_hex(8)
        self._links = links
        self._planned: dict[Node, _Planned] = {}
        self._prepare_all(producer, roots)
        ordered = self._in_order(roots)
        self.root = ordered[0]
        self.definitions = [self._definition(n, *made) for n, made in enumerate(self._jobs(ordered))]
        self.families = sorted(
            {planned.family for planned in ordered} | {family_of(i) for p in ordered for i in p.waits_for}
        )

    def tails(self) -> Iterator[tuple[str, bytes]]:
        """Give family and record of every job."""
        return ((planned.family, planned.job.tail) for planned in self._planned.values())

    def job(self, node: Node) -> _Planned:
        """Give what became of a node."""
        return self._planned[node]

    def _children(self, node: Node) -> list[tuple[Node, str]]:
        return self._links.get(node) or [(child, child.rule) for child in node.children]

    def _prepare_all(self, producer: Producer, roots: list[Node]) -> None:
        names: set[str] = set()
        waiting = list(reversed(roots))
        while waiting:
            node = waiting.pop()
            if node in self._planned:
                continue
            planned = self._planned[node] = _prepare(producer, node)
            if planned.job.id in names:
                raise InvalidJob(f"job id {spoken_id(planned.job.id)} is twice in this flow")
            names.add(planned.job.id)
            waiting += [child for child, _ in reversed(self._children(node))]
        for planned in self._planned.values():
            self._link(planned, names)

    def _link(self, planned: _Planned, names: set[str]) -> None:
        """Give a job's children their edges to it."""
        for index, (child, rule) in enumerate(self._children(planned.node)):
            of_child = self._planned[child]
            of_child.edges.append(f"{planned.job.id}\t{rule}\t{index}\t{self.token}")
            of_child.parents += 1
            planned.children.append(of_child.job.id)
        planned.children += planned.waits_for
        children, name = planned.children, spoken_id(planned.job.id)
        if names.intersection(planned.waits_for):
            raise InvalidJob(f"{name} depends on a job of its own flow: make that its child")
        if len(set(children)) < len(children):
            raise InvalidJob(f"{name} has the same child twice")
        if len(children) > MAX_CHILDREN:
            raise InvalidJob(f"{name} has {len(children):,} children, the most are {MAX_CHILDREN:,}: make it a tree")
        if children and planned.job.when != "now":
            raise InvalidJob("a job that waits for others starts when they have ended: leave delay and run_at out")

    def _in_order(self, roots: list[Node]) -> list[_Planned]:
        """Order the jobs so that parents come before their children; each is one deeper than its deepest parent."""
        ready, ordered = [self._planned[root] for root in roots], []
        left = {planned: planned.parents for planned in self._planned.values()}
        while ready:
            ordered.append(planned := ready.pop())
            for child, _ in self._children(planned.node):
                below = self._planned[child]
                below.depth = max(below.depth, planned.depth + 1)
                left[below] -= 1
                if not left[below]:
                    ready.append(below)
        ordered.sort(key=lambda planned: planned.depth)
        return [self._planned[roots[0]], *(p for p in ordered if p is not self._planned[roots[0]])]

    def _jobs(self, ordered: list[_Planned]) -> Iterator[tuple[int, str, FlowJob]]:
        """Give depth, family and job of every definition, by depth."""
        found = [(p.depth, p.family, self._made(p)) for p in ordered[1:]]
        for planned in ordered:
            for index, job_id in enumerate(planned.waits_for, len(planned.children) - len(planned.waits_for)):
                edge = f"{planned.job.id}\tfail\t{index}\t{self.token}"
                there = FlowJob(NewJob(job_id, 0, "now", 0, 0, 0, b""), edge)
                found.append((planned.depth + 1, family_of(job_id), there))
        return iter(sorted(found, key=lambda made: made[0]))

    @staticmethod
    def _made(planned: _Planned) -> FlowJob:
        return FlowJob(planned.job, "\n".join(planned.edges), planned.children)

    @staticmethod
    def _definition(n: int, depth: int, family: str, made: FlowJob) -> bytes:
        job = made.job
        return codec.encode([n, depth, family, [*job[:6], written_tail(job.tail)], made.edges, made.children])

    # ------------------------------------------------------------------ send

    async def send(self, redis: Any) -> bool:
        """Hand the flow over: stage what is too much for one call, commit, make the jobs.

        After the commit everything happens, whoever dies: what cannot be made at once is made by a worker's courier.

        Returns:
            False when a job with the root's id exists: nothing was made.

        Raises:
            ArqdError: when it took more than an hour. RedisUnavailable, RedisRefused, RedisFull.
        """
        broker = FlowBroker(redis, FamilyKeys.of(self.root.family))
        inline = self.definitions
        if len(inline) > ENQUEUE_JOBS or sum(map(len, inline)) > ENQUEUE_BYTES:
            inline = []
            await self._stage(broker)
        await self._twice(lambda: redis.sadd(FAMILIES, *self.families))
        root, count = self._made(self.root), len(self.definitions)
        entry = await self._twice(lambda: broker.commit(self.token, self.families, root, count, inline))
        if entry == -1:
            raise ArqdError("the flow was not handed over: its jobs were staged more than an hour ago. Do it again.")
        if entry:
            try:
                courier, told = Courier(redis), {self.root.family}
                if isinstance(entry, bytes):
                    told = await courier.make(self.root.family, self.token, self.families)
                    await broker.acknowledge([entry])
                await courier.deliver(told)
            except (*LOST, RedisError, ArqdError) as error:
                logger.debug("a worker makes the rest of the flow: %s", error)
        return bool(entry != 0)

    async def _stage(self, broker: FlowBroker) -> None:
        before = 0
        for portion in _portions(self.definitions):
            if not await self._twice(lambda at=before, some=portion: broker.stage(self.token, at, some)):
                raise ArqdError("the flow was not handed over: what was staged of it is gone. Do it again.")
            before += len(portion)

    @staticmethod
    async def _twice(call: Any) -> Any:
        """Make a call once more when its reply was lost: the receivers know what they have had."""
        with translated():
            try:
                return await call()
            except LOST:
                return await call()


def _prepare(producer: Producer, node: Node) -> _Planned:
    options = dict(node.options)
    depends_on = options.pop("depends_on", None) or ()
    if isinstance(depends_on, str) or not isinstance(depends_on, Iterable):
        raise InvalidJob(f"depends_on {depends_on!r} is not a list of ids (family:id) and handles")
    waits_for = [_existing(producer, job) for job in depends_on]
    family, job, returns = producer._prepare(node.job, node.payload, node.family, cast(JobOptions, options))
    if " " in job.when:
        raise InvalidJob("a job of a flow takes no dedup key: leave it out (dedup_key='' if its payload has one)")
    return _Planned(node, family, job, returns, list(dict.fromkeys(waits_for)))


def _existing(producer: Producer, job: Any) -> str:
    """Give the id in Redis of a job that another depends on."""
    handle = producer.job(job) if isinstance(job, str) else getattr(job, "_handle", job)
    if not isinstance(handle, JobHandle):
        raise InvalidJob(f"depends_on takes ids (family:id) and handles of jobs, not {type(job).__name__}")
    producer.broker(handle.family)  # refuses a name that is none
    if not handle.job_id.isprintable():
        raise InvalidJob(f"depends_on {handle.id[:40]!r} is not plain text")
    return handle.job_id


def _portions(definitions: list[bytes]) -> Iterator[list[bytes]]:
    portion: list[bytes] = []
    size = 0
    for definition in definitions:
        if portion and (len(portion) >= ENQUEUE_JOBS or size + len(definition) > ENQUEUE_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(definition)
        size += len(definition)
    yield portion


async def enqueue_flow(producer: Producer, flow: Node | Batch) -> JobHandle | BatchHandle:
    """See ``Producer.enqueue_flow``."""
    if isinstance(flow, Node):
        plan = await _planned(producer, [flow], {})
        if not plan.root.children:
            raise InvalidJob("a flow has a job that waits for another: enqueue one alone with enqueue")
        return _handle(producer, plan, flow, await plan.send(producer.redis))
    if not isinstance(flow, Batch):
        raise InvalidJob(f"{type(flow).__name__} is no flow: give what node, chain or batch made")
    rules = ((flow.on_complete, "ignore"), (flow.on_success, "success"), (flow.on_death, "death"))
    links = {
        callback: [*((child, child.rule) for child in callback.children), *((job, rule) for job in flow.jobs)]
        for callback, rule in rules
        if callback is not None
    }
    plan = await _planned(producer, list(links), links)
    created = await plan.send(producer.redis)
    jobs = [_handle(producer, plan, job, created) for job in flow.jobs]
    return BatchHandle(jobs, *(callback and _handle(producer, plan, callback, created) for callback, _ in rules))


async def _planned(producer: Producer, roots: list[Node], links: Mapping[Node, list[tuple[Node, str]]]) -> FlowPlan:
    """Plan a flow; what its families take encrypted only is encrypted, or refused."""
    plan = FlowPlan(producer, roots, links)
    async with producer.redis.pipeline(transaction=False) as pipe:
        for family in plan.families:
            pipe.hmget(FamilyKeys.of(family).key("conf"), "encrypted", "marked")
        with translated():
            guards = dict(zip(plan.families, await pipe.execute(), strict=True))
    refused = [(family, told) for family, tail in plan.tails() if (told := in_clear(tail, *guards[family]))]
    if not refused:
        return plan
    if not producer.keyring or any(told.marked for _, told in refused):
        raise refused[0][1]
    producer._encrypts(family for family, _ in refused)
    return FlowPlan(producer, roots, links)


def _handle(producer: Producer, plan: FlowPlan, node: Node, created: bool) -> JobHandle:
    planned = plan.job(node)
    return JobHandle(producer, planned.family, planned.job.id, created, planned.returns)
