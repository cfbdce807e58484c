"""``arqd enqueue``: hand a job over from the shell, and wait for it if asked to."""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from daemon.cli.common import audited, cell, instant, print_json, redis_url, settings

if TYPE_CHECKING:
    from daemon.catalog import Catalog
    from daemon.family import JobFunction
    from daemon.producing.handle import JobHandle
    from daemon.producing.options import JobOptions
    from daemon.settings import Settings

#: How often the progress shown by ``--wait`` is asked for; the end itself is told at once.
REFRESH = 0.2


class DedupMode(StrEnum):
    """What a repeat does to the job that has its dedup key."""

    DROP = "drop"
    REPLACE = "replace"
    DEBOUNCE = "debounce"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(enqueue)


def enqueue(
    function: Annotated[str, typer.Argument(help="Name of the function.")],
    json: Annotated[str, typer.Option(help="The payload as JSON; @FILE reads a file, - standard input.")] = "",
    family: Annotated[str | None, typer.Option(help="Its family, where no registered family knows it.")] = None,
    priority: Annotated[str | None, typer.Option(help="1 (first) to 10 (last), or a name such as high.")] = None,
    delay: Annotated[str | None, typer.Option(help="Run it so much later: 30, 30s, 15m, 2d.")] = None,
    at: Annotated[str | None, typer.Option(help="Run it at this time, e.g. 2030-01-31T08:00:00Z.")] = None,
    job_id: Annotated[str | None, typer.Option(help="An id of your own; a job that has it already is kept.")] = None,
    group: Annotated[str | None, typer.Option(help="A tenant or workspace: groups take turns.")] = None,
    dedup_key: Annotated[str | None, typer.Option(help="While a job has this key, none is added.")] = None,
    dedup_window: Annotated[str | None, typer.Option(help="It has the key so long; default while it lives.")] = None,
    dedup_mode: Annotated[DedupMode | None, typer.Option(help="What a repeat does to a waiting job.")] = None,
    depends_on: Annotated[list[str] | None, typer.Option(help="A job that must complete first; repeatable.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="How long it is kept: completed=2h, failed=90d; or how many: failed=100.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="A preset of options from ARQD_TEMPLATES.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show its progress, then print its result.")] = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="Decrypt that result, if it is encrypted.")] = False,
) -> None:
    """Hand a job over and print its id."""
    given = {
        "priority": priority,
        "delay": delay,
        "run_at": None if at is None else instant(at, "--at"),
        "job_id": job_id,
        "group": group,
        "dedup_key": dedup_key,
        "dedup_window": dedup_window,
        "dedup_mode": None if dedup_mode is None else dedup_mode.value,
        "depends_on": depends_on or None,
        "keep": read_keep(keep),
        "template": template,
    }
    options = cast("JobOptions", {name: value for name, value in given.items() if value is not None})
    config = settings()
    payload = read_payload(json)
    catalog, name, known = find_function(config, function, family)
    job = catalog.checked(name, known, payload)
    asyncio.run(_enqueue(config, name, function, job, options, (wait, reveal)))


def read_keep(words: list[str] | None) -> dict[str, str] | None:
    """Read ``completed=2h``, ``failed=100`` ...; None where nothing is given."""
    pairs = [word.partition("=") for word in words or ()]
    if any(not equals for _, equals, _ in pairs):
        raise typer.BadParameter("write completed=2h, failed=90d or both", param_hint="--keep")
    return {state: value for state, _, value in pairs} or None


def read_payload(text: str) -> Any:
    """Read the JSON of ``--json``; None when it is not given."""
    from pydantic_core import from_json

    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text("utf-8")
        payload = from_json(text) if text else None
    except OSError as error:
        raise typer.BadParameter(f"{error.filename} cannot be read: {error.strerror}", param_hint="--json") from None
    except ValueError as error:
        raise typer.BadParameter(f"this is not JSON: {error}", param_hint="--json") from None
    if not isinstance(payload, dict | list | None):
        raise typer.BadParameter("give an object of the payload's fields, or a list of arguments", param_hint="--json")
    return payload


def find_function(config: Settings, function: str, family: str | None) -> tuple[Catalog, str, JobFunction | None]:
    """Give the registered functions, the family of one, and the function itself when it is registered here.

    Raises:
        InvalidJob: when no family has it, or several do.
    """
    from daemon.catalog import Catalog
    from daemon.registry import installed_families, load_families

    names = installed_families(config.families) if family is None else [family] if family in config.families else []
    catalog = Catalog(load_families(config.families, names, config.overrides()))
    return catalog, *catalog.find(function, family)


async def _enqueue(
    config: Settings, family: str, function: str, payload: Any, options: JobOptions, wait: tuple[bool, bool]
) -> None:
    from daemon.payload import Payload
    from daemon.producer import Producer

    async with Producer.connect(redis_url(config), templates=config.templates, keyring=config.keyring()) as producer:
        if isinstance(payload, Payload):
            job = await producer.enqueue(payload, family=family, **options)
        else:
            job = await producer.enqueue(function, payload, family=family, **options)
        print(job.id, flush=True)
        if not job.created:
            became = "it has the new payload now" if job.replaced else "nothing was enqueued"
            print(f"arqd: a job {job.id} exists already: {became}", file=sys.stderr)
        if wait[0]:
            if wait[1]:
                # Beforehand: of a job that fails the error is revealed, and has no place in the log.
                async with audited(producer.redis, "job.reveal", job.id):
                    pass
            await _follow(job, wait[1])


async def _follow(job: JobHandle, reveal: bool) -> None:
    """Show a job's progress until it has ended, then print its result.

    Raises:
        ArqdError: when it became a dead letter or was aborted.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from daemon.errors import ArqdError, JobFailed, JobNotFound

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    ended = asyncio.ensure_future(job.result(reveal=reveal))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        shown = bar.add_task("", total=100)
        while True:
            done, _ = await asyncio.wait({ended}, timeout=REFRESH)
            try:
                info = await job.info()
            except JobNotFound:
                break
            description = f"{info.state}" + (f", {cell(info.note)}" if info.note else "")
            bar.update(shown, completed=info.progress or 0, description=description.replace("[", "\\["))
            if done:
                break
    try:
        print_json(await ended)
    except JobFailed as error:
        raise ArqdError(f"{job.id} failed: {error}") from None
    except asyncio.CancelledError:
        raise ArqdError(f"{job.id} was aborted") from None
