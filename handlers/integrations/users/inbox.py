"""What users were told in the app, and what of it they have read: `Inbox`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select, update

from handlers.integrations.database import Database, insert
from handlers.integrations.users.tables import NOTIFICATIONS

_ROW = NOTIFICATIONS.c


@dataclass(frozen=True, slots=True)
class Notification:
    """What a user was told.

    Attributes:
        type: ``info``, ``warning``, ``error``, ``success`` or the name of an event.
        read_at: when they read it; None: not yet.
        channels: by channel, which job sends it or why none does; None: it is not handed over yet.
    """

    id: str
    user_id: str
    type: str
    title: str
    body: str
    metadata: dict[str, Any]
    created_at: datetime
    read_at: datetime | None = None
    channels: dict[str, Any] | None = None


class Inbox:
    """The notifications of all users."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # ------------------------------------------------------------------ what a user asks

    async def notifications(
        self, user_id: str, *, unread: bool = False, before: str | None = None, limit: int = 50
    ) -> Sequence[Notification]:
        """Give a user's notifications, the newest first.

        Args:
            unread: only those that are not read.
            before: id of the last one of the page before.
        """
        query = select(NOTIFICATIONS).where(_ROW.user_id == user_id)
        if unread:
            query = query.where(_ROW.read_at.is_(None))
        page = query.order_by(_ROW.created_at.desc(), _ROW.id.desc()).limit(limit)
        async with self.database.read() as connection:
            if before is not None:
                last = select(_ROW.created_at).where(_ROW.id == before, _ROW.user_id == user_id)
                at = (await connection.execute(last)).scalar_one_or_none()
                if at is None:
                    # It was removed for its age, and so was what came before it.
                    return []
                page = page.where((_ROW.created_at < at) | ((_ROW.created_at == at) & (_ROW.id < before)))
            return [Notification(**row) for row in (await connection.execute(page)).mappings()]

    async def unread_count(self, user_id: str) -> int:
        """Count what a user has not read."""
        query = select(func.count()).where(_ROW.user_id == user_id, _ROW.read_at.is_(None))
        async with self.database.read() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def mark_read(self, user_id: str, ids: Collection[str]) -> int:
        """Note that a user has read these; gives how many were unread. Ids of other users' are left alone."""
        return await self._read(user_id, _ROW.id.in_(ids))

    async def mark_all_read(self, user_id: str) -> int:
        """Note that a user has read all there is; gives how many were unread."""
        return await self._read(user_id)

    async def mark_unread(self, user_id: str, ids: Collection[str]) -> int:
        """Take it back; gives how many were read."""
        mine = (_ROW.user_id == user_id, _ROW.id.in_(ids), _ROW.read_at.is_not(None))
        async with self.database.begin() as connection:
            return int((await connection.execute(update(NOTIFICATIONS).where(*mine).values(read_at=None))).rowcount)

    async def _read(self, user_id: str, *which: Any) -> int:
        mine = (_ROW.user_id == user_id, _ROW.read_at.is_(None), *which)
        change = update(NOTIFICATIONS).where(*mine).values(read_at=datetime.now(UTC))
        async with self.database.begin() as connection:
            return int((await connection.execute(change)).rowcount)

    # ------------------------------------------------------------------ what the family does

    async def add(self, notification: Notification) -> Notification | None:
        """Store a notification; gives the one that was stored before under its id, None where it is new."""
        values = {name: getattr(notification, name) for name in Notification.__dataclass_fields__}
        async with self.database.begin() as connection:
            once = insert(connection, NOTIFICATIONS).values(values).on_conflict_do_nothing()
            if (await connection.execute(once)).rowcount:
                return None
            query = select(NOTIFICATIONS).where(_ROW.id == notification.id)
            return Notification(**(await connection.execute(query)).mappings().one())

    async def handed_over(self, notification_id: str, channels: dict[str, Any]) -> None:
        """Note by channel which job sends a notification, or why none does."""
        change = update(NOTIFICATIONS).where(_ROW.id == notification_id).values(channels=channels)
        async with self.database.begin() as connection:
            await connection.execute(change)
