"""Commands that act on whole queues: ``pause``, ``resume``, ``drain``, ``clean``, ``clear``."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from daemon.cli.common import Json, audited, control, print_json, refuse_away, refuse_unknown_family

if TYPE_CHECKING:
    from daemon.control import Control, Progress
    from daemon.errors import RedisError

Family = Annotated[str | None, typer.Argument(help="The family.", metavar="[FAMILY]")]
All = Annotated[bool, typer.Option("--all", help="Every family.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell how many it would be.")]

#: How often progress is printed, in seconds.
TOLD_SECONDS = 1.0

T = TypeVar("T")


class Ended(StrEnum):
    """The states of ended jobs."""

    COMPLETED = "completed"
    FAILED = "failed"
    ABORTED = "aborted"
    EXPIRED = "expired"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (pause, resume, drain, clean, clear):
        app.command()(command)


def pause(family: Family = None, all: All = False, json: Json = False) -> None:
    """Let no worker claim from a queue; what runs goes on."""
    changed, away = asyncio.run(_each("pause", family, all, lambda found, name: found.pause(name)))
    _tell_switch(changed, "paused", "was paused already", json)
    refuse_away(away)


def resume(family: Family = None, all: All = False, json: Json = False) -> None:
    """Let workers claim from a paused queue again."""
    changed, away = asyncio.run(_each("resume", family, all, lambda found, name: found.resume(name)))
    _tell_switch(changed, "resumed", "was not paused", json)
    refuse_away(away)


def drain(family: Family = None, all: All = False, dry_run: DryRun = False, json: Json = False) -> None:
    """Remove every waiting and delayed job, not those that run."""

    async def act(found: Control, name: str) -> dict[str, int]:
        return {"drained": await found.drain(name, dry_run=dry_run, progress=told(name, json))}

    _tell(asyncio.run(_each("drain", family, all, act, dry_run=dry_run)), dry_run, json)


def clean(
    family: Family = None,
    all: All = False,
    state: Annotated[Ended, typer.Option(help="Which jobs; failed ones are dead letters.")] = Ended.COMPLETED,
    older_than: Annotated[str, typer.Option(help="Only those that ended so long ago: 90, 15m, 7d.")] = "0",
    count: Annotated[int | None, typer.Option(min=1, help="At most so many, oldest first.")] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Remove ended jobs with their results."""

    async def act(found: Control, name: str) -> dict[str, int]:
        removed = await found.clean(
            name, state, older_than=older_than, count=count, dry_run=dry_run, progress=told(name, json)
        )
        return {str(state): removed}

    detail = {"state": str(state), "older_than": older_than, "count": count}
    _tell(asyncio.run(_each("clean", family, all, act, dry_run=dry_run, **detail)), dry_run, json)


def clear(family: Family = None, all: All = False, dry_run: DryRun = False, json: Json = False) -> None:
    """Remove every job but those that run."""

    async def act(found: Control, name: str) -> dict[str, int]:
        return await found.clear(name, dry_run=dry_run, progress=told(name, json))

    _tell(asyncio.run(_each("clear", family, all, act, dry_run=dry_run)), dry_run, json)


async def _each(
    action: str,
    family: str | None,
    all: bool,
    act: Callable[[Control, str], Awaitable[T]],
    *,
    dry_run: bool = False,
    **detail: Any,
) -> tuple[dict[str, T], dict[str, RedisError]]:
    """Act on a queue, or on every one; gives what was done, and the queues that cannot be asked, where others can."""
    from daemon.errors import RedisError

    if all == (family is not None):
        raise typer.BadParameter("name a family, or give --all", param_hint="FAMILY")
    async with control(family) as found:
        if family is not None:
            await refuse_unknown_family(found.inspector, family)
        names = [family] if family is not None else found.families
        done: dict[str, T] = {}
        away = await found.inspector.away(names) if all else {}
        for name in names:
            try:
                async with audited(found.redis, f"queue.{action}", name, unless=dry_run, **detail) as doing:
                    if name in away:
                        raise away[name]
                    done[name] = doing.detail["result"] = await act(found, name)
            except RedisError as error:
                if not away:
                    raise
                away[name] = error
        return done, away


def told(family: str, json: bool) -> Progress:
    """Give what tells people on standard error, once a second, how far an action is."""
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if not json and time.monotonic() - last > TOLD_SECONDS:
            last = time.monotonic()
            print(f"{family}: {done:,} of {total:,}", file=sys.stderr)

    return tell


def _tell(acted: tuple[dict[str, dict[str, int]], dict[str, RedisError]], dry_run: bool, json: bool) -> None:
    done, away = acted
    tell_counts(done, dry_run, json)
    refuse_away(away)


def tell_counts(counts: dict[str, dict[str, int]], dry_run: bool, json: bool) -> None:
    """Print how many jobs of each family an action took, by what became of them or what they were."""
    if json:
        print_json({"dry_run": dry_run, "families": counts})
        return
    for family, found in counts.items():
        what = ", ".join(f"{count:,} {name}" for name, count in found.items())
        print(f"{family}: {'would be ' if dry_run else ''}{what}")


def _tell_switch(changed: dict[str, bool], done: str, already: str, json: bool) -> None:
    if json:
        print_json({family: done if now else already for family, now in changed.items()})
        return
    for family, now in changed.items():
        print(f"{family} {done if now else already}")
