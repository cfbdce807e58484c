"""Commands that change jobs: ``retry``, ``remove``, ``promote``, ``priority``, ``abort``."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.bulk import DryRun, tell_counts, told
from daemon.cli.common import (
    Error,
    Function,
    Json,
    Since,
    Tag,
    Until,
    audited,
    control,
    job_filter,
    print_json,
    refuse_unknown_family,
)
from daemon.outcomes import DONE, REASONS

if TYPE_CHECKING:
    from daemon.pages import JobFilter

Ids = Annotated[list[str], typer.Argument(help="Ids of jobs, family:id.", metavar="ID...")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(retry)
    app.command()(remove)
    app.command()(promote)
    app.command()(priority)
    app.command()(abort)


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
    filtered = any(option is not None for option in (function, error, tag, since, until))
    if bool(ids) == all or all != bool(family) or (ids and filtered):
        raise typer.BadParameter("give ids, or --family FAMILY --all and filters", param_hint="ID")
    if family:
        where = job_filter(function, tag, error, since, until)
        tell_counts(asyncio.run(_retry_all(family, where, dry_run, json)), dry_run, json)
    else:
        tell(asyncio.run(act("retry", ids or [], dry_run=dry_run)), json, dry_run=dry_run)


def remove(ids: Ids, json: Json = False) -> None:
    """Remove jobs that are not running.

    Their results go with them.
    """
    tell(asyncio.run(act("remove", ids)), json)


def promote(ids: Ids, json: Json = False) -> None:
    """Run delayed jobs now.

    Those that wait for a retry, too.
    """
    tell(asyncio.run(act("promote", ids)), json)


def priority(
    id: Annotated[str, typer.Argument(help="The job's id, family:id.", metavar="ID")],
    level: Annotated[str, typer.Argument(help="1 (first) to 10 (last), or a name such as high.", metavar="LEVEL")],
    json: Json = False,
) -> None:
    """Change the priority of a waiting or delayed job.

    It goes behind those that wait at that level; a delayed one keeps its time.
    """
    tell(asyncio.run(act("set_priority", [id], level)), json)


def abort(ids: Ids, json: Json = False) -> None:
    """End jobs now.

    A waiting or delayed one is aborted at once; of a running one the handler is cancelled.
    """
    tell(asyncio.run(act("abort", ids)), json)


async def act(action: str, ids: list[str], *args: str, dry_run: bool = False) -> dict[str, str]:
    """Do it with `Control`'s method of that name; gives what became of each job.

    Args:
        dry_run: with ``retry`` and ``discard``: only tell what would become of them.
    """
    from daemon.keys import parse_id

    async with control(*(parse_id(id)[0] for id in ids)) as found:
        target = ids[0] if len(ids) == 1 else f"{len(ids)} jobs"
        name, options = f"job.{action.removeprefix('set_')}", {"dry_run": True} if dry_run else {}
        detail = {"ids": ids[:20], "priority": args[0] if args else None}
        async with audited(found.redis, name, target, unless=dry_run, **detail) as doing:
            outcomes: dict[str, str] = await getattr(found, action)(ids, *args, **options)
            doing.detail["outcomes"] = dict(Counter(outcomes.values()))
            if not any(word in DONE for word in outcomes.values()):
                doing.outcome = "refused"
            return outcomes


async def _retry_all(family: str, where: JobFilter, dry_run: bool, json: bool) -> dict[str, dict[str, int]]:
    async with control(family) as found:
        await refuse_unknown_family(found.inspector, family)
        async with audited(found.redis, "dead.retry", family, unless=dry_run, **where.asked()) as doing:
            retried = await found.retry_all(family, where, dry_run=dry_run, progress=told(family, json))
            doing.detail["result"] = {"retried": retried}
            return {family: doing.detail["result"]}


def tell(outcomes: dict[str, str], json: bool, *, dry_run: bool = False) -> None:
    """Print what became of each job, or in a dry run would.

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
            text = (
                f"{'would be ' if dry_run else ''}{DONE[outcome]}"
                if done
                else f"not done: {REASONS.get(outcome, outcome)}"
            )
            print(f"{id} {text}", file=None if done else sys.stderr)
    if refused:
        raise typer.Exit(1)
