"""The dead-letter archive: dead letters in a table of the database, to be looked through when Redis has forgotten them.

`archiver` brings them here and sends them back. Nothing in it is in clear that was not in Redis: payloads and errors of
encrypted families, and secret fields, stand as asterisks beside the encrypted record.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json, to_json
from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from daemon.archive.letters import ALL, ArchivedLetter, ArchiveFilter
from daemon.archive.table import DEAD_LETTERS
from daemon.errors import ArchiveUnavailable, InvalidJob, JobNotFound
from daemon.pages import PAGE

#: Rows that are removed in one statement.
PORTION = 5000
#: Lines of one object in the store.
LINES = 1000
#: Where objects are in the store.
FOLDER = "dead-letters"

#: What of a row is a letter's.
_SHOWN = [DEAD_LETTERS.c[field.name] for field in fields(ArchivedLetter) if field.name != "can_retry"]


class Archive:
    """The table.

    Args:
        database: as `daemon.dotted.database_of` gives it; of its tables nothing is asked before they are used.
    """

    def __init__(self, database: Any) -> None:
        self.database = database
        self._engine: AsyncEngine = database.engine
        # In SQLite, what only reads waits for no writer (`handlers.integrations.database`).
        self._reading = self._engine.execution_options(arqd_reads=True)

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[AsyncConnection]:
        with _translated():
            async with self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def _read(self) -> AsyncIterator[AsyncConnection]:
        with _translated():
            async with self._reading.connect() as connection:
                yield connection

    # ------------------------------------------------------------------ looking

    async def page(
        self, where: ArchiveFilter = ALL, *, cursor: str | None = None, limit: int = 50
    ) -> tuple[list[ArchivedLetter], str | None]:
        """Give a page, the last archived first, and the cursor behind which the next one begins.

        Raises:
            InvalidJob: for a wrong limit or cursor.
        """
        if not 1 <= limit <= PAGE:
            raise InvalidJob(f"limit is 1 to {PAGE}")
        if cursor is not None and not cursor.isdecimal():
            raise InvalidJob(f"cursor {cursor[:40]!r} is none: leave it out to begin anew")
        query = select(*_SHOWN, DEAD_LETTERS.c.record.is_not(None).label("can_retry")).where(*_conditions(where))
        if cursor is not None:
            query = query.where(DEAD_LETTERS.c.id < min(int(cursor), 2**62))
        async with self._read() as connection:
            found = await connection.execute(query.order_by(DEAD_LETTERS.c.id.desc()).limit(limit + 1))
            letters = [_letter(row) for row in found.mappings()]
        return letters[:limit], str(letters[limit - 1].id) if len(letters) > limit else None

    async def get(self, number: int) -> ArchivedLetter:
        """Give one.

        Raises:
            JobNotFound: when there is none of this number.
        """
        query = select(*_SHOWN, DEAD_LETTERS.c.record.is_not(None).label("can_retry"))
        async with self._read() as connection:
            row = (await connection.execute(query.where(DEAD_LETTERS.c.id == number))).mappings().first()
        if row is None:
            raise JobNotFound(f"the archive has no dead letter {number}")
        return _letter(row)

    async def count(self, where: ArchiveFilter = ALL) -> int:
        """Give how many there are."""
        async with self._read() as connection:
            query = select(func.count()).select_from(DEAD_LETTERS).where(*_conditions(where))
            return int((await connection.execute(query)).scalar_one())

    async def rows(
        self, where: ArchiveFilter | Sequence[int], *, after: int = 0, limit: int = PAGE
    ) -> list[Mapping[str, Any]]:
        """Give whole rows, the oldest first, for sending them back: some by their numbers, or those of a filter."""
        chosen = _conditions(where) if isinstance(where, ArchiveFilter) else [DEAD_LETTERS.c.id.in_(where)]
        query = select(DEAD_LETTERS).where(DEAD_LETTERS.c.id > after, *chosen).order_by(DEAD_LETTERS.c.id).limit(limit)
        async with self._read() as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    # ------------------------------------------------------------------ changing

    async def add(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Add rows, leaving out those it has; gives how many are new."""
        if not rows:
            return 0
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        added = 0
        async with self._begin() as connection:
            # SQLite takes 32,766 values in a statement.
            for start in range(0, len(rows), 100):
                new: Any = dialect.insert(DEAD_LETTERS).values(list(rows[start : start + 100]))
                added += (await connection.execute(new.on_conflict_do_nothing())).rowcount
        return added

    async def note(self, outcome: str, ended: Sequence[tuple[str, datetime]]) -> None:
        """Write down what became of letters, by their job's id and the time it failed."""
        now = datetime.now(UTC)
        row = DEAD_LETTERS.c
        # One that was discarded may be sent back from here all the same.
        before = row.outcome.is_(None) if outcome == "discarded" else row.outcome.is_distinct_from("retried")
        async with self._begin() as connection:
            for job_id, failed_at in ended:
                mine = (row.job_id == job_id, row.failed_at == failed_at, before)
                await connection.execute(update(DEAD_LETTERS).where(*mine).values(outcome=outcome, outcome_at=now))

    async def forget(self, before: datetime, *, stored: bool = False) -> int:
        """Remove what failed before a time; gives how many rows that were.

        Args:
            stored: only what the object store has.
        """
        old = select(DEAD_LETTERS.c.id).where(DEAD_LETTERS.c.failed_at < before).limit(PORTION)
        if stored:
            old = old.where(DEAD_LETTERS.c.stored_at.is_not(None))
        total = 0
        while True:
            async with self._begin() as connection:
                gone = (await connection.execute(delete(DEAD_LETTERS).where(DEAD_LETTERS.c.id.in_(old)))).rowcount
            total += gone
            if gone < PORTION:
                return total

    # ------------------------------------------------------------------ the object store

    async def store(self, put: Any) -> int:
        """Write what the store has not yet, as objects of NDJSON; gives how many lines that were.

        Which rows an object has is decided before it is written, so one that is written again after an accident is the
        same to the letter, and no row is in two.

        Args:
            put: ``await put(name, data)`` writes an object.
        """
        total = 0
        row = DEAD_LETTERS.c
        while True:
            pending = select(row.object).where(row.stored_at.is_(None), row.object.is_not(None)).limit(1)
            async with self._read() as connection:
                name = (await connection.execute(pending)).scalar()
            if name is None and (name := await self._choose()) is None:
                return total
            query = select(*_SHOWN, row.record.is_not(None).label("can_retry")).where(row.object == name)
            async with self._read() as connection:
                letters = [_letter(each) for each in (await connection.execute(query.order_by(row.id))).mappings()]
            await put(name, b"".join(_line(letter) + b"\n" for letter in letters))
            async with self._begin() as connection:
                stored = update(DEAD_LETTERS).where(row.object == name).values(stored_at=datetime.now(UTC))
                total += (await connection.execute(stored)).rowcount

    async def _choose(self) -> str | None:
        """Decide which rows the next object has; gives its name."""
        row = DEAD_LETTERS.c
        new = select(row.id, row.archived_at).where(row.object.is_(None)).order_by(row.id).limit(LINES)
        async with self._begin() as connection:
            found = (await connection.execute(new.with_for_update())).all()
            if not found:
                return None
            first, last = found[0], found[-1]
            name = f"{FOLDER}/{first.archived_at:%Y/%m/%d}/{first.id:012d}-{last.id:012d}.ndjson"
            chosen = update(DEAD_LETTERS).where(row.object.is_(None), row.id.between(first.id, last.id))
            await connection.execute(chosen.values(object=name))
        return name


def _conditions(where: ArchiveFilter) -> list[Any]:
    """Give what a filter asks for as conditions of SQL."""
    row = DEAD_LETTERS.c
    equal = {row.queue: where.family, row.function: where.function, row.error_type: where.error, row.cause: where.cause}
    found: list[Any] = [column == value for column, value in equal.items() if value is not None]
    if where.since is not None:
        found.append(row.failed_at >= where.since.astimezone(UTC))
    if where.until is not None:
        found.append(row.failed_at < where.until.astimezone(UTC))
    if where.text:
        found.append(
            row.job_id.icontains(where.text, autoescape=True)
            | row.payload.icontains(where.text, autoescape=True)
            | row.error.icontains(where.text, autoescape=True)
            | row.traceback.icontains(where.text, autoescape=True)
        )
    if where.outcome is not None:
        found.append(row.outcome.is_(None) if where.outcome == "none" else row.outcome == where.outcome)
    return found


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        told = " ".join(str(getattr(error, "orig", None) or error).split())[:200] or type(error).__name__
        raise ArchiveUnavailable(f"the archive's database cannot be used: {told}") from error


def _letter(row: Any) -> ArchivedLetter:
    given: dict[str, Any] = {field.name: row[field.name] for field in fields(ArchivedLetter)}
    for name in ("enqueued_at", "failed_at", "archived_at", "outcome_at"):
        if given[name] is not None and given[name].tzinfo is None:
            given[name] = given[name].replace(tzinfo=UTC)
    given["payload"] = from_json(given["payload"])
    return ArchivedLetter(**given)


def _line(letter: ArchivedLetter) -> bytes:
    # Not what may have changed between two writings of the same object.
    left_out = {"object", "outcome", "outcome_at"}
    return to_json({field.name: getattr(letter, field.name) for field in fields(letter) if field.name not in left_out})
