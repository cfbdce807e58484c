"""The push family: its function, limits and retry policy, and what it opens."""

from __future__ import annotations

from typing import Any

from daemon.family import Exponential, FamilySettings, RateLimit
from handlers.integrations.database import Database
from handlers.integrations.http import HttpClient
from handlers.integrations.users.store import Users
from handlers.push.onesignal import OneSignal
from handlers.push.tasks import PushService, send_push


async def open_push(ctx: dict[Any, Any]) -> None:
    """Open the database and a client for OneSignal, where it is set up.

    Raises:
        ConfigurationError: tables are missing, or a setting cannot be used.
        DatabaseUnavailable: the database cannot be reached.
    """
    settings = ctx["settings"]
    push = settings.push
    # The address is the operator's own.
    http = HttpClient.of(settings, guarded=False)
    onesignal = None
    if push.app_id is not None and push.api_key is not None:
        onesignal = OneSignal(http, push.url, push.app_id, push.api_key.get_secret_value())
    database = await Database.open(settings)
    ctx["push"] = PushService(database, http, Users(database), onesignal)


async def close_push(ctx: dict[Any, Any]) -> None:
    """Close what was opened."""
    if "push" in ctx:
        await ctx["push"].http.close()
        await ctx["push"].database.close()


class WorkerSettings(FamilySettings):
    """See docs/families/push.md."""

    family = "push"
    functions = (send_push,)
    max_jobs = 20
    rate_limit = RateLimit(30, per=1)
    max_tries = 3
    backoff = Exponential(base=2)
    job_timeout = 10
    priority = 2
    on_startup = open_push
    on_shutdown = close_push
