"""The notifications family: its function, limits and retry policy, and what it opens."""

from __future__ import annotations

from typing import Any

from daemon.family import Exponential, FamilySettings
from handlers.integrations.database import Database
from handlers.integrations.users.inbox import Inbox
from handlers.integrations.users.store import Users
from handlers.notifications.tasks import NotificationService, notify_user


async def open_notifications(ctx: dict[Any, Any]) -> None:
    """Open the database.

    Raises:
        ConfigurationError: tables are missing.
        DatabaseUnavailable: the database cannot be reached.
    """
    settings = ctx["settings"]
    database = await Database.open(settings)
    ctx["notifications"] = NotificationService(settings.notifications, database, Users(database), Inbox(database))


async def close_notifications(ctx: dict[Any, Any]) -> None:
    """Close what was opened."""
    if "notifications" in ctx:
        await ctx["notifications"].database.close()


class WorkerSettings(FamilySettings):
    """See docs/families/notifications.md."""

    family = "notifications"
    functions = (notify_user,)
    max_jobs = 5
    max_tries = 3
    backoff = Exponential(base=2)
    job_timeout = 30
    priority = 3
    on_startup = open_notifications
    on_shutdown = close_notifications
