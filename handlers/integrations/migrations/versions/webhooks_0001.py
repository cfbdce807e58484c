"""Webhooks: endpoints, deliveries, turns, Stripe's events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels = "webhooks_0001", None, "webhooks"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "arqd_webhooks_endpoints",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret_ref", sa.Text()),
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("registered", sa.Boolean(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failing_since", _TIME),
        sa.Column("held_until", _TIME),
        sa.Column("disabled_at", _TIME),
        sa.Column("disabled_why", sa.Text()),
        sa.PrimaryKeyConstraint("name", name="pk_arqd_webhooks_endpoints"),
    )
    op.create_table(
        "arqd_webhooks_deliveries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("webhook_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("reply", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_arqd_webhooks_deliveries"),
    )
    op.create_index("ix_arqd_webhooks_deliveries_endpoint_id", "arqd_webhooks_deliveries", ["endpoint", "id"])
    op.create_index("ix_arqd_webhooks_deliveries_at", "arqd_webhooks_deliveries", ["at"])
    op.create_table(
        "arqd_webhooks_turns",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("next_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_arqd_webhooks_turns"),
        sa.UniqueConstraint("endpoint", "job_id", name="uq_arqd_webhooks_turns_endpoint_job_id"),
    )
    op.create_table(
        "arqd_webhooks_stripe_events",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("received_at", _TIME, nullable=False),
        sa.Column("handled_at", _TIME),
        sa.PrimaryKeyConstraint("event_id", name="pk_arqd_webhooks_stripe_events"),
    )
