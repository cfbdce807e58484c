"""``arqd up``: everything on one machine: embedded Valkey, the worker of all families, the probe, the console."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import uvloop

from daemon import __version__
from daemon.alerts.watch import watching
from daemon.connecting.connections import safe_url
from daemon.demo import demonstrate, refuse_real_mail
from daemon.dotted import database_of
from daemon.embedded import EmbeddedServer
from daemon.errors import ArqdError
from daemon.family import Family
from daemon.inspector import Inspector
from daemon.probe.app import create_app
from daemon.process.ending import ending
from daemon.process.serving import serve
from daemon.servers import RedisUrl
from daemon.settings import Settings
from daemon.supervisor import Supervisor
from daemon.telemetry import telemetry
from daemon.typed import typed

logger = logging.getLogger("arqd.up")

WATCH_SECONDS = 1.0


def up(settings: Settings, families: Sequence[Family], *, demo: bool = False) -> None:
    """Run everything until a signal has drained it; an embedded Valkey ends last.

    Args:
        families: what the worker runs.
        demo: hand demonstration mails over and show their way.

    Raises:
        ConfigurationError: when the data folder or a port is taken, or the demonstration would send mail.
        ArqdError: when a part of it has ended by itself.
    """
    if demo:
        refuse_real_mail(settings)
    if find_spec("sqlalchemy"):
        asyncio.run(_upgrade(settings))
    # Until the worker handles signals itself: none may leave Valkey behind, a closed terminal's included.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    with ExitStack() as stack:
        server = None
        if settings.redis_url is None:
            server = stack.enter_context(EmbeddedServer(settings.var_dir / "valkey"))
        uvloop.run(_up(settings, families, server, demo))


async def _upgrade(settings: Settings) -> None:
    database = database_of(settings)
    try:
        await database.upgrade()
    finally:
        await database.close()


async def _up(settings: Settings, families: Sequence[Family], server: EmbeddedServer | None, demo: bool) -> None:
    with telemetry(settings):
        await _run(settings, families, server, demo)


async def _run(settings: Settings, families: Sequence[Family], server: EmbeddedServer | None, demo: bool) -> None:
    url = settings.servers(
        settings.redis_url.get_secret_value() if settings.redis_url else server.url if server else ""
    )
    heartbeat = settings.heartbeat_file or settings.var_dir / "heartbeat.json"
    supervisor = Supervisor(
        families, url, heartbeat=heartbeat, templates=settings.templates, keyring=settings.keyring()
    )
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, supervisor.drain)
    worker = asyncio.create_task(_work(supervisor, settings, url))
    probe: asyncio.Future[str] = loop.create_future()
    console: asyncio.Future[tuple[str, str, str]] = loop.create_future()
    side = [
        asyncio.create_task(_probe(settings, url, families, heartbeat, probe.set_result)),
        asyncio.create_task(_console(settings, url, families, console)),
    ]
    if find_spec("sqlalchemy"):
        from daemon.outbox.relay import relay_outbox

        side.append(asyncio.create_task(relay_outbox(settings, url)))
        if settings.archive.every is not None:
            from daemon.archive.archiver import keep_archive

            side.append(asyncio.create_task(keep_archive(settings, url)))
    if server:
        side.append(asyncio.create_task(_watch(server)))
    shown = asyncio.create_task(_show((probe, console), settings, url, server, families, demo))
    with ending(supervisor, server.stop if server else lambda: None):
        try:
            done, _ = await asyncio.wait({worker, *side}, return_when=asyncio.FIRST_COMPLETED)
            if worker not in done:
                supervisor.drain()
                if server and server.pid is None:
                    # Nothing can be recorded any more: there is nothing to wait for.
                    supervisor.drain()
                await asyncio.wait({worker})
            # What ended first is the cause: it is told before what the worker said to it.
            for task in (*done - {worker}, worker):
                task.result()
        finally:
            for task in (*side, shown):
                task.cancel()
            await asyncio.gather(*side, shown, return_exceptions=True)


async def _work(supervisor: Supervisor, settings: Settings, url: RedisUrl) -> None:
    async with watching(url, settings, supervisor.scheduler):
        await supervisor.run()


async def _probe(
    settings: Settings, url: RedisUrl, families: Sequence[Family], heartbeat: Path, on_listening: Callable[[str], None]
) -> None:
    names = [family.name for family in families]
    async with Inspector.connect(url, names) as inspector:
        app = create_app(inspector, families=names, heartbeats=[heartbeat], limits=settings.probe.limits())
        host, port = settings.probe.host, settings.probe.port
        await serve(app, name="the probe", host=host, port=port, handle_signals=False, on_listening=on_listening)


async def _console(
    settings: Settings, url: RedisUrl, families: Sequence[Family], told: asyncio.Future[tuple[str, str, str]]
) -> None:
    if missing := settings.console.missing():
        told.set_result((missing, "", ""))
        await asyncio.Event().wait()
    from daemon.console.server import run_console

    await run_console(
        url, settings, families, handle_signals=False, login_link=True, on_listening=lambda *at: told.set_result(at)
    )


async def _watch(server: EmbeddedServer) -> None:
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        if server.pid is None:
            raise ArqdError(f"the embedded Valkey has ended by itself: {server.data_dir / 'valkey.log'} says why")


async def _show(
    addresses: tuple[asyncio.Future[str], asyncio.Future[tuple[str, str, str]]],
    settings: Settings,
    url: RedisUrl,
    server: EmbeddedServer | None,
    families: Sequence[Family],
    demo: bool,
) -> None:
    """Say where everything is, then show the demonstration."""
    probe, (console, link, token) = await addresses[0], await addresses[1]
    arqd = typed()
    where = f"embedded Valkey; the URL with its password is in {server.data_dir / 'url'}" if server else "as set"
    print(f"arqd {__version__}")
    print(f"  Redis     {safe_url(url)}  ({where})")
    print(f"  probe     {probe}  (/livez /readyz /startupz /metrics /backlog)")
    print(f"  console   {console}")
    if link:
        print(f"  log in    {link}  (works once, within the hour)")
    if token:
        print(f"  token     {token}  (for the API, for 30 days, told this once; {arqd} token add makes others)")
    print(f"  families  {', '.join(family.name for family in families)}")
    if server:
        print(f"  Other commands find this Redis when typed in the same folder: {arqd} queues, {arqd} enqueue ...")
    print("  Ctrl-C drains: running jobs end, the rest waits for the next start.", flush=True)
    if demo:
        try:
            await demonstrate(url, settings)
        except Exception:
            logger.exception("the demonstration has ended")
