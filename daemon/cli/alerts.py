"""``arqd alerts``: what fires, silences, and a message to try the channels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.common import Json, audited, instant, print_json, print_table, redis_url, settings
from daemon.job import from_ms

if TYPE_CHECKING:
    from daemon.alerts.book import Alert, Book, Silence

alerts = typer.Typer(help="What is wrong, and silences.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(alerts, name="alerts")


@asynccontextmanager
async def _book() -> AsyncIterator[tuple[Book, object]]:
    from daemon.alerts.book import Book
    from daemon.connecting.connections import connect

    redis = connect(redis_url(settings()))
    try:
        yield Book(redis), redis
    finally:
        await redis.aclose()


@alerts.command("list")
def list_alerts(json: Json = False) -> None:
    """List what fires, the worst first, and silences."""
    firing, silences = asyncio.run(_list())
    if json:
        told = [_dated(alert, "since", "seen", "told") for alert in firing]
        print_json({"alerts": told, "silences": [_dated(silence, "starts", "ends") for silence in silences]})
        return
    now = time.time()
    print_table(
        ("severity", "alert", "of", "for s", "told", "silenced", "text"),
        [(a.severity, a.alert, a.subject, now - a.since, a.times, a.silenced, a.text) for a in firing],
    )
    if silences:
        print()
        print_table(
            ("silence", "alert", "of", "starts in s", "ends in s", "by", "reason"),
            [
                (s.id, s.alert or "*", s.subject or "*", max(0.0, s.starts - now), s.ends - now, s.by, s.reason)
                for s in silences
            ],
        )


def _dated(told: Alert | Silence, *names: str) -> dict[str, Any]:
    """Give its fields, those that are Unix seconds as times; 0 is none."""
    found = asdict(told)
    for name in names:
        found[name] = from_ms(round(found[name] * 1000)) if found[name] else None
    return found


async def _list() -> tuple[list[Alert], list[Silence]]:
    async with _book() as (book, _):
        return await book.firing(time.time()), await book.silences(time.time())


@alerts.command()
def silence(
    lasts: Annotated[str, typer.Argument(help="For so long: 30m, 2h; at most 90d.", metavar="DURATION")],
    alert: Annotated[str | None, typer.Option(help="Only this alert, e.g. no_worker; default all.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only of this family, objective, or redis.")] = None,
    starts: Annotated[str | None, typer.Option(help="From then on: 2030-01-31T08:00:00Z; default now.")] = None,
    reason: Annotated[str, typer.Option(help="Why, for others.")] = "",
    json: Json = False,
) -> None:
    """Tell nobody of something for a while; what still fires afterwards is told then."""
    from daemon.job import seconds

    begins = instant(starts, "--starts").timestamp() if starts else None
    made = asyncio.run(_silence(seconds(lasts), begins, alert, subject, reason))
    if json:
        print_json(_dated(made, "starts", "ends"))
    else:
        print(made.id)


async def _silence(
    length: float, starts: float | None, alert: str | None, subject: str | None, reason: str
) -> Silence:  # fmt: skip
    async with _book() as (book, redis):
        target = f"{alert or '*'}:{subject or '*'}"
        async with audited(redis, "alert.silence", target, seconds=length, reason=reason or None) as doing:
            made = await book.silence(
                time.time(), length, starts=starts, alert=alert, subject=subject, by=doing.actor.name, reason=reason
            )
            doing.detail["id"] = made.id
            return made


@alerts.command()
def unsilence(name: Annotated[str, typer.Argument(help="Its id, as list shows it.", metavar="ID")]) -> None:
    """End a silence."""
    asyncio.run(_unsilence(name))
    print(f"{name} ended")


async def _unsilence(name: str) -> None:
    async with _book() as (book, redis), audited(redis, "alert.unsilence", name):
        await book.unsilence(name)


@alerts.command()
def test() -> None:
    """Send a message to every channel that is set up; the status is 1 when one does not take it."""
    failed = asyncio.run(_test())
    if failed:
        raise typer.Exit(1)


async def _test() -> bool:
    """Say of each channel how it went; gives whether one failed."""
    from daemon.alerts.channels import Message, NotTold, open_channels
    from daemon.alerts.rules import Severity

    channels = open_channels(settings().alerts.channels)
    text = "a message to try this channel: nothing is wrong"
    message = Message("firing", Severity.WARNING, "test", "arqd", "arqd test: arqd", text)
    failed = False
    for name, channel in channels.items():
        try:
            await channel.send(message)
        except NotTold as error:
            failed = True
            print(f"FAIL  {name}  {error}")
        else:
            print(f"OK    {name}")
    if not channels:
        print("no channel is set up: alerts stand in the log alone")
    return failed
