"""What the commands share: settings, connections, output."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from daemon.inspector import Inspector
    from daemon.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Limit = Annotated[int, typer.Option(min=1, max=500, help="How many to list.")]
Offset = Annotated[int, typer.Option(min=0, help="How many to leave out.")]


def settings(adopted: Mapping[str, str] | None = None) -> Settings:
    """Load the settings from the process's environment."""
    from daemon.settings import load_settings

    return load_settings(os.environ, adopted)


def redis_url(settings: Settings) -> str:
    """Give the Redis to use: the configured one, that of an ``arqd up`` in this folder, or one on localhost."""
    from daemon.embedded import running_url
    from daemon.settings import DEFAULT_REDIS_URL

    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    return running_url(settings.var_dir / "valkey") or DEFAULT_REDIS_URL


@asynccontextmanager
async def inspector(*families: str | None) -> AsyncIterator[Inspector]:
    """Give an inspector of all families, and of those named beside them."""
    from daemon.inspector import Inspector

    config = settings()
    names = dict.fromkeys([*config.families, *(name for name in families if name)])
    async with Inspector.connect(redis_url(config), list(names)) as found:
        yield found


def print_json(value: Any) -> None:
    """Print dataclasses, datetimes and plain data as JSON."""
    from pydantic_core import to_json

    print(to_json(value, indent=2).decode())


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows in columns; numbers stand on the right."""
    found = [tuple(row) for row in rows]
    lines = [tuple(header), *(tuple(cell(value) for value in row) for row in found)]
    columns = range(len(header))
    numeric = [bool(found) and all(isinstance(row[i], int | float) for row in found) for i in columns]
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
