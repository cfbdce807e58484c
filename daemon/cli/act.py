"""Commands that change jobs: ``retry``, ``remove`` and the dead letters' ``dead list|retry|discard``."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from daemon.cli.common import Json, Limit, Offset, inspector, print_json
from daemon.cli.look import list_jobs, print_jobs, refuse_unknown_family

Ids = Annotated[list[str], typer.Argument(help="Ids of jobs, family:id.", metavar="ID...")]
PAGE = 500

#: What the outcomes of an action mean to people; whoever asked for something else than "done" is told with status 1.
DONE = ("retried", "removed", "discarded")
REASONS = {
    "not_found": "there is no such job",
    "active": "it is running",
    "not_failed": "it is not a dead letter",
}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(retry)
    app.command()(remove)
    dead = typer.Typer(name="dead", help="List, retry or discard dead letters.", rich_markup_mode=None)
    dead.command("list")(list_dead)
    dead.command("retry")(retry_dead)
    dead.command("discard")(discard)
    app.add_typer(dead)


def retry(ids: Ids, json: Json = False) -> None:
    """Run dead letters again.

    The id stays, tries are counted from the beginning, the history is kept.
    """
    _tell(asyncio.run(_act("retry", ids)), json)


def remove(ids: Ids, json: Json = False) -> None:
    """Remove jobs that are not running.

    Their results go with them.
    """
    _tell(asyncio.run(_act("remove", ids)), json)


def list_dead(
    family: Annotated[str, typer.Argument(help="The family.", metavar="FAMILY")],
    limit: Limit = 50,
    offset: Offset = 0,
    json: Json = False,
) -> None:
    """List a family's dead letters."""
    found = asyncio.run(list_jobs(family, "failed", limit, offset))
    if json:
        print_json(found)
    else:
        print_jobs(found)


def retry_dead(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of jobs, family:id.", metavar="[ID]...")] = None,
    family: Annotated[str | None, typer.Option(help="With --all: of this family.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every dead letter of --family.")] = False,
    json: Json = False,
) -> None:
    """Run dead letters again.

    Some by their ids, or with --family FAMILY --all every one of a family.
    """
    if bool(ids) == all or all != bool(family):
        raise typer.BadParameter("give ids, or --family FAMILY --all", param_hint="ID")
    outcomes = asyncio.run(_retry_all(family)) if family else asyncio.run(_act("retry", ids or []))
    _tell(outcomes, json)


def discard(ids: Ids, json: Json = False) -> None:
    """Remove dead letters for good."""
    _tell(asyncio.run(_discard(ids)), json)


async def _act(action: str, ids: list[str]) -> dict[str, str]:
    from daemon.keys import parse_id

    async with inspector(*(parse_id(id)[0] for id in ids)) as found:
        return await (found.retry(ids) if action == "retry" else found.remove(ids))


async def _retry_all(family: str) -> dict[str, str]:
    from daemon.job import JobState

    outcomes: dict[str, str] = {}
    async with inspector(family) as found:
        # What is retried leaves the list; what is not stays at its front and ends the loop.
        while letters := await found.jobs(family, JobState.FAILED, limit=PAGE):
            page = await found.retry([letter.id for letter in letters])
            outcomes |= page
            if any(outcome != "retried" for outcome in page.values()):
                break
        if not outcomes:
            await refuse_unknown_family(found, family)
    return outcomes


async def _discard(ids: list[str]) -> dict[str, str]:
    from daemon.errors import JobNotFound
    from daemon.job import JobState
    from daemon.keys import parse_id

    outcomes: dict[str, str] = {}
    async with inspector(*(parse_id(id)[0] for id in ids)) as found:
        for id in ids:
            try:
                state = (await found.job(id)).state
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
            print(
                f"{id} {outcome if done else 'not done: ' + REASONS.get(outcome, outcome)}",
                file=None if done else sys.stderr,
            )
    if refused:
        raise typer.Exit(1)
