"""``arqd healthcheck``: whether the daemon of this container is well, for the image's HEALTHCHECK."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from daemon.cli.common import settings

if TYPE_CHECKING:
    from daemon.settings import Settings

TIMEOUT = 3.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(hidden=True)(healthcheck)


def healthcheck(pid: int = 1) -> None:
    """Tell by its status whether the daemon of this container is alive; what it is stands in its command line."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    config = settings()
    problem = ""
    if "run" in words:
        problem = _heartbeats(config)
    elif "scheduler" in words:
        problem = _scheduler(config)
    elif "probe" in words:
        problem = _answers(f"http://127.0.0.1:{config.probe.port}/livez", set())
    elif "console" in words:
        # That Redis is away is none of its own problems.
        problem = _answers(
            f"http://127.0.0.1:{config.console.port}{config.console.base_path}/api/v1/health", {401, 503}
        )
    if problem:
        typer.echo(problem)
        raise typer.Exit(1)


def _heartbeats(config: Settings) -> str:
    """Say what is wrong with the heartbeat files of the worker's processes."""
    from daemon.probe import health
    from daemon.process.heartbeat import default_path

    files = config.probe.files(config.heartbeat_file or default_path(os.environ))
    readings = health.read_workers(files, time.time(), config.probe.limits())
    return "; ".join(reading.problem for reading in readings if reading.problem)


def _scheduler(config: Settings) -> str:
    """Say what is wrong with the file of a scheduler."""
    from daemon.probe import health
    from daemon.process.heartbeat import default_path, scheduler_file
    from daemon.scheduling.scheduler import STILL_SECONDS

    file = scheduler_file(config.heartbeat_file or default_path(os.environ))
    [reading] = health.read_workers([file], time.time(), health.Limits(heartbeat=STILL_SECONDS))
    return reading.problem or ""


def _answers(url: str, accepted: set[int]) -> str:
    """Say what is wrong with a server that should answer well, or with one of these statuses."""
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(url, timeout=TIMEOUT).close()  # noqa: S310 - http, of our own
    except urllib.error.HTTPError as error:
        return "" if error.code in accepted else f"{url}: {error}"
    except OSError as error:
        return f"{url}: {error}"
    return ""
