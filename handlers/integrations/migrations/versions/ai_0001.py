"""Language models: what was used, what was spent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels = "ai_0001", None, "ai"


def upgrade() -> None:
    """Make the tables."""
    exact = sa.Text().with_variant(sa.Numeric(38, 18), "postgresql")
    time = sa.DateTime(timezone=True)
    op.create_table(
        "arqd_ai_usage",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("job_id", "group", "day", "model")),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("prompt_tokens", "completion_tokens")),
        sa.Column("cost", exact),
        sa.Column("at", time, nullable=False),
        sa.Column("ended_at", time),
        sa.PrimaryKeyConstraint("id", name="pk_arqd_ai_usage"),
    )
    op.create_index("ix_arqd_ai_usage_group_day", "arqd_ai_usage", ["group", "day"])
    op.create_table(
        "arqd_ai_days",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("group", "day")),
        sa.Column("spent", exact, nullable=False),
        sa.PrimaryKeyConstraint("group", "day", name="pk_arqd_ai_days"),
    )
