"""Commands that look: ``job``, ``jobs``, ``queues``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    cell,
    inspector,
    job_filter,
    plain,
    print_json,
    print_table,
    refuse_away,
    refuse_unknown_family,
    with_away,
)

if TYPE_CHECKING:
    from daemon.errors import RedisError
    from daemon.inspecting.answers import Answers
    from daemon.inspector import QueueStats
    from daemon.job import JobInfo, JobLogs
    from daemon.pages import JobFilter, JobPage


class State(StrEnum):
    """The states a job can be listed by."""

    WAITING = "waiting"
    DELAYED = "delayed"
    PARKED = "parked"
    BLOCKED = "blocked"
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


def job(
    id: Annotated[str, typer.Argument(help="The job's id, family:id.", metavar="ID")],
    logs: Annotated[bool, typer.Option("--logs", help="Also what its handler logged.")] = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="Decrypt what is encrypted.")] = False,
    json: Json = False,
) -> None:
    """Show everything known of one job; what is encrypted as asterisks."""
    info, logged = asyncio.run(_job(id, logs, reveal))
    if json:
        print_json(info if logged is None else asdict(info) | {"logs": logged})
        return
    print_job(info)
    if logged is not None:
        print_logs(logged)


async def _job(id: str, logs: bool, reveal: bool) -> tuple[JobInfo, JobLogs | None]:
    from daemon.keys import parse_id

    async with (
        inspector(parse_id(id)[0], reveal=reveal) as found,
        audited(found.redis, "job.reveal", id, unless=not reveal),
    ):
        info = await found.job(id, reveal=reveal)
        return info, await found.logs(id, reveal=reveal) if logs else None


def print_logs(logs: JobLogs) -> None:
    """Print what a job's handler logged, for people."""
    if logs.dropped:
        print(f"({logs.dropped} older lines were dropped)")
    for line in logs.lines:
        first, *further = line.text.splitlines() or [""]
        print(f"{cell(line.at)}  try {line.job_try}  {plain(first)}")
        for rest in further:
            print("    " + plain(rest))


def print_job(info: JobInfo) -> None:
    """Print one job for people: a line for each thing that is known."""
    from pydantic_core import to_json

    facts: dict[str, Any] = asdict(info)
    error, history = facts.pop("error"), facts.pop("history")
    for name in ("payload", "result"):
        if facts[name] is not None:
            facts[name] = to_json(facts[name]).decode()
    facts["tags"], facts["parents"] = " ".join(info.tags), " ".join(info.parents)
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
    function: Function = None,
    tag: Tag = None,
    error: Error = None,
    text: Text = None,
    group: Annotated[str | None, typer.Option(help="Only jobs of this group, as it was given at enqueue.")] = None,
    since: Since = None,
    until: Until = None,
    cursor: Cursor = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List the jobs of a family in one state.

    Times are those of the end; of active jobs of their start, of delayed ones when they are due, of waiting ones when
    they were enqueued. With --text the newest come first, whatever their state; the family must be searched
    (docs/search.md).
    """
    where = replace(job_filter(function, tag, error, since, until, text), group=group)
    print_page(asyncio.run(list_jobs(family, state, where, cursor, limit)), json)


async def list_jobs(family: str, state: str, where: JobFilter, cursor: str | None, limit: int) -> JobPage:
    """Give a page of the jobs of a family in one state, full unless the list ends."""
    from daemon.pages import JobPage

    async with inspector(family) as found:
        page = await found.jobs(family, state, limit=limit, cursor=cursor, where=where)
        listed, partial = list(page), page.partial
        while page.cursor and len(listed) < limit:
            page = await found.jobs(family, state, limit=limit - len(listed), cursor=page.cursor, where=where)
            listed += page
        if not listed:
            await refuse_unknown_family(found, family)
        return JobPage(listed, page.cursor, partial=partial)


def print_page(page: JobPage, json: bool) -> None:
    """Print a page, and how to go on."""
    if page.partial:
        print("arqd: the search index is being built, there may be more", file=sys.stderr)
    if json:
        print_json({"jobs": list(page), "cursor": page.cursor})
        return
    print_jobs(page)
    if page.cursor:
        print(f"more: --cursor {page.cursor}")


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
    answers = asyncio.run(_queues())
    found = [queue for part in answers.some() for queue in part]
    if json:
        print_json([*found, *away_json(answers.away)])
    else:
        _print_queues(found, answers.away)
    refuse_away(answers.away)


def _print_queues(found: list[QueueStats], away: Mapping[str, RedisError]) -> None:
    states = ("waiting", "active", "delayed", "parked", "blocked", "completed", "failed", "aborted", "expired")
    names = (*states, "paused", "workers", "slots")
    budgets = any(queue.max_bytes is not None for queue in found)
    header = ("family", *names, "oldest s", *(["bytes"] if budgets else []))
    rows = [
        (
            queue.family,
            *(getattr(queue, name) for name in names),
            queue.oldest_age_seconds,
            *([_bytes_of(queue)] if budgets else []),
        )
        for queue in found
    ]
    print_table(header, with_away(rows, away, len(header)))


def _bytes_of(queue: QueueStats) -> str | None:
    from daemon.limits.budget import size_text

    return None if queue.max_bytes is None else f"{size_text(queue.bytes or 0)} of {size_text(queue.max_bytes)}"


async def _queues() -> Answers[list[QueueStats]]:
    from daemon.inspector import Inspector

    async with inspector() as found:
        return await found.ask(Inspector.queues)
