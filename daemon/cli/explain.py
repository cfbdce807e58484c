"""The command that tells why a job does not run: ``explain``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.common import Json, cell, inspector, print_json

if TYPE_CHECKING:
    from daemon.inspecting.explain import Explanation


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(explain)


def explain(
    id: Annotated[str, typer.Argument(help="The job's id, family:id.", metavar="ID")],
    json: Json = False,
) -> None:
    """Tell why a job does not run, and when it will."""
    found = asyncio.run(_explain(id))
    if json:
        print_json(found)
    else:
        print(cell(f"{found.reason}: {found.message}"))


async def _explain(id: str) -> Explanation:
    from daemon.errors import JobNotFound
    from daemon.inspecting.explain import Reason
    from daemon.keys import parse_id

    async with inspector(parse_id(id)[0]) as found:
        explanation = await found.explain(id)
    if explanation.reason is Reason.NOT_FOUND:
        raise JobNotFound.of(id)
    return explanation
