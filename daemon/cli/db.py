"""``arqd db``: the tables of the database."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import typer

from daemon.cli.common import Json, print_json, print_table, settings

db = typer.Typer(help="The database of families that keep data.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(db, name="db")


@db.command()
def upgrade(json: Json = False) -> None:
    """Bring the tables up to this release.

    Any number of processes may do it at once; workers of the release before go on with the new tables.
    """
    where, schema = asyncio.run(_with_database("upgrade"))
    if json:
        print_json({"database": where, "schema": schema})
    else:
        print(f"{where}: {_told(schema)}")


@db.command()
def status(json: Json = False) -> None:
    """Show which tables there are; `arqd db upgrade` makes those of this release."""
    where, schema = asyncio.run(_with_database("schema"))
    if json:
        print_json({"database": where, "schema": schema})
    else:
        print_table(("family", "step"), sorted(schema.items()))


async def _with_database(action: str) -> tuple[str, Mapping[str, int]]:
    from daemon.dotted import database_of

    database: Any = database_of(settings())
    try:
        return database.where, await getattr(database, action)()
    finally:
        await database.close()


def _told(schema: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(schema.items()))
