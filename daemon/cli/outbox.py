"""``arqd outbox``: move the jobs of the outbox to Redis, or look at them."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.common import Json, print_json, print_table, redis_url, settings

if TYPE_CHECKING:
    from daemon.outbox.relay import Waiting
    from daemon.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(outbox)


def outbox(
    burst: Annotated[bool, typer.Option("--burst", help="End when no job can be moved.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Show what waits, and move nothing.")] = False,
    json: Json = False,
) -> None:
    """Move the jobs of the outbox to Redis.

    arqd up, scheduler and console do it as well; any number may.
    """
    import uvloop

    from daemon.logs import configure_logging

    config = settings()
    if show:
        found = asyncio.run(_waiting(config))
        if json:
            print_json([each._asdict() for each in found])
        else:
            header = ("family", "jobs", "oldest", "refused", "because")
            print_table(header, [(each.family, each.jobs, each.oldest, each.refused, each.error) for each in found])
        return
    configure_logging(config.log_level, config.log_format or "json")
    uvloop.run(_move(config, burst))


async def _waiting(config: Settings) -> list[Waiting]:
    from daemon.dotted import database_of
    from daemon.outbox.relay import Relay

    database: Any = database_of(config)
    try:
        await database.check()
        return await Relay(database.engine, None).waiting()
    finally:
        await database.close()


async def _move(config: Settings, burst: bool) -> None:
    from daemon.outbox.relay import relay_outbox

    task = asyncio.ensure_future(relay_outbox(config, redis_url(config), patient=False, burst=burst))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()
