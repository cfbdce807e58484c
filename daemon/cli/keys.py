"""``arqd keys``: make keys, see which there are, put what is stored under a new one."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.common import Json, control, print_json, print_table, settings

if TYPE_CHECKING:
    from daemon.reencryption import Reencrypted

keys = typer.Typer(help="Keys of encrypted families and secret fields.", no_args_is_help=True, rich_markup_mode=None)

Family = Annotated[str, typer.Argument(help="The family.", metavar="FAMILY")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(keys, name="keys")


@keys.command()
def generate(
    id: Annotated[str | None, typer.Argument(help="Its id; default the month.", metavar="[ID]")] = None,
) -> None:
    """Print a new random key for ARQD_ENCRYPTION_KEYS."""
    from daemon.encryption import generate_key

    print(generate_key(id or f"{datetime.now(UTC):%Y-%m}"))


@keys.command("list")
def list_keys(json: Json = False) -> None:
    """Show the ids of the configured keys and a check value of each, never the keys."""
    found = [name.split() for name in settings().keyring().names()]
    if json:
        print_json([{"id": id, "check": check, "encrypts": not n} for n, (id, check) in enumerate(found)])
        return
    print_table(("id", "check", "encrypts"), [(id, check, not n) for n, (id, check) in enumerate(found)])


@keys.command()
def reencrypt(family: Family, json: Json = False) -> None:
    """Put everything a family has stored under the first key.

    Then the other keys can be removed, unless jobs were active: run it again when they have ended.
    """
    done = asyncio.run(_reencrypt(family))
    if json:
        print_json(done)
    else:
        print(f"{family}: {done.changed:,} values under the first key now")
    if done.active and not json:
        print(f"{done.active:,} jobs are active: run it again before a key is removed", file=sys.stderr)
    if done.unreadable:
        print(f"arqd: {done.unreadable:,} values cannot be read: their key is not here", file=sys.stderr)
        raise typer.Exit(1)


async def _reencrypt(family: str) -> Reencrypted:
    from daemon.cli.common import refuse_unknown_family
    from daemon.reencryption import reencrypt

    ring = settings().keyring()
    async with control(family) as found:
        await refuse_unknown_family(found.inspector, family)
        return await reencrypt(found.redis, found.inspector.of(family), ring)


@keys.command()
def off(family: Family) -> None:
    """Let producers hand over jobs of a family in clear again, after its `encrypted` was taken back."""

    async def act() -> None:
        async with control(family) as found:
            await found.allow_clear(family)

    asyncio.run(act())
    print(f"{family}: jobs in clear are taken again")
