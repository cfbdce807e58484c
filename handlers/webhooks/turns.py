"""Ordered deliveries: the first of an endpoint's jobs that has not ended has its turn, the others wait.

The family runs one job of an ordered endpoint at a time, in order (its group limit); so they come here for the first
time in their order, and by the time a job asks for its turn those before it have left a row, unless they have ended.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select, update

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
        row = {"endpoint": endpoint, "job_id": ctx.job_id}
        own = select(TURNS.c.id).where(TURNS.c.endpoint == endpoint, TURNS.c.job_id == ctx.job_id).scalar_subquery()
        query = select(TURNS).where(TURNS.c.endpoint == endpoint, TURNS.c.id < own).order_by(TURNS.c.id)
        async with self._database.begin() as connection:
            await connection.execute(insert(connection, TURNS).values(row).on_conflict_do_nothing())
            earlier = (await connection.execute(query)).mappings().all()
        for ahead, other in zip(range(len(earlier), 0, -1), earlier, strict=True):
            if await _is_live(ctx, other["job_id"]):
                due = other["next_at"] or datetime.now(UTC)
                # They come back one after the other, in their order.
                wait = max(0.0, (due - datetime.now(UTC)).total_seconds()) + SOON * ahead
                raise RetryAfter(min(wait, LATEST), "job")
            await self.leave(endpoint, other["job_id"])

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
