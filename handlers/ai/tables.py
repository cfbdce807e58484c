"""The tables of the ai family."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, PrimaryKeyConstraint, Table, Text

from handlers.integrations.database import Exact, Utc, id_column, metadata

#: One row for each call: what it used. Nothing of what was asked or answered.
USAGE = Table(
    "arqd_ai_usage",
    metadata,
    id_column(),
    Column("job_id", Text, nullable=False),
    Column("group", Text, nullable=False),
    #: ``2030-01-31``, UTC.
    Column("day", Text, nullable=False),
    Column("model", Text, nullable=False),
    #: Until ``ended_at`` is set these are the most it may use.
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cost", Exact),
    Column("at", Utc, nullable=False),
    Column("ended_at", Utc),
    Index(None, "group", "day"),
)

#: What a group has spent in a day, calls under way counted with the most they may cost.
DAYS = Table(
    "arqd_ai_days",
    metadata,
    Column("group", Text, nullable=False),
    Column("day", Text, nullable=False),
    Column("spent", Exact, nullable=False),
    PrimaryKeyConstraint("group", "day"),
)
