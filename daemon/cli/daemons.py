"""Commands that stay: ``up``, ``run``, ``probe``; and ``bench``."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.common import redis_url, settings

if TYPE_CHECKING:
    from daemon.family import Family
    from daemon.settings import Settings

logger = logging.getLogger("arqd")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(run)
    app.command()(probe)
    everything = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(context_settings=everything)(bench)


def up(
    demo: Annotated[bool, typer.Option("--demo", help="Send a few demonstration mails and show their way.")] = False,
) -> None:
    """Run everything on this machine: an embedded Valkey unless ARQD_REDIS_URL is set, all families, the probe."""
    import uvloop

    from daemon.up import up as start

    config = settings()
    _log(config, "text")
    start(config, families(config, list(config.families)), uvloop.run, demo=demo)


def run(
    names: Annotated[list[str] | None, typer.Argument(help="Families, or module:Class.", metavar="[FAMILY]...")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every family.")] = False,
    burst: Annotated[bool, typer.Option("--burst", help="End when no job is left.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Start anew when Python files here change.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Run so many worker processes.")] = 1,
    accept_pickle: Annotated[
        bool, typer.Option("--accept-pickle", help="Let a plain arq class read and write pickles.")
    ] = False,
) -> None:
    """Run the worker daemon."""
    if bool(names) == all:
        raise typer.BadParameter("name families, or give --all", param_hint="FAMILY")
    adopted = _adopted(names or [])
    config = settings(adopted)
    chosen = list(config.families) if all else [*adopted, *(name for name in names or [] if ":" not in name)]
