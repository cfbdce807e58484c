"""Payments: attempts to charge, the books, what referrals have earned."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels = "payments_0001", None, "payments"


def upgrade() -> None:
    """Make the tables."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    exact = sa.Text().with_variant(sa.Numeric(38, 18), "postgresql")
    time = sa.DateTime(timezone=True)
    op.create_table(
        "arqd_payment_attempts",
        sa.Column("id", number, autoincrement=True, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("provider", "payment_id")),
        sa.Column("number", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("job_id", "key", "body", "state")),
        *(sa.Column(name, sa.Text()) for name in ("object_id", "detail")),
        sa.Column("opened_at", time, nullable=False),
        sa.Column("closed_at", time),
        sa.PrimaryKeyConstraint("id", name="pk_arqd_payment_attempts"),
        sa.UniqueConstraint(
            "provider", "payment_id", "number", name="uq_arqd_payment_attempts_provider_payment_id_number"
        ),
        sa.UniqueConstraint("key", name="uq_arqd_payment_attempts_key"),
    )
    is_open = sa.text("state = 'open'")
    op.create_index(
        "ix_arqd_payment_attempts_open",
        "arqd_payment_attempts",
        ["provider", "payment_id"],
        unique=True,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
    op.create_table(
        "arqd_ledger_transactions",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "reference", "currency")),
        sa.Column("amount", exact, nullable=False),
        sa.Column("at", time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_arqd_ledger_transactions"),
        sa.UniqueConstraint("reference", name="uq_arqd_ledger_transactions_reference"),
    )
    op.create_table(
        "arqd_ledger_entries",
        sa.Column("id", number, autoincrement=True, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("transaction", "account")),
        sa.Column("amount", exact, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_arqd_ledger_entries"),
        sa.ForeignKeyConstraint(
            ["transaction"], ["arqd_ledger_transactions.id"], name="fk_arqd_ledger_entries_transaction"
        ),
    )
    for column in ("account", "transaction"):
        op.create_index(f"ix_arqd_ledger_entries_{column}", "arqd_ledger_entries", [column])
    op.create_table(
        "arqd_referrals",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("referral_id", "currency")),
        sa.Column("orders", sa.BigInteger(), nullable=False),
        *(sa.Column(name, exact, nullable=False) for name in ("turnover", "commission")),
        sa.Column("last_order_at", time, nullable=False),
        sa.PrimaryKeyConstraint("referral_id", "currency", name="pk_arqd_referrals"),
    )
