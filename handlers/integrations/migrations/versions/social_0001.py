"""Social networks: posts, cursors, mentions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels = "social_0001", None, "social"


def upgrade() -> None:
    """Make the tables."""
    time = sa.DateTime(timezone=True)
    op.create_table(
        "arqd_social_posts",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("key", "network", "account_id", "digest")),
        sa.Column("opened_at", time, nullable=False),
        sa.Column("uploads", sa.JSON(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("sent_at", time),
        *(sa.Column(name, sa.Text()) for name in ("remote_id", "url")),
        sa.Column("published_at", time),
        sa.PrimaryKeyConstraint("key", name="pk_arqd_social_posts"),
    )
    op.create_table(
        "arqd_social_cursors",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("network", "account_id", "query", "cursor")),
        sa.Column("updated_at", time, nullable=False),
        sa.PrimaryKeyConstraint("network", "account_id", "query", name="pk_arqd_social_cursors"),
    )
    words = ("network", "account_id", "query", "mention_id", "author", "text")
    op.create_table(
        "arqd_social_mentions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in words),
        sa.Column("url", sa.Text()),
        *(sa.Column(name, time, nullable=False) for name in ("at", "found_at")),
        sa.PrimaryKeyConstraint("id", name="pk_arqd_social_mentions"),
        sa.UniqueConstraint(*words[:4], name="uq_arqd_social_mentions_network_account_id_query_mention_id"),
    )
    op.create_index("ix_arqd_social_mentions_at", "arqd_social_mentions", ["at"])
