"""The command that shows a flow as a tree: ``flow``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.common import Json, cell, inspector, print_json

if TYPE_CHECKING:
    from daemon.flows.view import FlowNode


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(flow)


def flow(
    id: Annotated[str, typer.Argument(help="The id of the job that ends last, or of any below it.", metavar="ID")],
    limit: Annotated[int, typer.Option(min=1, max=20_000, help="How many jobs to show.")] = 500,
    json: Json = False,
) -> None:
    """Show a job with the jobs it waits for, and what these wait for, as a tree."""
    found = asyncio.run(_flow(id, limit))
    if json:
        print_json(found)
    else:
        print_tree(found)


async def _flow(id: str, limit: int) -> FlowNode:
    from daemon.keys import parse_id

    async with inspector(parse_id(id)[0]) as found:
        return await found.flow(id, limit=limit)


def print_tree(root: FlowNode) -> None:
    """Print a tree for people, a job a line."""
    # Not by recursion: a chain may be a thousand steps long.
    waiting: list[tuple[str, str, FlowNode | int]] = [("", "", root)]
    while waiting:
        first, indent, node = waiting.pop()
        if isinstance(node, int):
            print(f"{first}{node} more")
            continue
        told = f"{node.id} {node.function or '?'} {node.state}" + (f": {node.error}" if node.error else "")
        print(first + cell(told))
        below: list[FlowNode | int] = [*node.children, *([node.more] if node.more else [])]
        for last, child in enumerate(reversed(below)):
            branch, under = ("└─ ", "   ") if not last else ("├─ ", "│  ")
            waiting.append((indent + branch, indent + under, child))
