"""``export_data``: write the rows of a dataset into a file, store it, and give a link.

1. Find the dataset and check what was asked for; nothing of it heals, so what is wrong is permanent.
2. Count the rows, then read them through a cursor of the database and write them, a batch at a time, into a file on
   this machine. csv, ndjson and json of a dataset with a key are written in portions; where the last one ended is kept
   with the job, and a later try on this machine goes on behind it.
3. Store the file, give the link, hand over the mails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from daemon.context import JobContext
from daemon.errors import JobNotFound, PermanentError
from daemon.job import JobState
from daemon.payload import PayloadModel
from handlers.exports.datasets import ExportRefused, Selection, selection
from handlers.exports.formats import CONTENT_TYPES, RESUMABLE, Writer, open_writer
from handlers.exports.payloads import ExportData, Exported
from handlers.exports.spool import Spool, SpoolFolder
from handlers.integrations.database import Database
from handlers.integrations.object_store.store import ObjectStore, own_name
from handlers.integrations.ready_mail import mail_link

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncConnection

#: Rows that are read and written at once.
BATCH = 2000
#: Rows of a portion.
PORTION = 100_000
#: What is left of a try's time for the statement that reads, seconds, at least.
SHORTEST = 1.0
#: Reading and writing is so much of the progress, storing the rest, per cent.
WRITTEN = 95

_ENDED = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.ABORTED, JobState.EXPIRED})
T = TypeVar("T")


class Mark(PayloadModel):
    """Where a portion ended.

    Attributes:
        rows, size: rows and bytes that the file then had.
        after: the last row's key.
        done: no rows are left.
    """

    rows: int = 0
    size: int = 0
    after: Any = None
    done: bool = False


@dataclass(frozen=True, slots=True)
class ExportService:
    """What the family opens at start and finds in its context as ``exports``."""

    database: Database
    store: ObjectStore
    spool: Spool


async def export_data(ctx: JobContext, job: ExportData) -> Exported:
    """Write a file and give a link to it; see the head of this module.

    A job that runs twice writes the file again, from the rows there are then, and sends no mail twice.

    Raises:
        ExportRefused, TooLongForXlsx, WrongType: permanent.
        SQLAlchemyError, StoreUnavailable: tried again by the family's policy.
    """
    service: ExportService = ctx["exports"]
    chosen = selection(job.dataset, job.filters, job.columns)
    async with _folder(ctx, service.spool, job) as folder:
        # Its own is locked now, and left alone.
        await service.spool.sweep(lambda job_id: _returns(ctx, job_id))
        export = _Export(ctx, service.database, job, chosen, folder)
        rows = await export.write()
        return await _stored(ctx, service, job, export, rows)


class _Export:
    """One try's work on the file."""

    def __init__(
        self, ctx: JobContext, database: Database, job: ExportData, chosen: Selection, folder: SpoolFolder
    ) -> None:
        self._ctx, self._database, self._kind, self._chosen = ctx, database, job.export_type, chosen
        self._folder = folder
        self._portions = job.export_type in RESUMABLE and chosen.key is not None
        self._total = 0
        self._writer: Writer | None = None
        self._batches: AsyncIterator[Sequence[Any]] | None = None
        self.path = folder.path / f"export.{job.export_type}"
        self.names = chosen.names

    async def write(self) -> int:
        """Write the file, and give the number of rows in it."""
        mark = Mark()
        async with self._database.snapshot(max(SHORTEST, self._ctx.remaining)) as connection:
            self._total = (await connection.execute(self._chosen.counting)).scalar_one()
            try:
                number = 0
                while not mark.done:
                    number += 1
                    mark = await self._next(connection, mark, number)
                await _in_thread(self._opened(mark).close)
            finally:
                if self._writer is not None:
                    await _in_thread(self._writer.discard)
        return mark.rows

    async def _next(self, connection: AsyncConnection, mark: Mark, number: int) -> Mark:
        if not self._portions:
            return await self._portion(connection, mark)
        # Of a file that is gone the name is another one, and nothing is skipped.
        step = f"portion {number} of {self._folder.token}"
        kept: Mark = await self._ctx.once(step, lambda: self._portion(connection, mark), returns=Mark)
        return kept

    async def _portion(self, connection: AsyncConnection, mark: Mark) -> Mark:
        """Write the rows behind a mark: a portion of them, or all."""
        writer = self._opened(mark)
        if self._batches is None:
            self._batches = await _batches(connection, self._chosen.rows(mark.after))
        rows, after = mark.rows, mark.after
        async for batch in self._batches:
            if self._chosen.key is not None:
                after = self._key(batch[-1])
            await _in_thread(writer.write, [row[:-1] for row in batch] if self._chosen.hides_key else batch)
            rows += len(batch)
            await self._tell(rows)
            if self._portions and rows - mark.rows >= PORTION:
                return Mark(rows=rows, size=await _in_thread(writer.flush), after=after)
        size = await _in_thread(writer.flush) if self._portions else 0
        return Mark(rows=rows, size=size, after=after, done=True)

    def _opened(self, mark: Mark) -> Writer:
        if self._writer is None:
            self._writer = open_writer(self._kind, self.path, self._chosen.columns, mark.size)
        return self._writer

    def _key(self, row: Sequence[Any]) -> Any:
        key = row[self._place]
        assert self._chosen.kind is not None
        if not isinstance(key, self._chosen.kind):
            raise ExportRefused(f"the key {self._chosen.key} holds {type(key).__name__}: it must not be empty")
        return key

    @property
    def _place(self) -> int:
        if self._chosen.hides_key:
            return -1
        return next(place for place, column in enumerate(self._chosen.columns) if column is self._chosen.key)

    async def _tell(self, rows: int) -> None:
        # Rows may be added while the database is read twice.
        percent = WRITTEN * min(1.0, rows / self._total) if self._total else WRITTEN
        await self._ctx.progress(percent, f"{rows:,} of {max(rows, self._total):,} rows")


async def _stored(ctx: JobContext, service: ExportService, job: ExportData, export: _Export, rows: int) -> Exported:
    # An earlier try may have stored it, and died before it could say so.
    key = f"exports/{job.dataset}/{ctx.enqueue_time:%Y-%m-%d}/{own_name(ctx.job_id)}.{job.export_type}"
    stored = await service.store.put(key, export.path, content_type=CONTENT_TYPES[job.export_type], owner=ctx.job_id)
    url = await service.store.link(key)
    lifetime = service.store.link_lifetime
    expires = None if lifetime is None else datetime.now(UTC) + timedelta(seconds=lifetime)
    mailed = await mail_link(ctx, job.mail_to, job.lang, name=job.dataset, url=url, lifetime=lifetime)
    await ctx.progress(100, f"{rows:,} rows")
    return Exported(
        url=url,
        key=key,
        dataset=job.dataset,
        export_type=job.export_type,
        columns=export.names,
        rows=rows,
        size=stored.size,
        expires_at=expires,
        mailed=mailed,
    )


@asynccontextmanager
async def _folder(ctx: JobContext, spool: Spool, job: ExportData) -> AsyncIterator[SpoolFolder]:
    """Lend the job's folder; it is kept when another try may go on with what is in it."""
    folder = spool.open(ctx.job_id)
    comes_back = False
    try:
        yield folder
    except asyncio.CancelledError:
        comes_back = ctx.stopped_by in ("drain", "lost") or (ctx.stopped_by == "timeout" and not ctx.is_last_try)
        raise
    except PermanentError:
        raise
    except Exception:
        comes_back = not ctx.is_last_try
        raise
    finally:
        if comes_back and job.export_type in RESUMABLE:
            folder.leave()
        else:
            folder.remove()


async def _returns(ctx: JobContext, job_id: str) -> bool:
    try:
        return await ctx.producer.job(job_id).status() not in _ENDED
    except JobNotFound:
        return False


async def _batches(connection: AsyncConnection, query: Select[Any]) -> AsyncIterator[Sequence[Any]]:
    result = await connection.stream(query, execution_options={"yield_per": BATCH})
    batches: AsyncIterator[Sequence[Any]] = result.partitions(BATCH)
    return batches


async def _in_thread(call: Callable[..., T], *args: Any) -> T:
    """Run something in a thread; when the job is cancelled meanwhile, wait until the thread has let go of the file."""
    running = asyncio.ensure_future(asyncio.to_thread(call, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
