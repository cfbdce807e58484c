"""The relay: moves jobs of an outbox to Redis, each exactly once; ``arqd outbox``, and part of ``arqd up``.

1. Rows get the name of a batch, in a transaction.
2. The batch goes to Redis in one script call, which remembers its name beside the jobs it adds (``lua/relay.lua``).
3. The rows are deleted.

A relay that dies in between leaves rows with the name of a batch. Another one sends it again, and the name says whether
it was added, even if its jobs have run and are forgotten. Any number of relays may run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.exceptions import RedisError as RedisPyError
from redis.exceptions import ResponseError
from sqlalchemy import case, delete, func, null, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from daemon.broker import Broker, NewJob
from daemon.connecting.connections import LOST, connect, translate, translated
from daemon.connecting.routed import Routed
from daemon.dotted import database_of
from daemon.errors import ArqdError, InClear, QueueFull
from daemon.job import new_id
from daemon.keys import FamilyKeys
from daemon.outbox.table import OUTBOX
from daemon.servers import RedisUrl

logger = logging.getLogger("arqd.outbox")

#: Jobs and bytes of one batch: what one script call adds in a few milliseconds.
BATCH, BATCH_BYTES = 500, 1_000_000
#: A batch is its relay's for so long, seconds; then another one takes it up.
LEASE = 30.0
#: How long Redis remembers a batch, seconds: while its rows may still be there; when they have been deleted, for a
#: relay that has read them before.
REMEMBERED, REMEMBERED_DONE = 7 * 86_400, 600
#: How long a job waits that its family does not take, or that Redis has no room for, seconds.
REFUSED_WAIT, FULL_WAIT = 60.0, 5.0
AGAIN_SECONDS, CHECK_SECONDS = 1.0, 10.0


class Batch(NamedTuple):
    """Rows on their way, all of one family, and when they were taken (monotonic seconds)."""

    name: str
    family: str
    rows: Sequence[Any]
    taken: float


class Waiting(NamedTuple):
    """What waits of a family: how many jobs, how long the oldest (seconds), how many Redis refused, and why."""

    family: str
    jobs: int
    oldest: float
    refused: int
    error: str | None


class Relay:
    """Moves jobs from one database to one Redis.

    Args:
        engine: the database's.
        redis: an asynchronous client without response decoding.
        poll: how often it looks for new rows, seconds.
        lease: how long a batch is its relay's, seconds.
    """

    def __init__(self, engine: AsyncEngine, redis: Any, *, poll: float = 0.5, lease: float = LEASE) -> None:
        self._engine = engine
        # In SQLite, what only reads waits for no writer (`handlers.integrations.database`).
        self._reading = engine.execution_options(arqd_reads=True)
        self._redis = redis
        self._poll = poll
        self._lease = lease
        #: Families whose server, one of several, is away: until when they are left out (monotonic seconds), and why.
        self._away: dict[str, tuple[float, Exception]] = {}

    async def run(self) -> None:
        """Move jobs until it is cancelled; database and Redis may come and go."""
        away: str | None = None
        while True:
            try:
                moved = await self.move()
            except (*LOST, RedisPyError, DBAPIError) as error:
                told = type(error).__name__
                if away != told:
                    away = told
                    logger.warning(
                        "outbox: %s; the jobs wait in the table: %s", told, " ".join(str(error).split())[:300]
                    )
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            if away:
                away = None
                logger.info("outbox: the jobs go to Redis again")
            if not moved:
                await asyncio.sleep(self._poll)

    async def drain(self) -> int:
        """Move what can be moved now, and give how many jobs that were.

        Raises: as `move`, also where one of several servers is away, once the jobs of the others are moved.
        """
        total = 0
        self._away.clear()  # each is asked anew: it may be back
        while moved := await self.move():
            total += moved
        for _, error in self._away.values():
            raise error
        return total

    async def move(self) -> int:
        """Move one batch, first one that a relay has left behind; 0 when nothing is there that could go now.

        Raises:
            redis.exceptions.RedisError, OSError: Redis cannot take it now; the batch stays, and is sent again.
            sqlalchemy.exc.DBAPIError: the database cannot be used.
        """
        batch = await self._left_behind() or await self._take()
        if batch is None:
            return 0
        if time.monotonic() - batch.taken > self._lease:
            # It has been asleep in between: another relay may have been at it.
            return 1
        try:
            await self._send(batch)
        except (*LOST, RedisPyError) as error:
            await self._release(batch)
            if not isinstance(self._redis, Routed):
                raise
            # Of several servers one is away: it holds up its own families only.
            if batch.family not in self._away:
                logger.warning("outbox: the jobs of %s wait in the table: %s", batch.family, error)
            self._away[batch.family] = time.monotonic() + FULL_WAIT, error
            return 1
        if self._away.pop(batch.family, None):
            logger.info("outbox: the jobs of %s go to Redis again", batch.family)
        return len(batch.rows)

    def _answering(self) -> Any:
        """Leave out the families whose server was away just now."""
        now = time.monotonic()
        return OUTBOX.c.family.not_in([family for family, (until, _) in self._away.items() if until > now])

    async def waiting(self) -> list[Waiting]:
        """Give what waits, by family."""
        row = OUTBOX.c
        refused = func.sum(case((row.error.is_not(None), 1), else_=0))
        asked = select(row.family, func.count(), func.min(row.created_ms), refused, func.max(row.error))
        async with self._reading.connect() as connection:
            found = await connection.execute(asked.group_by(row.family).order_by(row.family))
            return [
                Waiting(family, count, max(0.0, (_now_ms() - oldest) / 1000), bad, error)
                for family, count, oldest, bad, error in found
            ]

    # ------------------------------------------------------------------ the database's side

    async def _take(self) -> Batch | None:
        """Give rows that are new the name of a batch."""
        row, taken = OUTBOX.c, time.monotonic()
        # SKIP LOCKED: what another relay takes in this moment is left to it. SQLite has one writer, and leaves it out.
        free = select(OUTBOX).where(row.batch.is_(None), row.again_ms <= _now_ms(), self._answering())
        free = free.order_by(row.id).limit(BATCH)
        async with self._reading.connect() as connection:
            if (await connection.execute(free.with_only_columns(row.id).limit(1))).first() is None:
                return None
        async with self._engine.begin() as connection:
            found = (await connection.execute(free.with_for_update(skip_locked=True))).all()
            if not found:
                return None
            rows: list[Any] = []
            size = 0
            for each in found:
                size += len(each.record)
                if each.family == found[0].family and (not rows or size <= BATCH_BYTES):
                    rows.append(each)
            name = new_id()
            mine = row.id.in_([each.id for each in rows])
            await connection.execute(update(OUTBOX).where(mine).values(batch=name, again_ms=self._until()))
        return Batch(name, rows[0].family, rows, taken)

    async def _left_behind(self) -> Batch | None:
        """Take up a batch whose relay has not ended its work in time."""
        row, taken = OUTBOX.c, time.monotonic()
        late = row.batch.is_not(None) & (row.again_ms <= _now_ms()) & self._answering()
        async with self._reading.connect() as connection:
            name = (await connection.execute(select(row.batch).where(late).limit(1))).scalar()
        if name is None:
            return None
        async with self._engine.begin() as connection:
            anew = update(OUTBOX).where(row.batch == name, row.again_ms <= _now_ms()).values(again_ms=self._until())
            rows = (await connection.execute(anew.returning(OUTBOX))).all()
        return Batch(name, rows[0].family, sorted(rows, key=lambda each: each.id), taken) if rows else None

    async def _release(self, batch: Batch) -> None:
        """Have the batch sent again at once; whether Redis has it, its name says."""
        async with self._engine.begin() as connection:
            await connection.execute(update(OUTBOX).where(OUTBOX.c.batch == batch.name).values(again_ms=_now_ms()))

    async def _refuse(self, batch: Batch, seconds: float, error: str, function: str | None = None) -> None:
        """Take the batch apart again: its jobs, or those of one function, wait; the others go with the next."""
        row = OUTBOX.c
        wait = {"again_ms": _now_ms() + round(seconds * 1000), "error": error[:500]}
        blamed = [each.id for each in batch.rows if function in (None, _function_of(each.record))]
        async with self._engine.begin() as connection:
            mine = row.batch == batch.name
            await connection.execute(update(OUTBOX).where(mine, row.id.in_(blamed)).values(batch=null(), **wait))
            await connection.execute(update(OUTBOX).where(mine).values(batch=null(), again_ms=0))
        logger.warning("outbox: %d jobs of %s wait: %s", len(blamed), batch.family, error)

    def _until(self) -> int:
        return _now_ms() + round(self._lease * 1000)

    # ------------------------------------------------------------------ Redis's side

    async def _send(self, batch: Batch) -> None:
        broker = Broker(self._redis, FamilyKeys.of(batch.family))
        now = _now_ms()
        try:
            await broker.relay(batch.name, [_job_of(row, now) for row in batch.rows], REMEMBERED * 1000)
        except QueueFull as full:
            await self._refuse(batch, full.retry_after, str(full))
        except InClear as clear:
            await self._refuse(batch, REFUSED_WAIT, str(clear), clear.function)
        except ResponseError as error:
            if isinstance(error, LOST):
                raise
            # Its memory is full, perhaps. Others' jobs must not wait for these.
            await self._refuse(batch, FULL_WAIT, str(translate(error)))
        else:
            async with self._engine.begin() as connection:
                await connection.execute(delete(OUTBOX).where(OUTBOX.c.batch == batch.name))
            await self._redis.pexpire(broker.keys.key("relayed", batch.name), REMEMBERED_DONE * 1000)


async def relay_outbox(settings: Any, url: RedisUrl, *, patient: bool = True, burst: bool = False) -> None:
    """Run a relay between the database the settings name and a Redis until it is cancelled.

    Args:
        patient: wait for a database that is away or whose tables are missing; else that is an error.
        burst: end when no job can be moved.

    Raises:
        ConfigurationError, ArqdError: see ``Database.open``; of a burst when Redis or the database goes away.
    """
    database, redis = database_of(settings), connect(url)
    try:
        told = ""
        while True:
            try:
                await database.check()
            except ArqdError as error:
                if not patient:
                    raise
                if told != str(error):
                    told = str(error)
                    logger.warning("outbox: nothing is moved: %s", told)
                await asyncio.sleep(CHECK_SECONDS)
            else:
                break
        relay = Relay(database.engine, redis, poll=settings.outbox.poll, lease=settings.outbox.lease)
        if burst:
            with translated():
                moved = await relay.drain()
            logger.info("outbox: %d jobs were moved", moved)
        else:
            await relay.run()
    finally:
        await redis.aclose()
        await database.close()


def _job_of(row: Any, now: int) -> NewJob:
    """Give the job as it is to be added now: what it was to wait has begun when it was written."""
    waited = max(0, now - row.created_ms)
    due_ms = max(0, row.due_ms - waited) if row.due.startswith("in") else row.due_ms
    expires_ms = max(1, row.expires_ms - waited) if row.expires_ms else 0
    return NewJob(row.job_id, row.level, row.due, due_ms, row.timeout_ms, expires_ms, row.record)


def _function_of(record: bytes) -> str:
    return record.partition(b"\t")[0].decode()


def _now_ms() -> int:
    return round(time.time() * 1000)
