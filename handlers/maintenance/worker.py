"""The maintenance family: its functions, limits and schedules, and what it opens."""

from __future__ import annotations

from typing import Any

from daemon.family import FamilySettings, crontab
from handlers.integrations.database import Database
from handlers.maintenance.cache import Cache
from handlers.maintenance.kept import check_apart
from handlers.maintenance.payloads import AGES, CleanJobs, Cleanup, WarmCache
from handlers.maintenance.tasks import MaintenanceService, clean_jobs, cleanup, warm_cache


async def open_maintenance(ctx: dict[Any, Any]) -> None:
    """Load the data sources; open the database where tables are named.

    Raises:
        ConfigurationError: a source cannot be imported, tables of arqd's own are missing, or a folder of old files
            holds what arqd keeps.
        DatabaseUnavailable: the database cannot be reached.
    """
    settings = ctx["settings"]
    own = settings.maintenance
    check_apart(settings)
    database = await Database.open(settings) if own.tables else None
    ctx["maintenance"] = MaintenanceService(own, settings, database, Cache(own.cache_prefix, own.sources))


async def close_maintenance(ctx: dict[Any, Any]) -> None:
    """Close what was opened."""
    if "maintenance" in ctx and ctx["maintenance"].database is not None:
        await ctx["maintenance"].database.close()


#: What is removed every night, each by its own age.
NIGHTLY = [Cleanup.model_validate({"target_type": target}) for target in AGES]


class WorkerSettings(FamilySettings):
    """See docs/families/maintenance.md."""

    family = "maintenance"
    functions = (cleanup, warm_cache, clean_jobs)
    cron_jobs = (
        *(crontab("0 2 * * *", cleanup, name=f"cleanup-{each.target_type}", payload=each) for each in NIGHTLY),
        crontab("*/15 * * * *", warm_cache, payload=WarmCache()),
        crontab("0 * * * *", clean_jobs, name="clean-completed", payload=CleanJobs(state="completed")),
        crontab("0 */6 * * *", clean_jobs, name="clean-failed", payload=CleanJobs(state="failed")),
    )
    max_jobs = 1
    # One in the whole system, however many processes there are.
    global_limit = 1
    max_tries = 1
    job_timeout = 300
    priority = 10
    on_startup = open_maintenance
    on_shutdown = close_maintenance
