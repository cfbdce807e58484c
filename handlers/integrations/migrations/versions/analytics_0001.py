"""Analytics: events, rollups, how far these are, metrics of other platforms."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels = "analytics_0001", None, "analytics"

_TIME = sa.DateTime(timezone=True)


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "arqd_analytics_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        *_texts("event_id", "name"),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("user_id", sa.Text()),
        sa.Column("value", sa.BigInteger()),
        sa.Column("properties", sa.Text()),
        sa.Column("received_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_arqd_analytics_events"),
        sa.UniqueConstraint("event_id", name="uq_arqd_analytics_events_event_id"),
    )
    op.create_index("ix_arqd_analytics_events_at_name", "arqd_analytics_events", ["at", "name"])
    op.create_index("ix_arqd_analytics_events_received_at", "arqd_analytics_events", ["received_at"])
    op.create_table(
        "arqd_analytics_rollups",
        *_texts("grain", "zone"),
        sa.Column("start", _TIME, nullable=False),
        *_texts("name"),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("events", "users", "total")),
        sa.Column("computed_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("grain", "zone", "start", "name", name="pk_arqd_analytics_rollups"),
    )
    op.create_table(
        "arqd_analytics_cursors",
        *_texts("grain", "zone"),
        sa.Column("received_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("grain", "zone", name="pk_arqd_analytics_cursors"),
    )
    op.create_table(
        "arqd_analytics_metrics",
        *_texts("platform", "account_id", "metric"),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.Column("collected_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("platform", "account_id", "metric", "at", name="pk_arqd_analytics_metrics"),
    )
