"""Removes old rows of a table that the operator has named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import column, delete, func, literal_column, select
from sqlalchemy import table as named
from sqlalchemy.exc import DBAPIError

from daemon.errors import PermanentError
from handlers.integrations.database import Database, Utc

#: Rows of one statement.
PORTION = 5000


class NoSuchTable(PermanentError):
    """The table or its column is not there, or may not be changed: see ARQD_MAINTENANCE__TABLES."""


async def remove_rows(database: Database, place: str, age: float, *, dry_run: bool = False) -> int:
    """Remove the rows whose time is older than an age.

    Args:
        place: ``table.column`` or ``schema.table.column``, the column a time (SQLite: ISO text in UTC).
        age: seconds.

    Returns:
        How many were (would be) removed.

    Raises:
        NoSuchTable: permanent.
    """
    *schema, name, time = place.split(".")
    old = named(name, column(time, Utc()), schema=schema[0] if schema else None)
    too_old = old.c[time] < datetime.now(UTC) - timedelta(seconds=age)
    try:
        if database.is_sqlite:
            await _see_times(database, old, old.c[time], too_old, place)
        if dry_run:
            async with database.read() as connection:
                counted = await connection.execute(select(func.count()).select_from(old).where(too_old))
                return int(counted.scalar_one())
        where: Any = literal_column("rowid" if database.is_sqlite else "ctid")
        portion = select(where).select_from(old).where(too_old).limit(PORTION)
        total = 0
        while True:
            async with database.begin() as connection:
                # Asked again: PostgreSQL looks anew at a row that somebody has just changed.
                gone = (await connection.execute(delete(old).where(where.in_(portion), too_old))).rowcount
            total += gone
            if not gone:
                return total
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        raise NoSuchTable(f"rows of {place} cannot be removed: {' '.join(str(error.orig).split())[:200]}") from error


async def _see_times(database: Database, old: Any, time: Any, too_old: Any, place: str) -> None:
    """See that a SQLite compares texts with texts: there any number is less than any text, and so would be old."""
    kind = func.typeof(time)
    async with database.read() as connection:
        found = await connection.execute(select(kind).select_from(old).where(too_old, kind != "text").limit(1))
        if (other := found.scalar_one_or_none()) is not None:
            raise NoSuchTable(f"{place} holds values of type {other}: write times as text in UTC, 2030-01-31 12:00:00")
