"""The tables of users: how they are reached, what they want to get, and what they were told."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Index, PrimaryKeyConstraint, Table, Text, Time

from handlers.integrations.database import Utc, metadata

#: A user nobody has saved is one without address, in English and in UTC.
USERS = Table(
    "arqd_users",
    metadata,
    Column("user_id", Text, nullable=False),
    Column("email", Text),
    Column("name", Text),
    Column("lang", Text, nullable=False),
    #: IANA name of a time zone.
    Column("timezone", Text, nullable=False),
    PrimaryKeyConstraint("user_id"),
)

#: What a user said of a channel; no row: nothing.
PREFERENCES = Table(
    "arqd_users_preferences",
    metadata,
    Column("user_id", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    #: Types of notifications that are not wanted, a list.
    Column("muted", JSON, nullable=False),
    #: Quiet hours by the user's clock: both or none.
    Column("quiet_from", Time),
    Column("quiet_until", Time),
    PrimaryKeyConstraint("user_id", "channel"),
)

#: Where pushes go: OneSignal's subscriptions.
DEVICES = Table(
    "arqd_users_devices",
    metadata,
    Column("device_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("added_at", Utc, nullable=False),
    #: The push service does not know it any more, or it is not subscribed.
    Column("disabled_at", Utc),
    Column("disabled_why", Text),
    PrimaryKeyConstraint("device_id"),
    Index(None, "user_id"),
)

#: What users were told in the app.
NOTIFICATIONS = Table(
    "arqd_notifications",
    metadata,
    Column("id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("read_at", Utc),
    #: What became of it by channel; none: it is not handed over yet.
    Column("channels", JSON(none_as_null=True)),
    PrimaryKeyConstraint("id"),
    Index(None, "user_id", "created_at", "id"),
    Index(None, "created_at"),
)
Index(
    "ix_arqd_notifications_unread",
    NOTIFICATIONS.c.user_id,
    sqlite_where=NOTIFICATIONS.c.read_at.is_(None),
    postgresql_where=NOTIFICATIONS.c.read_at.is_(None),
)
