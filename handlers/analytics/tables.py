"""The tables of the analytics family."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from handlers.integrations.database import Utc, id_column, metadata

#: What a value of 1 is in the columns that databases add up: six digits behind the point, exactly.
MICRO = 1_000_000

EVENTS = Table(
    "arqd_analytics_events",
    metadata,
    id_column(),
    Column("event_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("at", Utc, nullable=False),
    Column("user_id", Text),
    Column("value", BigInteger),
    #: JSON.
    Column("properties", Text),
    Column("received_at", Utc, nullable=False),
    UniqueConstraint("event_id"),
    Index(None, "at", "name"),
    Index(None, "received_at"),
)

#: ``name`` is an event's, "" for all of them together. ``users`` cannot be added up, so each period counts its own.
ROLLUPS = Table(
    "arqd_analytics_rollups",
    metadata,
    Column("grain", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("start", Utc, nullable=False),
    Column("name", Text, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("users", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("computed_at", Utc, nullable=False),
    PrimaryKeyConstraint("grain", "zone", "start", "name"),
)

#: Up to when events were received that a grain's last job has seen.
CURSORS = Table(
    "arqd_analytics_cursors",
    metadata,
    Column("grain", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("received_at", Utc, nullable=False),
    PrimaryKeyConstraint("grain", "zone"),
)

METRICS = Table(
    "arqd_analytics_metrics",
    metadata,
    Column("platform", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("metric", Text, nullable=False),
    Column("at", Utc, nullable=False),
    Column("value", BigInteger, nullable=False),
    Column("collected_at", Utc, nullable=False),
    PrimaryKeyConstraint("platform", "account_id", "metric", "at"),
)
