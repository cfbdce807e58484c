"""Commands that look: ``job``, ``jobs``, ``queues``, ``stats``."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.common import Json, Limit, Offset, cell, inspector, plain, print_json, print_table, settings

if TYPE_CHECKING:
    from daemon.inspector import Inspector
    from daemon.job import JobInfo


class State(StrEnum):
    """The states a job can be listed by."""

    WAITING = "waiting"
    DELAYED = "delayed"
    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"
    ABORTED = "aborted"
    EXPIRED = "expired"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(job)
    app.command()(jobs)
    app.command()(queues)
    app.command()(stats)


def job(
    id: Annotated[str, typer.Argument(help="The job's id, family:id.", metavar="ID")],
    json: Json = False,
) -> None:
    """Show everything known of one job."""
    info = asyncio.run(_job(id))
    if json:
        print_json(info)
    else:
        print_job(info)


async def _job(id: str) -> JobInfo:
    from daemon.keys import parse_id

    async with inspector(parse_id(id)[0]) as found:
        return await found.job(id)


def print_job(info: JobInfo) -> None:
    """Print one job for people: a line for each thing that is known."""
    from pydantic_core import to_json

    facts: dict[str, Any] = asdict(info)
    error, history = facts.pop("error"), facts.pop("history")
    for name in ("payload", "result"):
        if facts[name] is not None:
            facts[name] = to_json(facts[name]).decode()
    facts["tags"] = " ".join(info.tags)
    for name, value in facts.items():
        if value not in (None, ""):
            print(f"{name:<12} {cell(value)}")
    if error:
        print(f"{'error':<12} {cell(error['type'])}: {cell(error['message'])} ({cell(error['reason'])})")
    for failed in history:
        print(f"  try {failed['try']}  {cell(failed['at'])}  {cell(failed['type'])}: {cell(failed['message'])}")
    if error:
        for line in error["traceback"].splitlines():
            print(plain(line))


def jobs(
    family: Annotated[str, typer.Argument(help="The family.", metavar="FAMILY")],
    state: Annotated[State, typer.Option(help="Which jobs.")] = State.WAITING,
    limit: Limit = 50,
    offset: Offset = 0,
    json: Json = False,
) -> None:
    """List the jobs of a family in one state."""
    found = asyncio.run(list_jobs(family, state, limit, offset))
    if json:
        print_json(found)
    else:
        print_jobs(found)


async def list_jobs(family: str, state: str, limit: int, offset: int) -> list[JobInfo]:
    """Give a page of the jobs of a family in one state."""
    from daemon.job import JobState

    async with inspector(family) as found:
        page = await found.jobs(family, JobState(state), limit=limit, offset=offset)
        if not page:
            await refuse_unknown_family(found, family)
        return page


async def refuse_unknown_family(found: Inspector, family: str) -> None:
    """Refuse a family that is not registered here and of which Redis knows nothing either: it is misspelt.

    Raises:
        InvalidJob: naming those that are registered.
    """
    from daemon.errors import InvalidJob
    from daemon.inspector import QueueStats

    registered = settings().families
    if family not in registered and QueueStats(family) == await found.queue(family):
        raise InvalidJob(f"there is no family {family!r}: known are {', '.join(sorted(registered))}")


def print_jobs(found: list[JobInfo]) -> None:
    """Print jobs for people, one a line."""
    print_table(
        ("id", "function", "prio", "tries", "since", "progress", "note"),
        [
            (
                info.id,
                info.function,
                info.priority,
                info.tries,
                info.finished_at or info.started_at or info.due_at or info.enqueued_at,
                info.progress,
                f"{info.error['type']}: {info.error['message']}"[:100] if info.error else info.note,
            )
            for info in found
        ],
    )


def queues(json: Json = False) -> None:
    """Show how many jobs every queue holds."""
    found = asyncio.run(_queues())
    if json:
        print_json(found)
        return
    names = ("waiting", "active", "delayed", "completed", "failed", "aborted", "expired", "paused", "workers", "slots")
    print_table(
        ("family", *names, "oldest s"),
        [(queue.family, *(getattr(queue, name) for name in names), queue.oldest_age_seconds) for queue in found],
    )


async def _queues() -> list[Any]:
    async with inspector() as found:
        return await found.queues()


def stats(json: Json = False) -> None:
    """Show what was done so far, and the workers."""
    totals, workers = asyncio.run(_stats())
    if json:
        print_json({"totals": totals, "workers": workers})
        return
    outcomes = sorted({name for counts in totals.values() for name in counts})
    print_table(
        ("family", *outcomes), [(family, *(counts.get(o, 0) for o in outcomes)) for family, counts in totals.items()]
    )
    print()
    if not workers:
        print("no worker is running")
        return
    names = ("family", "session", "host", "pid", "slots", "running", "draining", "lease_seconds", "mean_seconds", "lag")
    print_table(names, [tuple(getattr(worker, name) for name in names) for worker in workers])


async def _stats() -> tuple[dict[str, dict[str, int]], list[Any]]:
    async with inspector() as found:
        return {queue.family: queue.totals for queue in await found.queues()}, await found.workers()
