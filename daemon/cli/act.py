"""Commands that change jobs: ``retry``, ``remove``, ``promote``, ``priority``, ``abort``, and ``dead``."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.bulk import DryRun, tell_counts, told
from daemon.cli.common import (
    Cursor,
    Error,
    Function,
    Json,
    Limit,
    Since,
    Tag,
    Until,
    control,
    job_filter,
    print_json,
    refuse_unknown_family,
)
from daemon.cli.look import list_jobs, print_page

if TYPE_CHECKING:
    from daemon.pages import JobFilter

Ids = Annotated[list[str], typer.Argument(help="Ids of jobs, family:id.", metavar="ID...")]

#: What the outcomes of an action mean to people; whoever asked for something else than "done" is told with status 1.
DONE = {
    "retried": "retried",
    "removed": "removed",
    "discarded": "discarded",
    "promoted": "promoted",
    "changed": "changed",
    "aborted": "aborted",
    "asked": "runs, its worker was told to stop it",
}
REASONS = {
    "not_found": "there is no such job",
    "active": "it is running",
    "ended": "it has ended",
    "not_failed": "it is not a dead letter",
    "not_delayed": "it is not delayed",
}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(retry)
    app.command()(remove)
    app.command()(promote)
    app.command()(priority)
    app.command()(abort)
    dead = typer.Typer(name="dead", help="List, retry or discard dead letters.", rich_markup_mode=None)
    dead.command("list")(list_dead)
    dead.command("retry")(retry)
    dead.command("discard")(discard)
    app.add_typer(dead)


def retry(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of jobs, family:id.", metavar="[ID]...")] = None,
    family: Annotated[str | None, typer.Option(help="With --all: of this family.")] = None,
    all: Annotated[
        bool, typer.Option("--all", help="Every dead letter of --family, or those the filters name.")
    ] = False,
    function: Function = None,
    error: Error = None,
    tag: Tag = None,
    since: Since = None,
    until: Until = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Run dead letters again.

    Some by their ids, or with --family FAMILY --all every one of a family that the filters let through. The id stays,
    tries are counted from the beginning, the history is kept.
    """
    filtered = dry_run or any(option is not None for option in (function, error, tag, since, until))
    if bool(ids) == all or all != bool(family) or (ids and filtered):
        raise typer.BadParameter("give ids, or --family FAMILY --all and filters", param_hint="ID")
    if family:
        where = job_filter(function, tag, error, since, until)
        tell_counts(asyncio.run(_retry_all(family, where, dry_run, json)), dry_run, json)
    else:
        _tell(asyncio.run(_act("retry", ids or [])), json)


def remove(ids: Ids, json: Json = False) -> None:
    """Remove jobs that are not running.

    Their results go with them.
    """
    _tell(asyncio.run(_act("remove", ids)), json)


def promote(ids: Ids, json: Json = False) -> None:
    """Run delayed jobs now.

    Those that wait for a retry, too.
    """
    _tell(asyncio.run(_act("promote", ids)), json)


def priority(
    id: Annotated[str, typer.Argument(help="The job's id, family:id.", metavar="ID")],
    level: Annotated[str, typer.Argument(help="1 (first) to 10 (last), or a name such as high.", metavar="LEVEL")],
    json: Json = False,
) -> None:
    """Change the priority of a waiting or delayed job.

    It goes behind those that wait at that level; a delayed one keeps its time.
    """
    _tell(asyncio.run(_act("set_priority", [id], level)), json)


def abort(ids: Ids, json: Json = False) -> None:
    """End jobs now.

    A waiting or delayed one is aborted at once; of a running one the handler is cancelled.
    """
    _tell(asyncio.run(_act("abort", ids)), json)


def list_dead(
    family: Annotated[str, typer.Argument(help="The family.", metavar="FAMILY")],
    function: Function = None,
    error: Error = None,
    tag: Tag = None,
    since: Since = None,
    until: Until = None,
    cursor: Cursor = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List a family's dead letters."""
    where = job_filter(function, tag, error, since, until)
    print_page(asyncio.run(list_jobs(family, "failed", where, cursor, limit)), json)


def discard(ids: Ids, json: Json = False) -> None:
    """Remove dead letters for good."""
    _tell(asyncio.run(_discard(ids)), json)


async def _act(action: str, ids: list[str], *args: str) -> dict[str, str]:
    from daemon.keys import parse_id

    async with control(*(parse_id(id)[0] for id in ids)) as found:
        outcomes: dict[str, str] = await getattr(found, action)(ids, *args)
        return outcomes


async def _retry_all(family: str, where: JobFilter, dry_run: bool, json: bool) -> dict[str, dict[str, int]]:
    async with control(family) as found:
        await refuse_unknown_family(found.inspector, family)
        retried = await found.retry_all(family, where, dry_run=dry_run, progress=told(family, json))
        return {family: {"retried": retried}}


async def _discard(ids: list[str]) -> dict[str, str]:
    from daemon.errors import JobNotFound
    from daemon.job import JobState
    from daemon.keys import parse_id

    outcomes: dict[str, str] = {}
    async with control(*(parse_id(id)[0] for id in ids)) as found:
        for id in ids:
            try:
                state = (await found.inspector.job(id)).state
            except JobNotFound:
                outcomes[id] = "not_found"
                continue
            outcomes |= await found.remove([id]) if state is JobState.FAILED else {id: "not_failed"}
    return {id: "discarded" if outcome == "removed" else outcome for id, outcome in outcomes.items()}


def _tell(outcomes: dict[str, str], json: bool) -> None:
    """Print what became of each job.

    Raises:
        typer.Exit: with status 1 when one of them could not be done.
    """
    if json:
        print_json(outcomes)
    refused = False
    for id, outcome in outcomes.items():
        done = outcome in DONE
        refused |= not done
        if not json:
            text = DONE[outcome] if done else f"not done: {REASONS.get(outcome, outcome)}"
            print(f"{id} {text}", file=None if done else sys.stderr)
    if refused:
        raise typer.Exit(1)
