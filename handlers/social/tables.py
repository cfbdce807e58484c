"""The tables of the social family."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Index, Integer, PrimaryKeyConstraint, Table, Text, UniqueConstraint

from handlers.integrations.database import Utc, id_column, metadata

#: Posts, each written down before it is sent.
POSTS = Table(
    "arqd_social_posts",
    metadata,
    #: Digest of the account and of the idempotency key, or the job's id.
    Column("key", Text, nullable=False),
    Column("network", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    #: Digest of what it says.
    Column("digest", Text, nullable=False),
    Column("opened_at", Utc, nullable=False),
    #: What the network calls the files that are there already.
    Column("uploads", JSON, nullable=False),
    #: Goes up when the network has forgotten the key it was sent with.
    Column("round", Integer, nullable=False),
    #: When it was first sent in this round.
    Column("sent_at", Utc),
    Column("remote_id", Text),
    Column("url", Text),
    Column("published_at", Utc),
    PrimaryKeyConstraint("key"),
)

#: How far each collection is; what the cursor says only its driver knows.
CURSORS = Table(
    "arqd_social_cursors",
    metadata,
    *(Column(name, Text, nullable=False) for name in ("network", "account_id", "query", "cursor")),
    Column("updated_at", Utc, nullable=False),
    PrimaryKeyConstraint("network", "account_id", "query"),
)

#: Mentions that were found.
MENTIONS = Table(
    "arqd_social_mentions",
    metadata,
    id_column(),
    *(
        Column(name, Text, nullable=False)
        for name in ("network", "account_id", "query", "mention_id", "author", "text")
    ),
    Column("url", Text),
    Column("at", Utc, nullable=False),
    Column("found_at", Utc, nullable=False),
    UniqueConstraint("network", "account_id", "query", "mention_id"),
    Index(None, "at"),
)
