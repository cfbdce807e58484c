"""``arqd dead``: list dead letters and their groups by cause, send them back with care, discard them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli import archive
from daemon.cli.act import act, tell
from daemon.cli.bulk import DryRun, tell_counts, told
from daemon.cli.common import (
    Cursor,
    Error,
    Function,
    Json,
    Limit,
    Since,
    Tag,
    Text,
    Until,
    audited,
    away_json,
    control,
    inspector,
    job_filter,
    print_json,
    print_table,
    refuse_away,
    refuse_unknown_family,
)
from daemon.cli.look import list_jobs, print_page

if TYPE_CHECKING:
    from daemon.dead_letters import DeadGroup
    from daemon.errors import RedisError
    from daemon.inspector import Inspector
    from daemon.pages import JobFilter
    from daemon.redrive import Redriven

MaybeIds = Annotated[list[str] | None, typer.Argument(help="Ids of jobs, family:id.", metavar="[ID]...")]
MaybeFamily = Annotated[str | None, typer.Argument(help="The family.", metavar="[FAMILY]")]
OfFamily = Annotated[str | None, typer.Option(help="With --all: of this family; with --group: where to look for it.")]
Group = Annotated[str | None, typer.Option(help="Only those of this cause: its id, as arqd dead groups tells it.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter of --family, or those the filters name.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    dead = typer.Typer(
        name="dead", help="Dead letters by cause: send them back, discard, archive them.", rich_markup_mode=None
    )
    dead.command("list")(list_dead)
    dead.command("groups")(groups)
    dead.command("retry")(retry)
    dead.command("discard")(discard)
    archive.register(dead)
    app.add_typer(dead)


def list_dead(
    family: MaybeFamily = None,
    group: Group = None,
    function: Function = None,
    error: Error = None,
    tag: Tag = None,
    text: Text = None,
    since: Since = None,
    until: Until = None,
    cursor: Cursor = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List the dead letters of a family or of a group, newest first."""
    if family is None and group is None:
        raise typer.BadParameter("name a family, or give --group", param_hint="FAMILY")
    where = replace(job_filter(function, tag, error, since, until, text), cause=group)
    name = family or asyncio.run(_family_of(group or ""))
    print_page(asyncio.run(list_jobs(name, "failed", where, cursor, limit)), json)


def groups(family: MaybeFamily = None, json: Json = False) -> None:
    """Show what dead letters died of: a line for each cause, the largest group first."""
    found, away = asyncio.run(_groups(family))
    if json:
        print_json([*found, *away_json(away)])
    elif found:
        print_table(
            ("group", "family", "count", "first", "last", "place", "error", "newest"),
            [(g.id, g.family, g.count, g.first, g.last, g.place, _error(g), g.example) for g in found],
        )
    elif not away:
        print("no dead letters")
    refuse_away(away)


def retry(
    ids: MaybeIds = None,
    group: Group = None,
    family: OfFamily = None,
    all: All = False,
    function: Function = None,
    error: Error = None,
    tag: Tag = None,
    since: Since = None,
    until: Until = None,
    canaries: Annotated[int, typer.Option(min=0, max=500, help="Jobs of each group that are tried first.")] = 3,
    rate: Annotated[str, typer.Option(help="Jobs sent back per period: 50/s, 30/m; none: at once.")] = "50/s",
    tolerance: Annotated[int, typer.Option(min=1, help="So many new dead letters of the same cause stop a group.")] = 1,
    patience: Annotated[str, typer.Option(help="How long to wait for canaries: 90, 15m.")] = "10m",
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Run dead letters again, some of each cause first.

    The rest of a group follows when none of its canaries has died of the same cause again. Jobs named by their ids are
    sent back at once. The status is 1 when a group was stopped.
    """
    where = _selected(ids, group, family, all, job_filter(function, tag, error, since, until))
    if where is None:
        tell(asyncio.run(act("retry", ids or [], dry_run=dry_run)), json, dry_run=dry_run)
    else:
        asyncio.run(_redrive(family, where, canaries, rate, tolerance, patience, dry_run, json))


def discard(
    ids: MaybeIds = None,
    group: Group = None,
    family: OfFamily = None,
    all: All = False,
    function: Function = None,
    error: Error = None,
    tag: Tag = None,
    since: Since = None,
    until: Until = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Remove dead letters for good."""
    where = _selected(ids, group, family, all, job_filter(function, tag, error, since, until))
    if where is None:
        tell(asyncio.run(act("discard", ids or [], dry_run=dry_run)), json, dry_run=dry_run)
    else:
        tell_counts(asyncio.run(_discard_all(family, where, dry_run, json)), dry_run, json)


def _selected(
    ids: list[str] | None, group: str | None, family: str | None, all: bool, where: JobFilter
) -> JobFilter | None:
    """Give the filter of what is named, None for ids.

    Raises:
        typer.BadParameter: for more or less than one way to name them.
    """
    from daemon.pages import EVERY

    if (bool(ids) + (group is not None) + all) != 1:
        raise typer.BadParameter("give ids, --group, or --family FAMILY --all", param_hint="ID")
    if ids and (family or where != EVERY):
        raise typer.BadParameter("filters go with --group or --all", param_hint="ID")
    if all and not family:
        raise typer.BadParameter("name the --family", param_hint="--all")
    return None if ids else replace(where, cause=group)


def _error(group: DeadGroup) -> str:
    return f"{group.type}: {group.message}"[:100] if group.message else group.type


async def _groups(family: str | None) -> tuple[list[DeadGroup], dict[str, RedisError]]:
    from daemon import dead_letters

    async with inspector(family) as found:
        if family is None:
            answers = await found.ask(dead_letters.groups)
            return dead_letters.largest_first(each for part in answers.some() for each in part), answers.away
        groups = await dead_letters.groups(found, family)
        if not groups:
            await refuse_unknown_family(found, family)
        return groups, {}


async def _family_of(group: str) -> str:
    async with inspector() as found:
        return await _named(found, None, group)


async def _named(found: Inspector, family: str | None, group: str | None) -> str:
    """Give the family that is meant; a group tells its own."""
    from daemon import dead_letters

    if family is None:
        return (await dead_letters.group(found, group or "")).family
    await refuse_unknown_family(found, family)
    return family


async def _discard_all(family: str | None, where: JobFilter, dry_run: bool, json: bool) -> dict[str, dict[str, int]]:
    async with control(family) as found:
        name = await _named(found.inspector, family, where.cause)
        async with audited(found.redis, "dead.discard", name, unless=dry_run, **where.asked()) as doing:
            count = await found.discard_all(name, where, dry_run=dry_run, progress=told(name, json))
            doing.detail["result"] = {"discarded": count}
            return {name: doing.detail["result"]}


async def _redrive(
    family: str | None, where: JobFilter, canaries: int, rate: str, tolerance: int, patience: str, dry_run: bool,
    json: bool,
) -> None:  # fmt: skip
    from daemon.job import seconds
    from daemon.limits.text import rate_of
    from daemon.redrive import Redrive, RedriveState

    limit = rate_of(rate)
    async with control(family) as found:
        name = await _named(found.inspector, family, where.cause)
        work = Redrive(
            found, name, where, canaries=canaries, rate=limit.count / limit.per if limit else None, tolerance=tolerance,
            patience=seconds(patience),
        )  # fmt: skip
        try:
            async with audited(
                found.redis, "dead.redrive", name, unless=dry_run, canaries=canaries, **where.asked()
            ) as doing:
                try:
                    await (work.look() if dry_run else work.run(told(name, json)))
                finally:
                    doing.detail["retried"] = sum(one.retried for one in work.groups)
        except BaseException:
            # Interrupted: it can be called again, and this is what has been done.
            if any(one.retried for one in work.groups):
                _tell(work.groups, False, json)
            raise
    _tell(work.groups, dry_run, json)
    if any(one.state not in (RedriveState.FOUND, RedriveState.DONE) for one in work.groups):
        raise typer.Exit(1)


#: What the states of a group mean to people.
_STATES = {
    "found": "not begun",
    "canaries": "interrupted: canaries were not through",
    "sending": "interrupted",
    "done": "done",
    "came_back": "stopped: the same cause came back",
    "none_completed": "stopped: no canary completed",
    "not_in_time": "stopped: canaries did not end in time",
}


def _tell(found: list[Redriven], dry_run: bool, json: bool) -> None:
    if json:
        print_json({"dry_run": dry_run, "groups": found})
    elif not found:
        print("no dead letters")
    elif dry_run:
        print_table(
            ("group", "would retry", "place", "error"),
            [(one.group.id, one.found, one.group.place, _error(one.group)) for one in found],
        )
    else:
        print_table(
            ("group", "found", "retried", "left", "came back", "place", "outcome"),
            [
                (one.group.id, one.found, one.retried, one.left, one.came_back, one.group.place, _STATES[one.state])
                for one in found
            ],
        )
