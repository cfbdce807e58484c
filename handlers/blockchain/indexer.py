"""``index_events``: bring the index of a contract's events up to the chain's newest block.

A pass begins behind the newest checkpoint, a block that was looked through and whose hash is still the chain's: what a
reorganisation replaced is after it. It goes on in ranges, each of which makes the index say what the chain says: events
are added, and those that are not on the chain any more go. The newest blocks, as many as make an event final, leave no
checkpoint, so they are looked through again next time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from daemon.context import JobContext
from daemon.errors import RetryAfter
from handlers.blockchain.index import ChainEvent, Cursor, EventIndex, Portion
from handlers.blockchain.payloads import IndexedRange, IndexEvents
from handlers.blockchain.tasks import BlockchainService, Events, tell
from handlers.integrations.rpc import Node, NodeFailed, RpcRefused

#: Passes of a job that are begun again because the chain or another pass moved.
FRESH_STARTS = 5
#: A pass stops with this share of its try's time left, and the job goes on in another.
MARGIN = 0.25
#: Events told of before the time is looked at again.
TOLD_AT_ONCE = 50


class _Moved(Exception):
    """What was read does not belong together any more: the chain was reorganised, or another pass was quicker."""


@dataclass(slots=True)
class Span:
    """How many blocks a node is asked for at once: halved when it refuses, then as many as it lets pass."""

    size: int
    most: int
    bound: int | None = None

    def refused(self, length: int) -> None:
        """A range of so many was refused."""
        self.bound = length
        self.size = max(1, length // 2)

    def took(self, length: int) -> None:
        """A range of so many went well."""
        if length < self.size:
            return
        if self.bound is None:
            self.size = min(2 * self.size, self.most)
        elif self.bound - self.size > self.size // 8 + 1:
            self.size = (self.size + self.bound) // 2


@dataclass(slots=True)
class _Pass:
    """One pass of a job, on one node."""

    ctx: JobContext
    service: BlockchainService
    job: IndexEvents
    events: Events
    added: int = 0
    removed: int = 0
    first: int = 0
    last: int = 0
    #: Newest block whose events are final for this job.
    final_through: int = -1
    #: Of the whole try, seconds.
    time: float = field(init=False)

    def __post_init__(self) -> None:
        self.time = self.ctx.remaining

    @property
    def index(self) -> EventIndex:
        return self.service.index

    async def run(self, node: Node) -> Cursor:
        """Look through everything from the newest checkpoint to the newest block."""
        most = self.service.settings.max_range
        place = (await node.chain_id(), self.events.address, self.events.topic)
        cursor = await self.index.cursor(*place, self.job.start_block, most)
        head = await node.height()
        self.first = first = await self._beginning(node, cursor, head)
        # Blocks after this one are not final.
        safe = head - self.service.confirmations(self.job)
        self.final_through = safe + 1
        span = Span(min(cursor.span, most), most)
        while first <= head:
            last = min(first + span.size - 1, safe if first <= safe else head)
            found = await self._read(node, cursor, span, first, last)
            if found is None:
                continue
            events, block = found
            span.took(last - first + 1)
            portion = Portion(first, last, events, block if last <= safe else None, self.final_through, span.size)
            applied = await self.index.apply(cursor, portion)
            if applied is None:
                raise _Moved
            cursor, added, removed = applied
            self.added, self.removed, self.last = self.added + added, self.removed + removed, last
            first = last + 1
            if first <= head:
                await self._breathe(first, head)
        self.last = head
        return cursor

    async def _beginning(self, node: Node, cursor: Cursor, head: int) -> int:
        checkpoints = await self.index.checkpoints(cursor)
        known = [(number, block) for number, block in checkpoints if number <= head]
        if checkpoints and not known:
            # It is still loading the chain, say. Without its blocks nothing tells how much of the index is right.
            raise NodeFailed(f"a node is at block {head}, and others were further")
        for number, block in known:
            if await node.block_hash(number) == block:
                return number + 1
        return cursor.start_block

    async def _read(
        self, node: Node, cursor: Cursor, span: Span, first: int, last: int
    ) -> tuple[list[ChainEvent], str] | None:
        """Give the events of a range and its last block's hash; None when the node wants it smaller."""
        before = await node.block_hash(last)
        try:
            events = await self.events.between(node, first, last)
        except RpcRefused:
            if first == last:
                raise
            span.refused(last - first + 1)
            return None
        except NodeFailed:
            # Perhaps it was too much for it.
            await self.index.narrow(cursor, max(1, span.size // 2))
            raise
        after = await node.block_hash(last)
        if before is None or after != before or any(e.block_number == last and e.block_hash != after for e in events):
            raise _Moved
        return events, before

    async def _breathe(self, done: int, head: int) -> None:
        """Tell how far it is, and leave the rest to another try when this one's time is running out."""
        share = (done - self.first) / max(1, head - self.first)
        await self.ctx.progress(min(99, round(100 * share)), f"block {done} of {head}")
        if self.ctx.remaining < MARGIN * self.time:
            raise RetryAfter(0, "job")


async def index_events(ctx: JobContext, job: IndexEvents) -> IndexedRange:
    """Look through a contract's blocks up to the newest one, and tell of events that have become final.

    A job that runs twice, or two at once, leave the same index; an event is told of once.

    Raises:
        RetryAfter: there is more than fits into one try, or the chain moves too fast; the job goes on, uncounted.
        PermanentError: no node, no signature, or nobody to tell.
        NodeFailed, RpcRefused: no node answers as it should.
    """
    service: BlockchainService = ctx["blockchain"]
    service.must_tell(job)
    network, events = service.network(job.network_id), service.events(job)
    going = _Pass(ctx, service, job, events)
    for _ in range(FRESH_STARTS):
        try:
            cursor = await network.on_one_node(going.run)
            break
        except _Moved:
            continue
    else:
        raise RetryAfter(service.settings.poll, "job")
    notified = await _tell_all(going, cursor) if job.action == "notify" else 0
    return IndexedRange(
        from_block=going.first, to_block=going.last, added=going.added, removed=going.removed, notified=notified
    )


async def _tell_all(going: _Pass, cursor: Cursor) -> int:
    told = 0
    # Another job may have called events final for which fewer confirmations are enough.
    while found := await going.index.untold(cursor, going.final_through, TOLD_AT_ONCE):
        await tell(going.ctx, going.service, going.job, found)
        told += len(found)
        if going.ctx.remaining < MARGIN * going.time:
            raise RetryAfter(0, "job")
    return told
