"""``arqd notifications``: what users were told, how they are reached, and what they want."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.common import Json, Limit, print_json, print_table, settings

if TYPE_CHECKING:
    from handlers.integrations.database import Database

app = typer.Typer(
    help="Users: what they were told, and how they are reached.", no_args_is_help=True, rich_markup_mode=None
)
User = Annotated[str, typer.Argument(help="Id of the user.")]


@app.command("list")
def list_(
    user: User,
    unread: Annotated[bool, typer.Option("--unread", help="Only those that are not read.")] = False,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """Show what a user was told, the newest first."""
    from handlers.integrations.users.inbox import Inbox

    found = _with(lambda database: Inbox(database).notifications(user, unread=unread, limit=limit))
    if json:
        print_json([asdict(each) for each in found])
        return
    rows = [
        (each.created_at.isoformat(timespec="seconds"), each.type, each.title, "read" if each.read_at else "unread")
        for each in found
    ]
    print_table(("at", "type", "title", ""), rows)


@app.command()
def read(
    user: User,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of notifications; none: all of them.")] = None,
) -> None:
    """Note that a user has read notifications."""
    from handlers.integrations.users.inbox import Inbox

    def mark(database: Database) -> Awaitable[int]:
        inbox = Inbox(database)
        return inbox.mark_read(user, ids) if ids else inbox.mark_all_read(user)

    print(f"{_with(mark)} were unread")


@app.command()
def show(user: User) -> None:
    """Show how a user is reached and what they want, as JSON."""
    from handlers.integrations.users.store import Users

    async def look(database: Database) -> dict[str, Any]:
        users = Users(database)
        wanted = {
            channel: {
                "enabled": preference.enabled,
                "muted": sorted(preference.muted),
                "quiet": str(preference.quiet) if preference.quiet else None,
            }
            for channel, preference in (await users.preferences(user)).items()
        }
        devices = [asdict(device) for device in await users.devices(user)]
        return {**asdict(await users.find(user)), "preferences": wanted, "devices": devices}

    print_json(_with(look))


@app.command("set")
def set_(
    user: User,
    email: Annotated[str | None, typer.Option(help='Where mail goes; "": nowhere.')] = None,
    name: Annotated[str | None, typer.Option(help="How mails address them.")] = None,
    lang: Annotated[str | None, typer.Option(help="Language of mails: en, fr …")] = None,
    timezone: Annotated[str | None, typer.Option(help="Zone of quiet hours: Europe/Paris …")] = None,
) -> None:
    """Save a user; what is not given stays as it is."""
    from handlers.integrations.users.store import Users

    _with(lambda database: Users(database).save(user, email=email, name=name, lang=lang, timezone=timezone))
    print(f"{user} is saved")


@app.command()
def prefer(
    user: User,
    channel: Annotated[str, typer.Argument(help="push or email.")],
    enabled: Annotated[bool, typer.Option("--on/--off", help="Whether anything is sent by it.")] = True,
    mute: Annotated[list[str] | None, typer.Option(help="A type that is not sent; may be repeated.")] = None,
    quiet: Annotated[str | None, typer.Option(help="Hours without, by the user's clock: 22:00-07:00.")] = None,
) -> None:
    """Save what a user wants of a channel, in place of what was saved before."""
    from handlers.integrations.users.preferences import Preference, QuietHours
    from handlers.integrations.users.store import Users

    wanted = Preference(enabled, frozenset(mute or ()), QuietHours.parse(quiet) if quiet else None)
    _with(lambda database: Users(database).prefer(user, channel, wanted))  # type: ignore[arg-type]
    print(f"what {user} wants of {channel} is saved")


@app.command()
def device(
    user: User,
    device_id: Annotated[str, typer.Argument(help="OneSignal's subscription id.")],
    remove: Annotated[bool, typer.Option("--remove", help="Forget it.")] = False,
) -> None:
    """Add a device that pushes go to, or remove one."""
    from daemon.errors import ArqdError
    from handlers.integrations.users.store import Users

    if not remove:
        _with(lambda database: Users(database).add_device(user, device_id))
    elif not _with(lambda database: Users(database).remove_device(user, device_id)):
        raise ArqdError(f"{user} has no such device: arqd notifications show {user}")
    print(f"the device is {'removed' if remove else 'added'}")


@app.command()
def forget(user: User) -> None:
    """Remove all that is known of a user, what they were told included."""
    from handlers.integrations.users.store import Users

    _with(lambda database: Users(database).forget(user))
    print(f"{user} is forgotten")


def _with(call: Callable[[Database], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        from handlers.integrations.database import Database

        database = await Database.open(settings())
        try:
            return await call(database)
        finally:
            await database.close()

    return asyncio.run(run())
