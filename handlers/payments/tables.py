"""The tables of payments: attempts to charge, the books, and what each referral has earned."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, Table, Text, UniqueConstraint

from handlers.integrations.database import Exact, Utc, id_column, metadata

#: An attempt is written before its call. ``state``: ``open`` (not made yet, or its outcome is unknown), ``succeeded``,
#: ``failed`` (proved). ``key`` is its idempotency key, ``body`` what is sent with it, always the same.
ATTEMPTS = Table(
    "arqd_payment_attempts",
    metadata,
    id_column(),
    Column("provider", Text, nullable=False),
    Column("payment_id", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("job_id", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("object_id", Text),
    Column("detail", Text),
    Column("opened_at", Utc, nullable=False),
    Column("closed_at", Utc),
    UniqueConstraint("provider", "payment_id", "number"),
    UniqueConstraint("key"),
)
Index(
    "ix_arqd_payment_attempts_open",
    ATTEMPTS.c.provider,
    ATTEMPTS.c.payment_id,
    unique=True,
    sqlite_where=ATTEMPTS.c.state == "open",
    postgresql_where=ATTEMPTS.c.state == "open",
)

#: A transaction of the books; ``reference`` says what it is for, and is there once.
TRANSACTIONS = Table(
    "arqd_ledger_transactions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("reference", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("amount", Exact, nullable=False),
    Column("at", Utc, nullable=False),
    UniqueConstraint("reference"),
)
#: Its entries: debits are positive, credits negative, and their sum is nothing.
ENTRIES = Table(
    "arqd_ledger_entries",
    metadata,
    id_column(),
    Column("transaction", Text, ForeignKey("arqd_ledger_transactions.id"), nullable=False),
    Column("account", Text, nullable=False),
    Column("amount", Exact, nullable=False),
    Index("ix_arqd_ledger_entries_account", "account"),
    Index("ix_arqd_ledger_entries_transaction", "transaction"),
)
#: What a referral has brought and earned, in each currency.
REFERRALS = Table(
    "arqd_referrals",
    metadata,
    Column("referral_id", Text, primary_key=True),
    Column("currency", Text, primary_key=True),
    Column("orders", BigInteger, nullable=False),
    Column("turnover", Exact, nullable=False),
    Column("commission", Exact, nullable=False),
    Column("last_order_at", Utc, nullable=False),
)
