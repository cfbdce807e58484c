"""Commands that stay: ``up``, ``run``, ``scheduler``, ``probe``, ``console``; and ``bench``."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from daemon.cli.common import redis_url, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from daemon.family import Family, FamilyValues
    from daemon.scheduling.scheduler import Scheduler
    from daemon.settings import Settings


#: Share of its slots that a replica is to use, where autoscaling is not told otherwise.
SCALER_SHARE = 0.8


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
    recycle_jobs: Annotated[
        int | None, typer.Option(min=1, help="Drain and replace a worker process after so many jobs.")
    ] = None,
    recycle_memory: Annotated[
        str | None, typer.Option(help="Drain and replace a worker process that takes so much memory, e.g. 500MB.")
    ] = None,
    accept_pickle: Annotated[
        bool, typer.Option("--accept-pickle", help="Let a plain arq settings class use pickle.")
    ] = False,
) -> None:
    """Run the worker daemon.

    SIGTERM and Ctrl-C drain it, a second one ends it at once.
    """
    if names == ["all"]:
        # What an instance of the systemd unit may be called.
        names, all = None, True
    if bool(names) == all:
        raise typer.BadParameter("name families, or give --all", param_hint="FAMILY")
    if processes == 1 and (recycle_jobs or recycle_memory):
        raise typer.BadParameter("needs --processes 2 or more", param_hint="--recycle-jobs, --recycle-memory")
    again = [*(names or ["--all"]), *["--burst"] * burst, *["--accept-pickle"] * accept_pickle]
    if watch:
        again += [f"--processes={processes}"] * (processes > 1)
        again += [f"--recycle-jobs={recycle_jobs}"] * bool(recycle_jobs)
        again += [f"--recycle-memory={recycle_memory}"] * bool(recycle_memory)
        raise typer.Exit(_run_watched(["run", *again]))

    def load() -> tuple[Settings, list[Family]]:
        config = settings(_adopted(names or []))
        if processes == 1:
            _log(config, "json")
        return config, _families(config, names, accept_pickle=accept_pickle)

    # Before any process is started: a wrong configuration is told once.
    config, families = load()
    if processes > 1:
        memory = _size(recycle_memory) if recycle_memory else None
        raise typer.Exit(_run_processes(config, ["run", *again], processes, (recycle_jobs, memory), burst=burst))
    _run_workers(config, families, lambda: load()[1], burst=burst)


def _run_watched(arguments: list[str]) -> int:
    from daemon.cli.processes import run_watched

    return asyncio.run(run_watched(arguments, Path.cwd()))


def _run_processes(
    config: Settings, arguments: list[str], count: int, recycled: tuple[int | None, int | None], *, burst: bool
) -> int:
    """Run a command in several processes; ``recycled`` is after how many jobs, at how many bytes."""
    from daemon.cli.processes import Processes, Recycling
    from daemon.process.notify import Notifier

    async def keep() -> int:
        recycling, notifier = Recycling(*recycled), Notifier(os.environ)
        group = Processes(arguments, count, _heartbeat(config), burst=burst, recycling=recycling, notifier=notifier)
        return await group.run()

    return asyncio.run(keep())


def _run_workers(config: Settings, families: list[Family], load: Callable[[], list[Family]], *, burst: bool) -> None:
    """Run the workers of some families in this process; ``load`` gives them anew, by settings that have changed."""
    import uvloop

    from daemon.process.ending import ending
    from daemon.process.notify import Notifier
    from daemon.process.service import Service
    from daemon.supervisor import Supervisor

    def reload() -> dict[str, FamilyValues]:
        return {family.name: family.values for family in load()}

    async def work() -> None:
        from daemon.alerts.watch import watching
        from daemon.telemetry import telemetry

        url = redis_url(config)
        supervisor = Supervisor(
            families,
            url,
            burst=burst,
            heartbeat=_heartbeat(config),
            templates=config.templates,
            keyring=config.keyring(),
            beside=[Service(Notifier(os.environ), reload).run],
        )
        with ending(supervisor), telemetry(config):
            async with watching(url, config, supervisor.scheduler):
                await supervisor.run()

    uvloop.run(work())


def scheduler() -> None:
    """Make the ticks of schedules, and the jobs of flows, where no worker runs.

    Workers do it as well; of all these processes one acts. Jobs of the outbox are moved, too.
    """
    import uvloop

    from daemon.process.heartbeat import Heartbeat, scheduler_file
    from daemon.process.notify import Notifier
    from daemon.scheduling.scheduler import Scheduler

    config, notifier = settings(), Notifier(os.environ)
    _log(config, "json")

    async def lead() -> None:
        leader = Scheduler(redis_url(config))
        beat = Heartbeat(scheduler_file(_heartbeat(config)), leader.snapshot, beats=lambda: leader.turns)
        task = asyncio.ensure_future(_lead(config, leader, beat.run()))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        notifier.ready("leads, or waits to")
        with notifier.keeping_alive(lambda: leader.turns):
            await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    uvloop.run(lead())


async def _lead(config: Settings, leader: Scheduler, *beside: Coroutine[Any, Any, None]) -> None:
    from daemon.alerts.watch import watching
    from daemon.connecting.connections import connect
    from daemon.flows.courier import SWEEP_SECONDS, Courier

    url = redis_url(config)
    redis = connect(url)
    leader.every(SWEEP_SECONDS, partial(Courier(redis).sweep_all, leader.noted))
    work = [leader.run(), *beside]
    if config.has_database:
        from daemon.outbox.relay import relay_outbox

        work.append(relay_outbox(config, url))
        if config.archive.every is not None:
            from daemon.archive.archiver import keep_archive

            work.append(keep_archive(config, url))
    try:
        async with watching(url, config, leader):
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
    from daemon.process.notify import Notifier
    from daemon.scheduling.scheduler import Scheduler
    from daemon.telemetry import telemetry

    url, notifier = redis_url(config), Notifier(os.environ)
    families = _families(config)

    def tell(home: str, *_: str) -> None:
        logging.getLogger("arqd.console").info("it is at %s", home)
        notifier.ready(f"answers at {home}")

    with notifier.keeping_alive(), telemetry(config):
        await _until_one_ends(run_console(url, config, families, on_listening=tell), _lead(config, Scheduler(url)))


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
    from daemon.process.notify import Notifier
    from daemon.process.serving import serve

    names, notifier = list(config.families), Notifier(os.environ)

    def tell(url: str) -> None:
        logging.getLogger("arqd.probe").info("the probe listens on %s", url)
        notifier.ready(f"answers at {url}")

    async with Inspector.connect(redis_url(config), names) as inspector:
        watched = partial(config.probe.files, _heartbeat(config))
        app = create_app(inspector, families=names, heartbeats=watched, limits=config.probe.limits())
        work = [serve(app, name="the probe", host=config.probe.host, port=config.probe.port, on_listening=tell)]
        if config.probe.scaler_port is not None:
            from daemon.probe.scaler import ExternalScaler

            targets = {family.name: SCALER_SHARE * family.values.max_jobs for family in _families(config)}
            work.append(ExternalScaler(inspector, targets).serve(config.probe.host, config.probe.scaler_port))
        if config.probe.pod_name is not None:
            from daemon.probe.deletion_cost import Pod, keep_cost

            pod = Pod("https://kubernetes.default.svc", config.probe.pod_namespace, config.probe.pod_name)
            work.append(keep_cost(pod, watched))
        with notifier.keeping_alive():
            await _until_one_ends(*work)


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


def _size(text: str) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        raise typer.BadParameter("write a size, e.g. 500MB", param_hint="--recycle-memory") from None


def _heartbeat(config: Settings) -> Path:
    from daemon.process.heartbeat import default_path

    return config.heartbeat_file or default_path(os.environ)


def _log(config: Settings, usual: Literal["json", "text"]) -> None:
    from daemon.logs import configure_logging

    configure_logging(config.log_level, config.log_format or usual)
