"""``arqd audit``: who changed what, and whether the log is whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.common import Cursor, Json, Limit, Since, Until, moment, print_json, print_table, redis_url, settings

if TYPE_CHECKING:
    from daemon.console.audit import Audit, AuditFilter, AuditPage, Verdict

audit = typer.Typer(help="The audit log: who changed what.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(audit, name="audit")


@audit.command("list")
def list_entries(
    who: Annotated[str | None, typer.Option("--actor", help="Only what this token, user or JWT did.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, or those that begin so: queue.")] = None,
    target: Annotated[str | None, typer.Option(help="Only what was done to this family, job or schedule.")] = None,
    outcome: Annotated[str | None, typer.Option(help="Only done, refused or failed ones.")] = None,
    since: Since = None,
    until: Until = None,
    cursor: Cursor = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List changes, the newest first."""
    from daemon.console.audit import AuditFilter

    where = AuditFilter(who, action, target, outcome, moment(since, "--since"), moment(until, "--until"))
    page = asyncio.run(_page(where, cursor, limit))
    if json:
        print_json(page)
        return
    print_table(
        ("number", "at", "actor", "role", "via", "address", "action", "target", "outcome"),
        [(str(e.number), e.at, e.actor, e.role, e.via, e.address, e.action, e.target, e.outcome) for e in page.entries],
    )
    if page.cursor is not None:
        print(f"\nmore: --cursor {page.cursor}")


@audit.command()
def verify(
    expect: Annotated[
        list[str] | None, typer.Option(help="NUMBER:HASH as it was printed earlier; repeatable.", metavar="NUMBER:HASH")
    ] = None,
    json: Json = False,
) -> None:
    """Tell whether no entry was changed or taken away, and print the number and hash of the last one.

    Keep that elsewhere and give it as --expect later: who can write to Redis could make the whole chain anew.
    """
    noted: dict[int, str] = {}
    for text in expect or ():
        number, _, digest = text.partition(":")
        if not number.isdecimal() or not digest:
            raise typer.BadParameter("write it as it was printed, 120:9f86d0…", param_hint="--expect")
        noted[int(number)] = digest
    found = asyncio.run(_verify(noted))
    if json:
        print_json(found)
    else:
        for fault in found.faults:
            print(fault)
        print(f"{found.entries:,} entries, {'not whole' if found.faults else 'whole'}: {found.number}:{found.hash}")
    if found.faults:
        raise typer.Exit(1)


@asynccontextmanager
async def _audit() -> AsyncIterator[Audit]:
    from daemon.connecting.connections import connect
    from daemon.console.audit import Audit

    config = settings()
    redis = connect(redis_url(config))
    try:
        yield Audit(redis, config.console.audit_entries)
    finally:
        await redis.aclose()


async def _page(where: AuditFilter, cursor: str | None, limit: int) -> AuditPage:
    async with _audit() as found:
        return await found.page(where, cursor=cursor, limit=limit)


async def _verify(noted: dict[int, str]) -> Verdict:
    async with _audit() as found:
        return await found.verify(noted)
