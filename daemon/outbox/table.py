"""The table of the outbox: jobs on their way from a service's transaction to Redis."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, PrimaryKeyConstraint, Table, Text

metadata = MetaData()

#: A row is a job as the enqueue script takes it (`daemon.broker.NewJob`), and how far the relay is with it.
OUTBOX = Table(
    "arqd_outbox",
    metadata,
    Column("id", BigInteger().with_variant(Integer(), "sqlite"), autoincrement=True, nullable=False),
    Column("family", Text, nullable=False),
    Column("job_id", Text, nullable=False),
    Column("level", Integer, nullable=False),
    Column("due", Text, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("timeout_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    #: Name of the batch it goes to Redis with; none: not on its way yet.
    Column("batch", Text),
    #: When it is tried again after Redis refused it, and what was said.
    Column("again_ms", BigInteger, nullable=False),
    Column("error", Text),
    PrimaryKeyConstraint("id", name="pk_arqd_outbox"),
    Index("ix_arqd_outbox_batch", "batch"),
)
