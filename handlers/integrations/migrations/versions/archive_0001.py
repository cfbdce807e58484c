"""The dead-letter archive."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels = "archive_0001", None, "archive"


def upgrade() -> None:
    """Make the table."""
    time = sa.DateTime(timezone=True)
    op.create_table(
        "arqd_dead_letters",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("queue", "job_id")),
        sa.Column("function", sa.Text()),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("payload", "error_type", "error", "traceback", "reason")
        ),
        sa.Column("cause", sa.Text()),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("tries", "crashes")),
        sa.Column("enqueued_at", time),
        *(sa.Column(name, time, nullable=False) for name in ("failed_at", "archived_at")),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("timeout_ms", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.LargeBinary()),
        sa.Column("outcome", sa.Text()),
        sa.Column("outcome_at", time),
        sa.Column("object", sa.Text()),
        sa.Column("stored_at", time),
        sa.PrimaryKeyConstraint("id", name="pk_arqd_dead_letters"),
        sa.UniqueConstraint("job_id", "failed_at", name="uq_arqd_dead_letters_job_id_failed_at"),
    )
    for columns in (["queue", "failed_at"], ["failed_at"], ["stored_at"]):
        op.create_index(f"ix_arqd_dead_letters_{'_'.join(columns)}", "arqd_dead_letters", columns)
