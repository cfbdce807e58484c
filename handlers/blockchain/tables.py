"""The tables of the blockchain family."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from handlers.integrations.database import Utc, id_column, metadata

#: How far a contract's events of one kind are in the index.
CURSORS = Table(
    "arqd_chain_cursors",
    metadata,
    id_column(),
    Column("chain_id", BigInteger, nullable=False),
    Column("address", Text, nullable=False),
    #: The event's first topic.
    Column("topic", Text, nullable=False),
    Column("start_block", BigInteger, nullable=False),
    Column("next_block", BigInteger, nullable=False),
    #: Blocks the node was last asked for at once.
    Column("span", Integer, nullable=False),
    #: Goes up with every change: two passes notice each other by it.
    Column("version", BigInteger, nullable=False),
    Column("updated_at", Utc, nullable=False),
    UniqueConstraint("chain_id", "address", "topic"),
)

#: Hashes of blocks that were looked through: where they differ from the chain's, it was reorganised.
CHECKPOINTS = Table(
    "arqd_chain_checkpoints",
    metadata,
    Column("cursor", BigInteger, ForeignKey("arqd_chain_cursors.id"), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("hash", Text, nullable=False),
    PrimaryKeyConstraint("cursor", "number"),
)

#: The index: events of contracts. Until it is ``final``, a reorganisation may take one back.
EVENTS = Table(
    "arqd_chain_events",
    metadata,
    id_column(),
    Column("chain_id", BigInteger, nullable=False),
    Column("tx_hash", Text, nullable=False),
    Column("log_index", Integer, nullable=False),
    Column("block_number", BigInteger, nullable=False),
    Column("block_hash", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("indexed_at", Utc, nullable=False),
    Column("notified_at", Utc),
    UniqueConstraint("chain_id", "tx_hash", "log_index"),
    Index(None, "chain_id", "address", "topic", "block_number"),
)
