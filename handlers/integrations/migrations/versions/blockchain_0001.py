"""Blockchain: cursors, checkpoints, the index of events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels = "blockchain_0001", None, "blockchain"


def upgrade() -> None:
    """Make the tables."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    time = sa.DateTime(timezone=True)
    op.create_table(
        "arqd_chain_cursors",
        sa.Column("id", number, autoincrement=True, nullable=False),
        sa.Column("chain_id", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("address", "topic")),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("start_block", "next_block")),
        sa.Column("span", sa.Integer(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_arqd_chain_cursors"),
        sa.UniqueConstraint("chain_id", "address", "topic", name="uq_arqd_chain_cursors_chain_id_address_topic"),
    )
    op.create_table(
        "arqd_chain_checkpoints",
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("cursor", "number")),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("cursor", "number", name="pk_arqd_chain_checkpoints"),
        sa.ForeignKeyConstraint(["cursor"], ["arqd_chain_cursors.id"], name="fk_arqd_chain_checkpoints_cursor"),
    )
    op.create_table(
        "arqd_chain_events",
        sa.Column("id", number, autoincrement=True, nullable=False),
        sa.Column("chain_id", sa.BigInteger(), nullable=False),
        sa.Column("tx_hash", sa.Text(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("block_hash", "address", "topic", "event")),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("indexed_at", time, nullable=False),
        sa.Column("notified_at", time),
        sa.PrimaryKeyConstraint("id", name="pk_arqd_chain_events"),
        sa.UniqueConstraint("chain_id", "tx_hash", "log_index", name="uq_arqd_chain_events_chain_id_tx_hash_log_index"),
    )
    op.create_index(
        "ix_arqd_chain_events_chain_id_address_topic_block_number",
        "arqd_chain_events",
        ["chain_id", "address", "topic", "block_number"],
    )
