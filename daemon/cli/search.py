"""Commands on search indexes: ``search rebuild``, ``search status``. What finds jobs is ``jobs --text``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.common import Json, cell, inspector, print_json

if TYPE_CHECKING:
    from daemon.inspector import Inspector
    from daemon.search.indexer import View

FamilyName = Annotated[str, typer.Argument(help="The family.", metavar="FAMILY")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    search = typer.Typer(name="search", help="Look at a search index, or build it anew.", rich_markup_mode=None)
    search.command()(rebuild)
    search.command()(status)
    app.add_typer(search)


def rebuild(family: FamilyName, json: Json = False) -> None:
    """Build a family's search index anew from its jobs.

    Until it is built searches find some of them.
    """
    _tell(family, asyncio.run(_rebuild(family)), json)


def status(family: FamilyName, json: Json = False) -> None:
    """Show what is indexed of a family, and how much."""
    _tell(family, asyncio.run(_status(family)), json)


async def _rebuild(family: str) -> View:
    from daemon.connecting.connections import translated
    from daemon.search.indexer import indexer_of, view

    async with inspector(family) as found:
        await _require(found, family)
        indexer = indexer_of(found.redis, family)
        with translated():
            seen = await indexer.begin_anew()
            # The scheduler's leader may help: what one has written the other goes on from.
            while seen.text("rebuild"):
                await indexer.step()
                seen = await view(indexer.broker)
        return seen


async def _status(family: str) -> View:
    from daemon.broker import Broker
    from daemon.connecting.connections import translated
    from daemon.search.indexer import view

    async with inspector(family) as found:
        await _require(found, family)
        with translated():
            return await view(Broker(found.redis, found.of(family)))


async def _require(found: Inspector, family: str) -> None:
    from daemon.connecting.connections import translated
    from daemon.search.query import require_search

    with translated():
        await require_search(found.redis, found.of(family))


def _tell(family: str, seen: View, json: bool) -> None:
    facts: dict[str, Any] = {
        "family": family,
        "indexed": seen.wanted[0] if seen.wanted else "off",
        "jobs": sum(segment.live for segment in seen.segments.values()),
        "bytes": seen.bytes,
        "max_bytes": seen.wanted[1] if seen.wanted else 0,
        "building": not seen.mode or bool(seen.text("rebuild")),
        "behind": seen.newest not in (b"", seen.meta.get(b"at", b"")),
    }
    if json:
        print_json(facts)
        return
    for name, value in facts.items():
        told = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else cell(value)
        print(f"{name:<10} {told}")
