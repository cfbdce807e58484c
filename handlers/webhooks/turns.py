"""Ordered deliveries: the first of an endpoint's jobs that has not ended has its turn, the others wait.

The family runs one ordered job of an endpoint at a time, in order (`group_limits`); so they come here for the first
time in their order, and by the time a job asks for its turn those before it have left a row, unless they have ended.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update

from daemon.context import JobContext
from daemon.errors import JobNotFound, RetryAfter
from daemon.job import JobState
from handlers.integrations.database import Database, insert
from handlers.webhooks.tables import TURNS

#: How long a job waits for each one before it, and at most, before it looks again, seconds: that one may be removed.
SOON, LATEST = 0.1, 10.0
_LIVE = frozenset({JobState.WAITING, JobState.DELAYED, JobState.BLOCKED, JobState.PARKED, JobState.ACTIVE})


class Turns:
    """The turns of all endpoints."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, ctx: JobContext, endpoint: str) -> None:
        """Return when it is this job's turn.

        Raises:
            RetryAfter: it is another's, for no longer than until that is tried again.
        """
        while (first := await self._before(endpoint, ctx.job_id)) is not None:
            if await _is_live(ctx, first.job_id):
                due = first.next_at or datetime.now(UTC)
                # They come back one after the other, in their order.
                wait = max(0.0, (due - datetime.now(UTC)).total_seconds()) + SOON * first.ahead
                raise RetryAfter(min(wait, LATEST), "job")
            await self.leave(endpoint, first.job_id)

    async def _before(self, endpoint: str, job_id: str) -> Any:
        """Give the first of the jobs before this one, and how many there are; behind a dead endpoint it may be all."""
        row = TURNS.c
        own = select(row.id).where(row.endpoint == endpoint, row.job_id == job_id).scalar_subquery()
        first = select(row.job_id, row.next_at, func.count().over().label("ahead"))
        first = first.where(row.endpoint == endpoint, row.id < own).order_by(row.id).limit(1)
        async with self._database.begin() as connection:
            new = insert(connection, TURNS).values(endpoint=endpoint, job_id=job_id)
            await connection.execute(new.on_conflict_do_nothing())
            return (await connection.execute(first)).first()

    async def leave(self, endpoint: str, job_id: str) -> None:
        """A job has ended, one way or another: the next has its turn."""
        async with self._database.begin() as connection:
            await connection.execute(delete(TURNS).where(TURNS.c.endpoint == endpoint, TURNS.c.job_id == job_id))

    async def keep(self, endpoint: str, job_id: str, seconds: float) -> None:
        """A job will be tried again in so many seconds, and the others wait for it."""
        due = datetime.now(UTC) + timedelta(seconds=seconds)
        mine = (TURNS.c.endpoint == endpoint, TURNS.c.job_id == job_id)
        async with self._database.begin() as connection:
            await connection.execute(update(TURNS).where(*mine).values(next_at=due))


async def _is_live(ctx: JobContext, job_id: str) -> bool:
    try:
        return await ctx.producer.job(job_id).status() in _LIVE
    except JobNotFound:
        return False
