"""Posts: each is written down before it is sent, so that whoever takes it up knows what may stand there already."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update

from handlers.integrations.database import Database, insert
from handlers.social.drivers import Published
from handlers.social.payloads import PublishPost
from handlers.social.tables import POSTS


@dataclass(frozen=True, slots=True)
class PostRow:
    """A row of `POSTS`."""

    key: str
    digest: str
    opened_at: datetime
    uploads: list[Any]
    round: int
    sent_at: datetime | None
    remote_id: str | None
    url: str | None
    published_at: datetime | None

    @property
    def sent_key(self) -> str:
        """What the network is told."""
        return f"{self.key}-{self.round}"


class Posts:
    """The posts of all accounts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, job: PublishPost, job_id: str) -> PostRow:
        """Give the post of a job, written down if it is not yet."""
        key = _digest(job.network, job.account_id, job.idempotency_key or job_id)
        values: dict[str, Any] = {"key": key, "network": job.network, "account_id": job.account_id, "uploads": []}
        values |= {"digest": digest_of(job), "opened_at": datetime.now(UTC), "round": 0}
        async with self._database.begin() as connection:
            await connection.execute(insert(connection, POSTS).values(values).on_conflict_do_nothing())
        return await self.read(key)

    async def read(self, key: str) -> PostRow:
        """Give a post as it is now."""
        columns = [POSTS.c[name] for name in PostRow.__dataclass_fields__]
        async with self._database.read() as connection:
            found = await connection.execute(select(*columns).where(POSTS.c.key == key))
            return PostRow(**found.mappings().one())

    async def uploaded(self, row: PostRow, uploads: list[Any]) -> PostRow:
        """Write down what is uploaded; another try of the post may have been quicker, then that counts."""
        async with self._database.begin() as connection:
            query = select(POSTS.c.uploads).where(POSTS.c.key == row.key).with_for_update()
            if len((await connection.execute(query)).scalar_one()) < len(uploads):
                await connection.execute(update(POSTS).where(POSTS.c.key == row.key).values(uploads=uploads))
        return await self.read(row.key)

    async def send(self, row: PostRow) -> PostRow:
        """Write down that it is sent now, unless it was before."""
        mine = (POSTS.c.key == row.key) & (POSTS.c.round == row.round) & POSTS.c.sent_at.is_(None)
        return await self._change(row, mine, sent_at=datetime.now(UTC))

    async def renew(self, row: PostRow) -> PostRow:
        """Have it sent with another key, and its files anew: nothing came of what was sent before."""
        mine = (POSTS.c.key == row.key) & (POSTS.c.round == row.round) & POSTS.c.published_at.is_(None)
        return await self._change(row, mine, round=row.round + 1, sent_at=None, uploads=[])

    async def forget_files(self, row: PostRow) -> PostRow:
        """Have its files uploaded anew, unless another try has sent them meanwhile."""
        mine = (POSTS.c.key == row.key) & POSTS.c.published_at.is_(None)
        if row.sent_at is None:
            mine &= POSTS.c.sent_at.is_(None)
        return await self._change(row, mine, uploads=[])

    async def published(self, row: PostRow, found: Published) -> PostRow:
        """Write down where it stands."""
        mine = (POSTS.c.key == row.key) & POSTS.c.published_at.is_(None)
        return await self._change(row, mine, remote_id=found.id, url=found.url, published_at=datetime.now(UTC))

    async def _change(self, row: PostRow, mine: Any, **values: Any) -> PostRow:
        async with self._database.begin() as connection:
            await connection.execute(update(POSTS).where(mine).values(values))
        return await self.read(row.key)


def digest_of(job: PublishPost) -> str:
    """Give what tells two posts apart by what they say."""
    media = [each.model_dump_json() for each in job.media]
    return _digest(job.text, job.language or "", *media)


def _digest(*parts: str) -> str:
    # With lengths: a part may hold any character.
    return hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()[:40]
