"""The index: events in the database, and how far each contract's are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from handlers.blockchain.tables import CHECKPOINTS, CURSORS, EVENTS
from handlers.integrations.database import Database, insert

#: How many checkpoints of a cursor are kept.
CHECKPOINTS_KEPT = 200
_KEY = ("chain_id", "tx_hash", "log_index")


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """An event, and where it stands; ``parameters`` are plain JSON data."""

    chain_id: int
    tx_hash: str
    log_index: int
    block_number: int
    block_hash: str
    address: str
    topic: str
    event: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cursor:
    """A row of `CURSORS`."""

    id: int
    chain_id: int
    address: str
    topic: str
    start_block: int
    next_block: int
    span: int
    version: int


@dataclass(frozen=True, slots=True)
class Portion:
    """The events of a range of blocks, as a node gives them.

    Attributes:
        checkpoint: hash of its last block; None where that block is too new to be one.
        final_through: newest block whose events are final.
        span: how many blocks to ask for next.
    """

    first: int
    last: int
    events: Sequence[ChainEvent]
    checkpoint: str | None
    final_through: int
    span: int


class EventIndex:
    """The index of all contracts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def cursor(self, chain_id: int, address: str, topic: str, start_block: int, span: int) -> Cursor:
        """Give the cursor of a contract's events, made if there is none."""
        row = CURSORS.c
        key = {"chain_id": chain_id, "address": address, "topic": topic}
        values = key | {"start_block": start_block, "next_block": start_block, "span": span, "version": 0}
        async with self._database.begin() as connection:
            new = insert(connection, CURSORS).values(values | {"updated_at": datetime.now(UTC)})
            await connection.execute(new.on_conflict_do_nothing())
            mine = (row.chain_id == chain_id) & (row.address == address) & (row.topic == topic)
            columns = [row[name] for name in Cursor.__dataclass_fields__]
            return Cursor(**(await connection.execute(select(*columns).where(mine))).mappings().one())

    async def checkpoints(self, cursor: Cursor) -> list[tuple[int, str]]:
        """Give numbers and hashes of blocks that were looked through, the newest first."""
        row = CHECKPOINTS.c
        mine = select(row.number, row.hash).where(row.cursor == cursor.id).order_by(row.number.desc())
        async with self._database.read() as connection:
            return [(number, text) for number, text in (await connection.execute(mine)).all()]

    async def narrow(self, cursor: Cursor, span: int) -> None:
        """Have the next pass begin with fewer blocks at once."""
        async with self._database.begin() as connection:
            await connection.execute(update(CURSORS).where(CURSORS.c.id == cursor.id).values(span=span))

    async def apply(self, cursor: Cursor, portion: Portion) -> tuple[Cursor, int, int] | None:
        """Make the index say of a range what the chain says, and move the cursor behind it; all of it or nothing.

        Returns:
            The cursor as it is now, how many events were added and removed; None when another pass was quicker.
        """
        moved = {"next_block": portion.last + 1, "span": portion.span, "version": cursor.version + 1}
        mine = (CURSORS.c.id == cursor.id) & (CURSORS.c.version == cursor.version)
        async with self._database.begin() as connection:
            now = datetime.now(UTC)
            done = await connection.execute(update(CURSORS).where(mine).values(**moved, updated_at=now))
            if not done.rowcount:
                return None
            added, removed = await _replace(connection, cursor, portion, now)
            final = _range(cursor, portion.first, min(portion.last, portion.final_through))
            await connection.execute(update(EVENTS).where(final, EVENTS.c.final.is_(False)).values(final=True))
            await _note_checkpoint(connection, cursor, portion)
        return Cursor(**(asdict(cursor) | moved)), added, removed

    async def add(self, event: ChainEvent) -> tuple[bool, bool]:
        """Add one event, which is final; tell whether it was there, and whether it has been told of."""
        async with self._database.begin() as connection:
            row = EVENTS.c
            mine = [row[name] == getattr(event, name) for name in _KEY]
            query = select(row.notified_at).where(*mine)
            found = (await connection.execute(query)).first()
            await _write(connection, [event], datetime.now(UTC), final=True)
        return found is not None, found is not None and found.notified_at is not None

    async def untold(self, cursor: Cursor, through: int, limit: int) -> list[ChainEvent]:
        """Give final events up to a block that have not been told of, the oldest first."""
        row = EVENTS.c
        columns = [row[name] for name in ChainEvent.__dataclass_fields__]
        query = select(*columns).where(_of(cursor), row.final.is_(True), row.notified_at.is_(None))
        query = query.where(row.block_number <= through)
        query = query.order_by(row.block_number, row.log_index).limit(limit)
        async with self._database.read() as connection:
            return [ChainEvent(**found) for found in (await connection.execute(query)).mappings()]

    async def told(self, events: Sequence[ChainEvent]) -> None:
        """Write down that events have been told of."""
        named = tuple_(*(EVENTS.c[name] for name in _KEY))
        mine = named.in_([tuple(getattr(event, name) for name in _KEY) for event in events])
        async with self._database.begin() as connection:
            await connection.execute(update(EVENTS).where(mine).values(notified_at=datetime.now(UTC)))


def _of(cursor: Cursor) -> ColumnElement[bool]:
    row = EVENTS.c
    return (row.chain_id == cursor.chain_id) & (row.address == cursor.address) & (row.topic == cursor.topic)


def _range(cursor: Cursor, first: int, last: int) -> ColumnElement[bool]:
    return _of(cursor) & EVENTS.c.block_number.between(first, last)


async def _replace(connection: AsyncConnection, cursor: Cursor, portion: Portion, now: datetime) -> tuple[int, int]:
    """Take out what the chain does not say any more, and write what is new or has moved to another block."""
    row = EVENTS.c
    query = select(row.id, row.tx_hash, row.log_index, row.block_hash)
    there = (await connection.execute(query.where(_range(cursor, portion.first, portion.last)))).all()
    wanted = {(event.tx_hash, event.log_index): event for event in portion.events}
    gone = [found.id for found in there if (found.tx_hash, found.log_index) not in wanted]
    kept = {(found.tx_hash, found.log_index): found.block_hash for found in there}
    new = [event for key, event in wanted.items() if kept.get(key) != event.block_hash]
    for start in range(0, len(gone), 500):
        await connection.execute(delete(EVENTS).where(row.id.in_(gone[start : start + 500])))
    await _write(connection, new, now, final=False)
    return sum((event.tx_hash, event.log_index) not in kept for event in new), len(gone)


async def _write(connection: AsyncConnection, events: Sequence[ChainEvent], now: datetime, *, final: bool) -> None:
    for start in range(0, len(events), 500):
        rows = [asdict(event) | {"final": final, "indexed_at": now} for event in events[start : start + 500]]
        new = insert(connection, EVENTS)
        # A transaction that a reorganisation put into another block is still the same one.
        moved = {name: new.excluded[name] for name in ("block_number", "block_hash", "parameters", "final")}
        await connection.execute(new.on_conflict_do_update(index_elements=list(_KEY), set_=moved), rows)


async def _note_checkpoint(connection: AsyncConnection, cursor: Cursor, portion: Portion) -> None:
    row = CHECKPOINTS.c
    await connection.execute(delete(CHECKPOINTS).where(row.cursor == cursor.id, row.number >= portion.first))
    if portion.checkpoint is not None:
        values = {"cursor": cursor.id, "number": portion.last, "hash": portion.checkpoint}
        await connection.execute(insert(connection, CHECKPOINTS).values(values))
        old = select(row.number).where(row.cursor == cursor.id).order_by(row.number.desc())
        oldest = (await connection.execute(old.offset(CHECKPOINTS_KEPT).limit(1))).scalar_one_or_none()
        if oldest is not None:
            await connection.execute(delete(CHECKPOINTS).where(row.cursor == cursor.id, row.number <= oldest))
