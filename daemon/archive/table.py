"""The table of the dead-letter archive: what failed for good, kept when Redis has forgotten it."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

_NUMBER = BigInteger().with_variant(Integer(), "sqlite")
#: Always UTC; SQLite drops the zone.
_TIME = DateTime(timezone=True)

#: A row is one end of one job. A job that was sent back and failed again has two, by the time of their ends.
DEAD_LETTERS = Table(
    "arqd_dead_letters",
    metadata,
    Column("id", _NUMBER, autoincrement=True, nullable=False),
    Column("queue", Text, nullable=False),
    #: As people write it, ``email:<id>``.
    Column("job_id", Text, nullable=False),
    Column("function", Text),
    #: JSON as everybody may see it: what is encrypted, or a secret field, stands as asterisks.
    Column("payload", Text, nullable=False),
    Column("error_type", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("traceback", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("cause", Text),
    Column("tries", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("enqueued_at", _TIME),
    Column("failed_at", _TIME, nullable=False),
    Column("archived_at", _TIME, nullable=False),
    #: What it is enqueued from again: as Redis held it, encrypted where it was there. None of a stock arq's job.
    Column("level", Integer, nullable=False),
    Column("timeout_ms", BigInteger, nullable=False),
    Column("record", LargeBinary),
    #: What became of it since: ``retried`` or ``discarded``.
    Column("outcome", Text),
    Column("outcome_at", _TIME),
    #: The object in the store that has its line, and whether it is there.
    Column("object", Text),
    Column("stored_at", _TIME),
    PrimaryKeyConstraint("id", name="pk_arqd_dead_letters"),
    UniqueConstraint("job_id", "failed_at", name="uq_arqd_dead_letters_job_id_failed_at"),
    Index("ix_arqd_dead_letters_queue_failed_at", "queue", "failed_at"),
    Index("ix_arqd_dead_letters_failed_at", "failed_at"),
    Index("ix_arqd_dead_letters_stored_at", "stored_at"),
)
