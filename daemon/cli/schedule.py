"""``arqd schedule``: list, add, pause, resume, run and remove schedules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.common import Json, audited, instant, print_json, print_table, redis_url, settings

if TYPE_CHECKING:
    from daemon.schedules import ScheduleInfo, Schedules

Name = Annotated[str, typer.Argument(help="The schedule, family:name.", metavar="SCHEDULE")]


class MissedPolicy(StrEnum):
    """What becomes of ticks that nobody could make in time."""

    RUN_ONCE = "run_once"
    SKIP = "skip"
    RUN_ALL = "run_all"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(name="schedule", help="List schedules, add and operate them.", rich_markup_mode=None)
    group.command("list")(list_schedules)
    group.command()(add)
    group.command()(pause)
    group.command()(resume)
    group.command()(run)
    group.command()(remove)
    app.add_typer(group)


def list_schedules(
    family: Annotated[str | None, typer.Argument(help="Only of this family.", metavar="[FAMILY]")] = None,
    json: Json = False,
) -> None:
    """List schedules with the time they are due next."""
    found = asyncio.run(_list(family))
    if json:
        print_json(found)
        return
    print_table(
        ("schedule", "function", "when", "zone", "state", "next", "last", "runs", "source"),
        [
            (
                info.name,
                info.function,
                info.cron,
                info.timezone,
                info.state,
                info.next_runs[0] if info.next_runs else None,
                info.last_run,
                info.runs,
                info.source,
            )
            for info in found
        ],
    )


def add(
    name: Annotated[str, typer.Argument(help="Its name, unique in the family.", metavar="NAME")],
    function: Annotated[str, typer.Argument(help="Name of the function.")],
    json: Annotated[str, typer.Option(help="The payload as JSON; @FILE reads a file, - standard input.")] = "",
    family: Annotated[str | None, typer.Option(help="Its family, where no registered family knows it.")] = None,
    cron: Annotated[
        str | None, typer.Option(help="Minute hour day month weekday, seconds before them if wanted; or @daily ...")
    ] = None,
    every: Annotated[str | None, typer.Option(help="In place of --cron a period: 30s, 15m, 1d.")] = None,
    timezone: Annotated[str, typer.Option(help="Zone in which --cron is read, e.g. Europe/Berlin.")] = "UTC",
    start: Annotated[str | None, typer.Option(help="First time it may be due, e.g. 2030-01-31T08:00:00Z.")] = None,
    end: Annotated[str | None, typer.Option(help="Last time it may be due.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many ticks.")] = None,
    missed: Annotated[MissedPolicy, typer.Option(help="What becomes of missed ticks.")] = MissedPolicy.RUN_ONCE,
    priority: Annotated[str | None, typer.Option(help="Of its jobs: 1 (first) to 10 (last), or a name.")] = None,
    max_tries: Annotated[int | None, typer.Option(min=1, help="Total tries of its jobs.")] = None,
    timeout: Annotated[str | None, typer.Option(help="Limit of one try: 30s, 10m.")] = None,
    expires: Annotated[str | None, typer.Option(help="Do not start a job later than so long after its tick.")] = None,
    group: Annotated[str | None, typer.Option(help="A tenant or workspace: groups take turns.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A word to find its jobs by; may be repeated.")] = None,
    dedup_key: Annotated[str | None, typer.Option(help="While a job has this key, a tick adds none.")] = None,
) -> None:
    """Add a schedule and print its name."""
    from daemon.cli.enqueue import find_function, read_payload

    config = settings()
    payload = read_payload(json)
    catalog, named, known = find_function(config, function, family)
    job = catalog.checked(named, known, payload)
    given: dict[str, Any] = {
        "cron": cron,
        "every": every,
        "timezone": timezone,
        "start": None if start is None else instant(start, "--start"),
        "end": None if end is None else instant(end, "--end"),
        "count": count,
        "missed": missed.value,
        "priority": priority,
        "max_tries": max_tries,
        "timeout": timeout,
        "expires": expires,
        "group": group,
        "tags": tag,
        "dedup_key": dedup_key,
    }
    # It is written family:name everywhere else.
    print(asyncio.run(_add(name.removeprefix(f"{named}:"), named, function, job, given)))


def pause(schedule: Name) -> None:
    """Let a schedule not be due until it is resumed."""
    paused = asyncio.run(_act("pause", schedule, lambda found: found.pause(schedule)))
    print(f"{schedule} paused" if paused else f"{schedule} was paused already")


def resume(schedule: Name) -> None:
    """Let a paused schedule be due again, from now on."""
    resumed = asyncio.run(_act("resume", schedule, lambda found: found.resume(schedule)))
    print(f"{schedule} resumed" if resumed else f"{schedule} was not paused")


def run(schedule: Name) -> None:
    """Enqueue a schedule's job now and print the job's id."""
    print(asyncio.run(_act("run", schedule, lambda found: found.run_now(schedule))))


def remove(schedule: Name) -> None:
    """Remove a schedule.

    One of a family's settings comes back when a worker starts that has it.
    """
    asyncio.run(_act("remove", schedule, lambda found: found.remove(schedule)))
    print(f"{schedule} removed")


@asynccontextmanager
async def _schedules() -> AsyncIterator[Schedules]:
    from daemon.schedules import Schedules

    async with Schedules.connect(redis_url(settings())) as found:
        yield found


async def _list(family: str | None) -> list[ScheduleInfo]:
    async with _schedules() as found:
        return await found.list(family)


async def _add(name: str, family: str, function: str, job: Any, given: dict[str, Any]) -> str:
    from daemon.payload import Payload

    call = (job,) if isinstance(job, Payload) else (function, job)
    async with _schedules() as found, audited(found.redis, "schedule.add", f"{family}:{name}", function=function):
        return (await found.add(name, *call, family=family, **given)).name


async def _act(action: str, schedule: str, act: Callable[[Schedules], Awaitable[Any]]) -> Any:
    async with _schedules() as found, audited(found.redis, f"schedule.{action}", schedule):
        return await act(found)
