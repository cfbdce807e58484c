"""``arqd token``: API tokens for the console, made, listed and revoked."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.common import Json, actor, print_json, print_table, redis_url, settings

if TYPE_CHECKING:
    from daemon.console.audit import Audit
    from daemon.console.tokens import TokenInfo, Tokens

Name = Annotated[str, typer.Argument(help="Its name: a-z, 0-9, - and _.", metavar="NAME")]

token = typer.Typer(help="API tokens for the console.", no_args_is_help=True, rich_markup_mode=None)


class RoleName(StrEnum):
    """What a token may do."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(token, name="token")


@token.command()
def add(
    name: Name,
    role: Annotated[RoleName, typer.Option(help="viewer looks, operator acts, admin gives access, too.")],
    expires: Annotated[str | None, typer.Option(help="After so long: 12h, 90d; default never.")] = None,
    json: Json = False,
) -> None:
    """Make a token and print it: it cannot be shown again."""
    info, text = asyncio.run(_add(name, role.value, expires))
    if json:
        print_json({"info": info, "token": text})
    else:
        print(text)
        until = f"until {info.expires_at:%Y-%m-%dT%H:%M:%SZ}" if info.expires_at else "until it is revoked"
        print(f"arqd: {info.name} is {info.role} {until}; only its hash is kept", file=sys.stderr)


@token.command("list")
def list_tokens(json: Json = False) -> None:
    """List the tokens, without their secrets."""
    found = asyncio.run(_list())
    if json:
        print_json(found)
    else:
        print_table(
            ("name", "role", "created", "by", "expires", "expired"),
            [(each.name, each.role, each.created_at, each.created_by, each.expires_at, each.expired) for each in found],
        )


@token.command()
def revoke(name: Name) -> None:
    """Revoke a token.

    Browsers that logged in with it are out as well.
    """
    asyncio.run(_revoke(name))
    print(f"{name} revoked")


@asynccontextmanager
async def _tokens() -> AsyncIterator[tuple[Tokens, Audit]]:
    from daemon.connecting.connections import connect
    from daemon.console.audit import Audit
    from daemon.console.tokens import Tokens

    config = settings()
    redis = connect(redis_url(config))
    try:
        yield Tokens(redis), Audit(redis, config.console.audit_entries)
    finally:
        await redis.aclose()


async def _add(name: str, role: str, expires: str | None) -> tuple[TokenInfo, str]:
    from daemon.console import accounts

    async with _tokens() as (tokens, audit):
        return await accounts.add(tokens, audit, actor(), name, role, expires)


async def _list() -> list[TokenInfo]:
    async with _tokens() as (tokens, _):
        return await tokens.list()


async def _revoke(name: str) -> None:
    from daemon.console import accounts

    async with _tokens() as (tokens, audit):
        await accounts.revoke(tokens, audit, actor(), name)
