"""The analytics family: its functions, limits and schedules, and what it opens."""

from __future__ import annotations

from typing import Any

from daemon.family import Exponential, FamilySettings, crontab
from handlers.analytics.payloads import Aggregate
from handlers.analytics.rollups import Rollups
from handlers.analytics.tasks import AnalyticsService, aggregate, collect_metrics, track_events
from handlers.integrations.database import Database
from handlers.integrations.http import HttpClient


async def open_analytics(ctx: dict[Any, Any]) -> None:
    """Open the database and the connections.

    Raises:
        ConfigurationError: tables are missing. DatabaseUnavailable: the database cannot be reached.
    """
    settings = ctx["settings"]
    database = ctx["database"] = await Database.open(settings)
    http = ctx["http"] = HttpClient.of(settings)
    ctx["analytics"] = AnalyticsService(settings.analytics, database, http, Rollups(database))


async def close_analytics(ctx: dict[Any, Any]) -> None:
    """Close what was opened."""
    for name in ("http", "database"):
        if name in ctx:
            await ctx[name].close()


class WorkerSettings(FamilySettings):
    """See docs/families/analytics.md."""

    family = "analytics"
    functions = (track_events, collect_metrics, aggregate)
    cron_jobs = (
        crontab("5 * * * *", aggregate, name="aggregate-hourly", payload=Aggregate(type="hourly")),
        crontab("10 0 * * *", aggregate, name="aggregate-daily", payload=Aggregate(type="daily")),
        # A day later once more: zones behind UTC are not over with theirs the first time.
        crontab("15 0 * * 1,2", aggregate, name="aggregate-weekly", payload=Aggregate(type="weekly")),
        crontab("20 0 1,2 * *", aggregate, name="aggregate-monthly", payload=Aggregate(type="monthly")),
    )
    max_jobs = 2
    max_tries = 2
    backoff = Exponential(base=1)
    job_timeout = 300
    priority = 7
    on_startup = open_analytics
    on_shutdown = close_analytics
