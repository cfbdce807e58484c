"""The outbox: a job is written to a table in the caller's own transaction, and `relay` moves it to Redis.

So there is a job exactly when the transaction was committed, whether Redis can be reached or not::

    async with AsyncSession(engine) as session, session.begin():
        session.add(order)
        job_id = await Outbox(session).enqueue(SendEmail(…))

`SyncOutbox` is the same without ``await``, `CursorOutbox` takes a DB-API cursor (Django's), `OutboxFallback` keeps what
a `Producer` cannot hand over while Redis is away. The table is made by ``arqd db upgrade``. Cheap to import; SQLAlchemy
is loaded with the first job.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

from daemon.broker import NewJob
from daemon.encryption import KeyRing
from daemon.errors import InvalidJob
from daemon.keys import spoken_id
from daemon.payload import Payload
from daemon.producer import MAX_PAYLOAD, Producer
from daemon.producing.options import JobOptions

__all__ = ["CursorOutbox", "Outbox", "OutboxFallback", "SyncOutbox"]

#: In the order of `row_of`.
COLUMNS = (
    *("family", "job_id", "level", "due", "due_ms", "timeout_ms", "expires_ms", "record", "created_ms", "again_ms"),
)


def row_of(family: str, job: NewJob, now_ms: int) -> dict[str, Any]:
    """Give the row of a job."""
    return dict(zip(COLUMNS, (family, *job, now_ms, 0), strict=True))


class _Writer:
    """What the outboxes have in common: they check a job as a producer does and give its row.

    Args:
        max_payload, templates, keyring: as for `Producer`.

    Raises:
        InvalidJob: for a wrong template.
    """

    def __init__(
        self,
        *,
        max_payload: int = MAX_PAYLOAD,
        templates: Mapping[str, Mapping[str, Any]] | None = None,
        keyring: KeyRing | None = None,
    ) -> None:
        self._producer = Producer(None, max_payload=max_payload, templates=templates, keyring=keyring)

    def _row(self, job: Payload | str, payload: Any, family: str | None, options: JobOptions) -> dict[str, Any]:
        if options.get("depends_on"):
            raise InvalidJob("depends_on is not for an outbox: what it names need not be in Redis yet")
        family, new, _ = self._producer._prepare(job, payload, family, options)
        if options.get("dedup_mode") not in (None, "drop") and self._producer.keyring:
            raise InvalidJob(
                "an outbox cannot replace what is encrypted for another job: leave dedup_mode, or the keys"
            )
        return row_of(family, new, _now_ms())


class Outbox(_Writer):
    """Writes jobs in an asynchronous SQLAlchemy session or connection; see `SyncOutbox` for its arguments."""

    def __init__(self, session: Any, **settings: Any) -> None:
        super().__init__(**settings)
        self._session = session

    async def enqueue(
        self, job: Payload | str, payload: Any = None, *, family: str | None = None, **options: Unpack[JobOptions]
    ) -> str:
        """See `SyncOutbox.enqueue`."""
        row = self._row(job, payload, family, options)
        await self._session.execute(_insert(), [row])
        return spoken_id(row["job_id"])

    async def enqueue_many(self, jobs: Iterable[Payload], **options: Unpack[JobOptions]) -> list[str]:
        """See `SyncOutbox.enqueue_many`."""
        rows = [self._row(job, None, None, options) for job in jobs]
        if rows:
            await self._session.execute(_insert(), rows)
        return [spoken_id(row["job_id"]) for row in rows]


class SyncOutbox(_Writer):
    """Writes jobs in a SQLAlchemy session or connection, as part of its transaction.

    Args:
        session: whose transaction it is.
        max_payload, templates, keyring: as for `daemon.producer.Producer`.
    """

    def __init__(self, session: Any, **settings: Any) -> None:
        super().__init__(**settings)
        self._session = session

    def enqueue(
        self, job: Payload | str, payload: Any = None, *, family: str | None = None, **options: Unpack[JobOptions]
    ) -> str:
        """Write a job; it goes to Redis once the transaction is committed.

        Args: as `daemon.producer.Producer.enqueue`; ``depends_on`` is not for an outbox. A delay counts from now.

        Returns:
            The job's id, ``email:<id>``; ``producer.job(id)`` gives its handle.

        Raises:
            InvalidJob: for a wrong option or payload; nothing was written.
        """
        row = self._row(job, payload, family, options)
        self._session.execute(_insert(), [row])
        return spoken_id(row["job_id"])

    def enqueue_many(self, jobs: Iterable[Payload], **options: Unpack[JobOptions]) -> list[str]:
        """Write many jobs in one statement, and give their ids. Errors as `enqueue`."""
        rows = [self._row(job, None, None, options) for job in jobs]
        if rows:
            self._session.execute(_insert(), rows)
        return [spoken_id(row["job_id"]) for row in rows]


class CursorOutbox(_Writer):
    """Writes jobs through a DB-API cursor whose parameters are ``%s``, such as Django's; it needs no SQLAlchemy.

    Args:
        cursor: inside a transaction.
        max_payload, templates, keyring: as for `daemon.producer.Producer`.
    """

    #: The statement it runs.
    SQL = f"INSERT INTO arqd_outbox ({', '.join(COLUMNS)}) VALUES ({', '.join(['%s'] * len(COLUMNS))})"  # noqa: S608

    def __init__(self, cursor: Any, **settings: Any) -> None:
        super().__init__(**settings)
        self._cursor = cursor

    def enqueue(
        self, job: Payload | str, payload: Any = None, *, family: str | None = None, **options: Unpack[JobOptions]
    ) -> str:
        """See `SyncOutbox.enqueue`."""
        row = self._row(job, payload, family, options)
        self._cursor.execute(self.SQL, [row[column] for column in COLUMNS])
        return spoken_id(row["job_id"])


class OutboxFallback:
    """Keeps jobs in the table while Redis is away: ``Producer.connect(url, fallback=OutboxFallback(engine))``.

    A job whose handing over broke off may be in Redis already; it goes there with the same id, so that there are no two
    as long as the job, its result or its dead letter exists.

    Args:
        engine: a SQLAlchemy engine, asynchronous or not; each call is a transaction of its own.
        pause: so long after Redis was away it is not even tried, seconds: waiting would cost each call its time limit.
    """

    def __init__(self, engine: Any, *, pause: float = 2.0) -> None:
        self._engine = engine
        self._pause = pause
        self._until = 0.0

    @property
    def is_away(self) -> bool:
        """Whether Redis was away just now."""
        return time.monotonic() < self._until

    async def keep(self, family: str, jobs: Sequence[NewJob]) -> None:
        """Write jobs that could not be handed over."""
        self._until = time.monotonic() + self._pause
        rows = [row_of(family, job, _now_ms()) for job in jobs]
        if hasattr(self._engine, "sync_engine"):
            async with self._engine.begin() as connection:
                await connection.execute(_insert(), rows)
        else:
            await asyncio.to_thread(self._write, rows)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with self._engine.begin() as connection:
            connection.execute(_insert(), rows)


def _insert() -> Any:
    from daemon.outbox.table import OUTBOX

    return OUTBOX.insert()


def _now_ms() -> int:
    return round(time.time() * 1000)
