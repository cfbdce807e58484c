"""Who users are, what they want and where pushes reach them: `Users`."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import delete, select, update

from handlers.integrations.addresses import parse_mailbox
from handlers.integrations.database import Database, insert
from handlers.integrations.users.preferences import CHANNELS, Channel, InvalidUser, Preference, QuietHours
from handlers.integrations.users.tables import DEVICES, NOTIFICATIONS, PREFERENCES, USERS

#: Most devices of a user that a push goes to, the newest: as many as OneSignal takes in one call.
MOST_DEVICES = 2000

_LANG = re.compile(r"[A-Za-z]{1,8}([-_][A-Za-z0-9]{1,8})*")
_DEVICE = re.compile(r"[A-Za-z0-9_-]{1,100}")


@dataclass(frozen=True, slots=True)
class User:
    """A user.

    Attributes:
        email: where mail goes; None: nowhere.
        name: how they are addressed.
        lang: language tag of the mails they get.
        timezone: IANA name of the zone their quiet hours are in.
    """

    user_id: str
    email: str | None = None
    name: str | None = None
    lang: str = "en"
    timezone: str = "UTC"

    @property
    def zone(self) -> ZoneInfo:
        """The time zone."""
        return ZoneInfo(self.timezone)


@dataclass(frozen=True, slots=True)
class Device:
    """Where a push goes.

    Attributes:
        device_id: OneSignal's subscription id.
        disabled_at, disabled_why: nothing is sent there any more.
    """

    device_id: str
    user_id: str
    added_at: datetime
    disabled_at: datetime | None = None
    disabled_why: str | None = None


class Users:
    """All users."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # ------------------------------------------------------------------ who they are

    async def find(self, user_id: str) -> User:
        """Give a user; one that nobody has saved has the defaults."""
        query = select(USERS).where(USERS.c.user_id == user_id)
        async with self.database.read() as connection:
            row = (await connection.execute(query)).mappings().first()
        return User(user_id) if row is None else User(**row)

    async def save(
        self,
        user_id: str,
        *,
        email: str | None = None,
        name: str | None = None,
        lang: str | None = None,
        timezone: str | None = None,
    ) -> User:
        """Save a user; what is not given stays as it is, and ``""`` takes an address or a name away.

        Raises:
            InvalidUser: for an address, a language or a zone that is none.
        """
        given = {"email": email, "name": name, "lang": lang, "timezone": timezone}
        emptied = {column: None for column in ("email", "name") if given[column] == ""}
        values = {column: value for column, value in given.items() if value} | emptied
        _check_user(user_id)
        _check(values)
        async with self.database.begin() as connection:
            whole = {**asdict(User(user_id)), **values}
            new = insert(connection, USERS).values(whole)
            added = new.on_conflict_do_update(index_elements=["user_id"], set_=values or {"user_id": user_id})
            row = (await connection.execute(added.returning(USERS))).mappings().one()
        return User(**row)

    async def forget(self, user_id: str) -> None:
        """Remove all that is known of a user, what they were told included."""
        async with self.database.begin() as connection:
            for table in (USERS, PREFERENCES, DEVICES, NOTIFICATIONS):
                await connection.execute(delete(table).where(table.c.user_id == user_id))

    # ------------------------------------------------------------------ what they want

    async def preferences(self, user_id: str) -> dict[Channel, Preference]:
        """Give what a user has said of the channels; one of which nothing was said is missing."""
        query = select(PREFERENCES).where(PREFERENCES.c.user_id == user_id)
        async with self.database.read() as connection:
            rows = (await connection.execute(query)).all()
        return {
            row.channel: Preference(
                row.enabled,
                frozenset(row.muted),
                QuietHours(row.quiet_from, row.quiet_until) if row.quiet_from is not None else None,
            )
            for row in rows
        }

    async def prefer(self, user_id: str, channel: Channel, preference: Preference) -> None:
        """Save what a user wants of a channel, in place of what they said before.

        Raises:
            InvalidUser: for a channel there is not.
        """
        _check_user(user_id)
        if channel not in CHANNELS:
            raise InvalidUser(f"there is no channel {channel!r}: {' or '.join(CHANNELS)}")
        quiet = preference.quiet
        values = {
            "enabled": preference.enabled,
            "muted": sorted(preference.muted),
            "quiet_from": quiet and quiet.begin,
            "quiet_until": quiet and quiet.end,
        }
        async with self.database.begin() as connection:
            new = insert(connection, PREFERENCES).values(user_id=user_id, channel=channel, **values)
            await connection.execute(new.on_conflict_do_update(index_elements=["user_id", "channel"], set_=values))

    # ------------------------------------------------------------------ where pushes reach them

    async def devices(self, user_id: str, *, usable: bool = False) -> Sequence[Device]:
        """Give a user's devices, the newest first; ``usable``: only those pushes go to."""
        query = select(DEVICES).where(DEVICES.c.user_id == user_id)
        if usable:
            query = query.where(DEVICES.c.disabled_at.is_(None))
        newest = query.order_by(DEVICES.c.added_at.desc(), DEVICES.c.device_id).limit(MOST_DEVICES)
        async with self.database.read() as connection:
            return [Device(**row) for row in (await connection.execute(newest)).mappings()]

    async def add_device(self, user_id: str, device_id: str) -> None:
        """Say that a user has a device; the app does so at each start.

        One that was disabled is well again, and another user who had it has it no more.

        Raises:
            InvalidUser: for an id that is none.
        """
        _check_user(user_id)
        if not _DEVICE.fullmatch(device_id):
            raise InvalidUser("a device is named by OneSignal's subscription id, a UUID")
        values = {"user_id": user_id, "added_at": datetime.now(UTC), "disabled_at": None, "disabled_why": None}
        async with self.database.begin() as connection:
            new = insert(connection, DEVICES).values(device_id=device_id, **values)
            await connection.execute(new.on_conflict_do_update(index_elements=["device_id"], set_=values))

    async def remove_device(self, user_id: str, device_id: str) -> bool:
        """Forget a user's device, at logout; tells whether there was one."""
        mine = (DEVICES.c.device_id == device_id) & (DEVICES.c.user_id == user_id)
        async with self.database.begin() as connection:
            return bool((await connection.execute(delete(DEVICES).where(mine))).rowcount)

    async def disable_devices(self, user_id: str, device_ids: Collection[str], why: str, since: datetime) -> int:
        """Send nothing to these devices of a user any more; gives how many were not disabled before.

        Args:
            since: when this was found out; a device that was added again later stays as it is.
        """
        row = DEVICES.c
        mine = row.device_id.in_(device_ids) & (row.user_id == user_id)
        usable = mine & row.disabled_at.is_(None) & (row.added_at <= since)
        async with self.database.begin() as connection:
            done = await connection.execute(update(DEVICES).where(usable).values(disabled_at=since, disabled_why=why))
        return int(done.rowcount)


def _check_user(user_id: str) -> None:
    if not 0 < len(user_id) <= 200 or not user_id.isprintable():
        raise InvalidUser("a user's id is plain text of at most 200 characters")


def _check(values: dict[str, Any]) -> None:
    if email := values.get("email"):
        try:
            parse_mailbox(email)
        except ValueError as error:
            raise InvalidUser(f"email: {error}") from None
    if (lang := values.get("lang")) and not _LANG.fullmatch(lang):
        raise InvalidUser(f"lang is a language tag, en or pt-BR, not {lang[:40]!r}")
    if (name := values.get("name")) and (len(name) > 200 or not name.isprintable()):
        raise InvalidUser("a name is one line of at most 200 characters")
    if zone := values.get("timezone"):
        try:
            ZoneInfo(zone)
        # A folder, or a path that leads out of the zones.
        except (KeyError, ValueError, OSError):
            raise InvalidUser(f"there is no time zone {zone[:40]!r}: write a name such as Europe/Paris") from None
