"""Users: how they are reached, what they want to get, and what they were told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels = "users_0001", None, "users"

_TIME = sa.DateTime(timezone=True)


def _text(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "arqd_users",
        *_text("user_id"),
        sa.Column("email", sa.Text()),
        sa.Column("name", sa.Text()),
        *_text("lang", "timezone"),
        sa.PrimaryKeyConstraint("user_id", name="pk_arqd_users"),
    )
    op.create_table(
        "arqd_users_preferences",
        *_text("user_id", "channel"),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("muted", sa.JSON(), nullable=False),
        sa.Column("quiet_from", sa.Time()),
        sa.Column("quiet_until", sa.Time()),
        sa.PrimaryKeyConstraint("user_id", "channel", name="pk_arqd_users_preferences"),
    )
    op.create_table(
        "arqd_users_devices",
        *_text("device_id", "user_id"),
        sa.Column("added_at", _TIME, nullable=False),
        sa.Column("disabled_at", _TIME),
        sa.Column("disabled_why", sa.Text()),
        sa.PrimaryKeyConstraint("device_id", name="pk_arqd_users_devices"),
    )
    op.create_index("ix_arqd_users_devices_user_id", "arqd_users_devices", ["user_id"])
    op.create_table(
        "arqd_notifications",
        *_text("id", "user_id", "type", "title", "body"),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("read_at", _TIME),
        sa.Column("channels", sa.JSON()),
        sa.PrimaryKeyConstraint("id", name="pk_arqd_notifications"),
    )
    op.create_index(
        "ix_arqd_notifications_user_id_created_at_id", "arqd_notifications", ["user_id", "created_at", "id"]
    )
    op.create_index("ix_arqd_notifications_created_at", "arqd_notifications", ["created_at"])
    is_unread = sa.text("read_at IS NULL")
    op.create_index(
        "ix_arqd_notifications_unread",
        "arqd_notifications",
        ["user_id"],
        sqlite_where=is_unread,
        postgresql_where=is_unread,
    )
