"""Commands that stay: ``up``, ``run``, ``scheduler``, ``probe``, ``console``; and ``bench``."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from daemon.cli.common import redis_url, settings

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from daemon.family import Family
    from daemon.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(run)
    app.command()(scheduler)
    app.command()(probe)
    app.command()(console)
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(context_settings=passed_on, add_help_option=False)(bench)


def up(
    demo: Annotated[bool, typer.Option("--demo", help="Send a few demonstration mails and show their way.")] = False,
) -> None:
    """Run everything on this machine.

    An embedded Valkey unless ARQD_REDIS_URL is set, all families, the probe, the console. Ctrl-C drains.
    """
    from daemon.up import up as start

    config = settings()
    _log(config, "text")
    start(config, _families(config), demo=demo)


def run(
    names: Annotated[list[str] | None, typer.Argument(help="Families, or module:Class.", metavar="[FAMILY]...")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every family.")] = False,
    burst: Annotated[bool, typer.Option("--burst", help="End when no job is left.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Start anew when Python files here change.")] = False,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Run so many worker processes.")] = 1,
    accept_pickle: Annotated[
        bool, typer.Option("--accept-pickle", help="Let a plain arq settings class use pickle.")
    ] = False,
) -> None:
    """Run the worker daemon.

    SIGTERM and Ctrl-C drain it, a second one ends it at once.
    """
    if bool(names) == all:
        raise typer.BadParameter("name families, or give --all", param_hint="FAMILY")
    again = [*(names or ["--all"]), *["--burst"] * burst, *["--accept-pickle"] * accept_pickle]
    if watch:
        from daemon.cli.processes import run_watched

        again += [f"--processes={processes}"] * (processes > 1)
        raise typer.Exit(asyncio.run(run_watched(["run", *again], Path.cwd())))
    config = settings(_adopted(names or []))
    heartbeat = _heartbeat(config)
    # Before any process is started: a wrong configuration is told once.
    families = _families(config, names, accept_pickle=accept_pickle)
    if processes > 1:
        from daemon.cli.processes import run_processes

        raise typer.Exit(asyncio.run(run_processes(["run", *again], processes, heartbeat)))
    import uvloop

    from daemon.supervisor import REPLACE_STATUS, Supervisor, end_process

    _log(config, "json")

    async def work() -> None:
        supervisor = Supervisor(
            families,
            redis_url(config),
            burst=burst,
            heartbeat=heartbeat,
            templates=config.templates,
            keyring=config.keyring(),
        )
        await supervisor.run()
        if supervisor.left_behind:
            end_process(REPLACE_STATUS if supervisor.replaced else 0)

    uvloop.run(work())


def scheduler() -> None:
    """Make the ticks of schedules, and the jobs of flows, where no worker runs.

    Workers do it as well; of all these processes one acts. Jobs of the outbox are moved, too.
    """
    import uvloop

    config = settings()
    _log(config, "json")

    async def lead() -> None:
        task = asyncio.ensure_future(_lead(config))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    uvloop.run(lead())


async def _lead(config: Settings) -> None:
    from daemon.connections import connect
    from daemon.courier import SWEEP_SECONDS, Courier
    from daemon.scheduler import Scheduler

    url = redis_url(config)
    redis, leader = connect(url), Scheduler(url)
    leader.every(SWEEP_SECONDS, Courier(redis).sweep_all)
    work = [leader.run()]
    if config.has_database:
        from daemon.relay import relay_outbox

        work.append(relay_outbox(config, url))
    try:
        await _until_one_ends(*work)
    finally:
        await redis.aclose()


async def _until_one_ends(*work: Coroutine[Any, Any, None]) -> None:
    """Do several things until one of them ends, whose error is raised, or until this is cancelled."""
    tasks = {asyncio.create_task(each) for each in work}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def console() -> None:
    """Run the management API and the dashboard.

    arqd token add makes a token to log in with. Beside it runs what `arqd scheduler` does.
    """
    import uvloop

    from daemon.errors import ConfigurationError

    config = settings()
    if missing := config.console.missing():
        raise ConfigurationError(f"the console is {missing}")
    _log(config, "json")
    uvloop.run(_console(config))


async def _console(config: Settings) -> None:
    from daemon.console.server import run_console

    url, logger = redis_url(config), logging.getLogger("arqd.console")
    families = _families(config)
    serving = run_console(url, config, families, on_listening=lambda home, _: logger.info("it is at %s", home))
    await _until_one_ends(serving, _lead(config))


def probe() -> None:
    """Run the health probe beside a worker.

    It serves /livez, /readyz, /startupz, /metrics and /backlog.
    """
    config = settings()
    _log(config, "json")
    asyncio.run(_probe(config))


async def _probe(config: Settings) -> None:
    from daemon.inspector import Inspector
    from daemon.probe.app import create_app
    from daemon.serving import serve

    logger = logging.getLogger("arqd.probe")
    names = list(config.families)
    async with Inspector.connect(redis_url(config), names) as inspector:
        heartbeats = config.probe.heartbeats(_heartbeat(config))
        app = create_app(inspector, families=names, heartbeats=heartbeats, limits=config.probe.limits())
        await serve(
            app,
            name="the probe",
            host=config.probe.host,
            port=config.probe.port,
            on_listening=lambda url: logger.info("the probe listens on %s", url),
        )


def bench(context: typer.Context) -> None:
    """Compare the speed of arqd and other systems.

    --help lists its options.
    """
    try:
        from benchmarks import main
    except ImportError:
        from daemon.errors import ArqdError

        raise ArqdError("the benchmark is not part of the installed package: run it in a clone") from None
    raise typer.Exit(main(context.args))


def _adopted(names: Sequence[str]) -> dict[str, str]:
    """Give the families among ``module:Class`` arguments, so that ARQD_FAMILY__<NAME>__… can set their values."""
    from daemon.dotted import resolve

    found: dict[str, str] = {}
    for name in names:
        if ":" in name:
            family = getattr(resolve(name), "family", None)
            if isinstance(family, str):
                found[family] = name
    return found


def _families(config: Settings, names: Sequence[str] | None = None, *, accept_pickle: bool = False) -> list[Family]:
    """Load families, all that can be where none is named, and hand them the settings, for their handlers."""
    from daemon.registry import installed_families, load_families

    names = names or installed_families(config.families)
    families = load_families(config.families, names, config.overrides(), accept_pickle=accept_pickle)
    for family in families:
        family.ctx.setdefault("settings", config)
    return families


def _heartbeat(config: Settings) -> Path:
    from daemon.heartbeat import default_path

    return config.heartbeat_file or default_path(os.environ)


def _log(config: Settings, usual: Literal["json", "text"]) -> None:
    from daemon.logs import configure_logging

    configure_logging(config.log_level, config.log_format or usual)
