"""What the commands share: settings, connections, output."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from daemon.console.audit import Doing
    from daemon.console.roles import Actor
    from daemon.control import Control
    from daemon.errors import RedisError
    from daemon.inspector import Inspector
    from daemon.pages import JobFilter
    from daemon.servers import RedisUrl
    from daemon.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Limit = Annotated[int, typer.Option(min=1, max=500, help="How many to list.")]
Cursor = Annotated[str | None, typer.Option(help="Go on after a page: the cursor printed below it.")]
Function = Annotated[str | None, typer.Option(help="Only jobs of this function.")]
Tag = Annotated[str | None, typer.Option(help="Only jobs with this tag.")]
Error = Annotated[str | None, typer.Option(help="Only jobs that ended of this type of error, e.g. TimeoutError.")]
Text = Annotated[
    str | None, typer.Option(help="Only jobs in which all these words occur; 0192ab* for the beginning of an id.")
]
Since = Annotated[str | None, typer.Option(help="Not before this time: 2030-01-31T08:00:00Z, or 2h for two hours ago.")]
Until = Annotated[str | None, typer.Option(help="Before this time, written the same way.")]


def settings(adopted: Mapping[str, str] | None = None) -> Settings:
    """Load the settings from the process's environment."""
    from daemon.settings import load_settings

    return load_settings(os.environ, adopted)


def redis_url(settings: Settings) -> RedisUrl:
    """Give the Redis to use: the configured one, that of an ``arqd up`` in this folder, or one on localhost.

    Families that have one of their own are on that.
    """
    from daemon.embedded import running_url
    from daemon.settings import DEFAULT_REDIS_URL

    if settings.redis_url is not None:
        return settings.servers(settings.redis_url.get_secret_value())
    return settings.servers(running_url(settings.var_dir / "valkey") or DEFAULT_REDIS_URL)


@asynccontextmanager
async def inspector(*families: str | None, reveal: bool = False) -> AsyncIterator[Inspector]:
    """Give an inspector of all families, and of those named beside them; one that is to reveal gets the keys."""
    from daemon.inspector import Inspector

    config = settings()
    names = dict.fromkeys([*config.families, *(name for name in families if name)])
    keyring = config.keyring() if reveal else None
    async with Inspector.connect(redis_url(config), list(names), keyring=keyring) as found:
        yield found


@asynccontextmanager
async def control(*families: str | None) -> AsyncIterator[Control]:
    """Give what acts on all families, and on those named beside them."""
    from daemon.control import Control

    config = settings()
    names = dict.fromkeys([*config.families, *(name for name in families if name)])
    async with Control.connect(redis_url(config), list(names)) as found:
        yield found


def actor() -> Actor:
    """Who the audit log says has called this command: whoever can reach Redis may do everything."""
    import getpass
    import socket

    from daemon.console.roles import Actor, Role

    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid {os.getuid()}"
    return Actor(name, Role.ADMIN, "cli", socket.gethostname())


@asynccontextmanager
async def audited(redis: Any, action: str, target: str, *, unless: bool = False, **detail: Any) -> AsyncIterator[Doing]:
    """Write an entry of the audit log when the block has ended, however it ends.

    Args:
        redis: an asynchronous client without response decoding.
        unless: nothing is changed, as in a dry run, and nothing written.
    """
    from daemon.console.audit import Audit, Doing

    if unless:
        yield Doing(actor(), action, target)
    else:
        async with Audit(redis, settings().console.audit_entries).record(actor(), action, target, **detail) as doing:
            yield doing


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


def refuse_away(away: Mapping[str, RedisError]) -> None:
    """End a command that has shown the other families, if there are any whose server cannot be asked.

    Raises:
        RedisUnavailable: naming them, and why.
    """
    from daemon.errors import RedisUnavailable

    why: dict[str, list[str]] = {}
    for family, error in away.items():
        why.setdefault(str(error), []).append(family)
    if why:
        told = (f"{', '.join(families)} cannot be asked: {error}" for error, families in why.items())
        raise RedisUnavailable("; ".join(told))


def away_json(away: Mapping[str, RedisError]) -> list[dict[str, str]]:
    """Give what stands in a list for programs in the place of families whose server cannot be asked."""
    return [{"family": family, "error": str(error)} for family, error in away.items()]


def with_away(rows: Iterable[Sequence[Any]], away: Mapping[str, RedisError], columns: int) -> list[tuple[Any, ...]]:
    """Put rows without figures among those of families, by name."""
    unknown = [(family, *[None] * (columns - 1)) for family in away]
    return sorted([*map(tuple, rows), *unknown], key=lambda row: str(row[0]))


def job_filter(
    function: str | None,
    tag: str | None,
    error: str | None,
    since: str | None,
    until: str | None,
    text: str | None = None,
) -> JobFilter:
    """Give the filter of these options."""
    from daemon.pages import JobFilter

    return JobFilter(function, tag, error, moment(since, "--since"), moment(until, "--until"), text=text)


def moment(text: str | None, option: str) -> datetime | None:
    """Read a time with its zone, or how long ago; None of None.

    Raises:
        typer.BadParameter: when it is neither.
    """
    from daemon.errors import InvalidJob
    from daemon.job import seconds

    if text is None:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=seconds(text))
    except (InvalidJob, OverflowError):
        return instant(text, option)


def instant(text: str, option: str) -> datetime:
    """Read a time with its zone.

    Raises:
        typer.BadParameter: when it is none.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("write an ISO 8601 time, e.g. 2030-01-31T08:00:00Z", param_hint=option) from None
    if time.tzinfo is None:
        raise typer.BadParameter("say the time zone too, e.g. 2030-01-31T08:00:00Z", param_hint=option)
    return time


def print_json(value: Any) -> None:
    """Print dataclasses, datetimes and plain data as JSON."""
    from pydantic_core import to_json

    print(to_json(value, indent=2).decode())


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows in columns; numbers stand on the right."""
    found = [tuple(row) for row in rows]
    lines = [tuple(header), *(tuple(cell(value) for value in row) for row in found)]
    columns = range(len(header))
    values = [[row[i] for row in found if row[i] is not None] for i in columns]
    numeric = [bool(column) and all(isinstance(value, int | float) for value in column) for column in values]
    widths = [max(len(line[i]) for line in lines) for i in columns]
    for line in lines:
        cells = (line[i].rjust(widths[i]) if numeric[i] else line[i].ljust(widths[i]) for i in columns)
        print("  ".join(cells).rstrip())


def cell(value: Any) -> str:
    """Give a value as one line of plain text: what stands in a job may hold anything, terminal codes included."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return plain(" ".join(str(value).split()))


def plain(line: str) -> str:
    """Give a line without terminal codes."""
    return line if line.isprintable() else "".join(char if char.isprintable() else "�" for char in line)
