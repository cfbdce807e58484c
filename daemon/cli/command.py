"""The ``arqd`` command. Each command imports what it needs when it runs, so that ``arqd --help`` is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from copy import copy
from typing import Annotated

import typer

from daemon import __version__
from daemon.cli import (
    act,
    alerts,
    audit,
    bulk,
    check,
    daemons,
    db,
    dead,
    enqueue,
    explain,
    flow,
    healthcheck,
    install,
    keys,
    limits,
    look,
    new,
    outbox,
    schedule,
    search,
    token,
    watch,
    workers,
)
from daemon.cli.common import cell
from daemon.cli.starting import DAEMONS
from daemon.dotted import shipped_commands
from daemon.errors import ArqdError, ConfigurationError

__all__ = ["app", "main"]

#: systemd's units do not restart a daemon that ends with this status: a wrong configuration stays wrong.
EX_CONFIG = 78

app = typer.Typer(
    name="arqd",
    help="Background jobs on arq and Redis. Settings come from ARQD_ variables: see docs/settings.md.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _arqd(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"arqd {__version__}")
        raise typer.Exit


_LOOKING = (look, watch, flow, explain, workers)
_ACTING = (act, dead, bulk, limits, schedule, alerts, token, audit, keys, search, db)
for module in (daemons, outbox, enqueue, *_LOOKING, *_ACTING, check, new, install, healthcheck):
    module.register(app)
for name, group in shipped_commands().items():
    app.add_typer(group, name=name)


def _with_only(name: str) -> typer.Typer:
    """Give the application with one of its commands; with all where there is none of this name.

    Typer reads the signatures of all it is given, which takes longer than most commands.
    """
    commands = [each for each in app.registered_commands if _name(each) == name]
    groups = [each for each in app.registered_groups if each.name == name]
    if not commands and not groups:
        return app
    chosen = copy(app)
    chosen.registered_commands, chosen.registered_groups = commands, groups
    return chosen


def _name(command: typer.models.CommandInfo) -> str:
    return command.name or (command.callback.__name__.replace("_", "-") if command.callback else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; errors become one line on standard error.

    Returns:
        0 done, 1 refused or failed, 2 wrong usage, 78 a daemon's configuration is wrong, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = typer.main.get_command(_with_only(words[0] if words else ""))
        return command(words or ["--help"], prog_name="arqd", standalone_mode=False) or 0
    except typer.TyperException as error:
        if (told := error.format_message()).startswith("Usage:"):
            # A group of commands without one of them: its help, which is more than a line.
            print(told, file=sys.stderr)
            return error.exit_code
        told, status = " ".join(told.split()), error.exit_code
        if context := getattr(error, "ctx", None):
            told += f" (see {context.command_path} --help)"
    except ConfigurationError as error:
        told, status = str(error), EX_CONFIG if words[0] in DAEMONS else 1
    except ArqdError as error:
        told, status = str(error), 1
    except Exception as error:
        if os.environ.get("ARQD_LOG_LEVEL", "").lower() == "debug":
            raise
        told = f"{type(error).__name__}: {error} (ARQD_LOG_LEVEL=debug shows where)"
        status = 1
    print(f"arqd: {cell(told)}", file=sys.stderr)
    return status
