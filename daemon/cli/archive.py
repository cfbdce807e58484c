"""``arqd dead archive``, ``archived``, ``restore``: dead letters in the database, when Redis has forgotten them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.bulk import DryRun
from daemon.cli.common import (
    Cursor,
    Error,
    Function,
    Json,
    Limit,
    Since,
    Until,
    audited,
    cell,
    moment,
    plain,
    print_json,
    print_table,
    redis_url,
    refuse_away,
    settings,
)
from daemon.outcomes import DONE, REASONS

if TYPE_CHECKING:
    from daemon.archive.archiver import Archiver
    from daemon.archive.letters import ArchivedLetter, ArchiveFilter, Passed

MaybeFamily = Annotated[str | None, typer.Argument(help="The family.", metavar="[FAMILY]")]
Group = Annotated[str | None, typer.Option(help="Only those of this cause: its id, as arqd dead groups tells it.")]
Text = Annotated[str | None, typer.Option(help="Only those in whose id, payload, error or traceback this occurs.")]
Outcome = Annotated[str | None, typer.Option(help="Only those that were since: none, retried or discarded.")]


def register(dead: typer.Typer) -> None:
    """Add the commands."""
    dead.command()(archive)
    dead.command()(archived)
    dead.command()(restore)


def archive(family: MaybeFamily = None, dry_run: DryRun = False, json: Json = False) -> None:
    """Copy dead letters that the archive lacks to the database.

    With ARQD_ARCHIVE__EVERY=5m arqd up, scheduler and console do it regularly.
    """
    passed = asyncio.run(_archive(family, dry_run))
    if json:
        counts = {"archived": passed.archived, "stored": passed.stored, "removed": passed.removed}
        print_json({"dry_run": dry_run, **counts})
        refuse_away(passed.away)
        return
    for name, count in passed.archived.items():
        if count or family:
            print(f"{name}: {count} {'would be ' if dry_run else ''}archived")
    if not any(passed.archived.values()) and not family:
        print("nothing new")
    if passed.stored or passed.removed:
        print(f"{passed.stored} written to the object store, {passed.removed} too old and removed")
    refuse_away(passed.away)


def archived(
    family: MaybeFamily = None,
    number: Annotated[int | None, typer.Option("--number", help="Show this one whole.")] = None,
    function: Function = None,
    error: Error = None,
    group: Group = None,
    text: Text = None,
    since: Since = None,
    until: Until = None,
    outcome: Outcome = None,
    cursor: Cursor = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """Look through the archive, the last archived first."""
    if number is not None:
        letter = asyncio.run(_one(number))
        print_json(letter) if json else _print_whole(letter)
        return
    where = _filter(family, function, error, group, text, since, until, outcome)
    found, following = asyncio.run(_page(where, cursor, limit))
    if json:
        print_json({"letters": found, "cursor": following})
        return
    print_table(
        ("number", "job", "function", "tries", "failed", "error", "since"),
        [
            (each.id, each.job_id, each.function, each.tries, each.failed_at, _error(each), each.outcome)
            for each in found
        ],
    )
    if following:
        print(f"more: --cursor {following}")


def restore(
    numbers: Annotated[list[int] | None, typer.Argument(help="Numbers of the archive.", metavar="[NUMBER]...")] = None,
    family: Annotated[str | None, typer.Option(help="With --all: of this family.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every one of --family that the filters let through.")] = False,
    function: Function = None,
    error: Error = None,
    group: Group = None,
    text: Text = None,
    since: Since = None,
    until: Until = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Run archived dead letters again, each once, whether Redis still has them or not.

    Those that were sent back before stay; with --all also those that were discarded.
    """
    where = _filter(family, function, error, group, text, since, until, "none")
    filtered = any(option is not None for option in (function, error, group, text, since, until))
    if bool(numbers) == all or all != bool(family) or (numbers and filtered):
        raise typer.BadParameter("give numbers, or --family FAMILY --all and filters", param_hint="NUMBER")
    words = asyncio.run(_restore(numbers or where, dry_run))
    if json:
        print_json({"dry_run": dry_run, "outcomes": words})
    elif not words:
        print("there is nothing to send back")
    else:
        for word, count in words.items():
            print(f"{count} {'would be ' if dry_run else ''}{DONE.get(word) or f'not: {REASONS.get(word, word)}'}")
    if words.keys() - {"retried"}:
        raise typer.Exit(1)


def _filter(
    family: str | None, function: str | None, error: str | None, group: str | None, text: str | None,
    since: str | None, until: str | None, outcome: str | None,
) -> ArchiveFilter:  # fmt: skip
    from daemon.archive.letters import ArchiveFilter

    times = (moment(since, "--since"), moment(until, "--until"))
    return ArchiveFilter(family, function, error, group, *times, text, outcome)


@asynccontextmanager
async def _archiver() -> AsyncIterator[tuple[Archiver, Any]]:
    from daemon.archive.archiver import make_archiver
    from daemon.archive.database import Archive
    from daemon.connecting.connections import connect
    from daemon.dotted import database_of

    config = settings()
    database, redis = database_of(config), connect(redis_url(config))
    try:
        await database.check()
        yield make_archiver(config, redis, Archive(database)), redis
    finally:
        await redis.aclose()
        await database.close()


async def _archive(family: str | None, dry_run: bool) -> Passed:
    async with _archiver() as (found, redis):
        async with audited(redis, "dead.archive", family or "*", unless=dry_run) as doing:
            passed = await found.run([family] if family else None, dry_run=dry_run)
            doing.detail["archived"] = sum(passed.archived.values())
            if passed.away:
                doing.detail["away"] = sorted(passed.away)
        return passed


async def _one(number: int) -> ArchivedLetter:
    async with _archiver() as (found, _):
        return await found.archive.get(number)


async def _page(where: ArchiveFilter, cursor: str | None, limit: int) -> tuple[list[ArchivedLetter], str | None]:
    async with _archiver() as (found, _):
        return await found.archive.page(where, cursor=cursor, limit=limit)


async def _restore(chosen: list[int] | ArchiveFilter, dry_run: bool) -> dict[str, int]:
    async with _archiver() as (found, redis):
        if dry_run and not isinstance(chosen, list):
            return {"retried": await found.archive.count(chosen)}
        if dry_run:
            return await found.retry(chosen, dry_run=True)
        numbers = chosen[:20] if isinstance(chosen, list) else None
        target = "archive" if isinstance(chosen, list) else chosen.family or "*"
        async with audited(redis, "dead.restore", target, numbers=numbers) as doing:
            words = await found.retry(chosen)
            doing.detail["outcomes"] = words
        return words


def _error(letter: ArchivedLetter) -> str:
    return f"{letter.error_type}: {letter.error}"[:100]


def _print_whole(letter: ArchivedLetter) -> None:
    from pydantic_core import to_json

    facts = asdict(letter)
    trace = facts.pop("traceback")
    facts["payload"] = to_json(letter.payload).decode()
    for name, value in facts.items():
        if value not in (None, ""):
            print(f"{name:<12} {cell(value)}")
    for line in trace.splitlines():
        print(plain(line))
