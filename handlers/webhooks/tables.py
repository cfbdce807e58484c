"""The tables of the webhooks family."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from handlers.integrations.database import Utc, id_column, metadata

#: What is known of a receiver. ``url`` may hold a secret in its path: it is shown to nobody below the database.
ENDPOINTS = Table(
    "arqd_webhooks_endpoints",
    metadata,
    Column("name", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("secret_ref", Text),
    Column("schedule", Text, nullable=False),
    Column("registered", Boolean, nullable=False),
    #: Failures since the last success, and when they began.
    Column("failures", Integer, nullable=False),
    Column("failing_since", Utc),
    #: It asked for a pause until then.
    Column("held_until", Utc),
    Column("disabled_at", Utc),
    Column("disabled_why", Text),
    PrimaryKeyConstraint("name"),
)

#: One row for each try.
DELIVERIES = Table(
    "arqd_webhooks_deliveries",
    metadata,
    id_column(),
    Column("endpoint", Text, nullable=False),
    Column("webhook_id", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at", Utc, nullable=False),
    Column("seconds", Float, nullable=False),
    #: None: no reply came.
    Column("status", Integer),
    #: The beginning of the reply, or why there is none.
    Column("reply", Text, nullable=False),
    Index(None, "endpoint", "id"),
    Index(None, "at"),
)

#: Ordered deliveries that are under way; the first of an endpoint has its turn.
TURNS = Table(
    "arqd_webhooks_turns",
    metadata,
    id_column(),
    Column("endpoint", Text, nullable=False),
    Column("job_id", Text, nullable=False),
    #: When it is probably tried again.
    Column("next_at", Utc),
    UniqueConstraint("endpoint", "job_id"),
)

#: Events of Stripe; without ``handled_at`` it is one that nothing is registered for.
STRIPE_EVENTS = Table(
    "arqd_webhooks_stripe_events",
    metadata,
    Column("event_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("data", JSON, nullable=False),
    Column("received_at", Utc, nullable=False),
    Column("handled_at", Utc),
    PrimaryKeyConstraint("event_id"),
)
