"""The reports family: its function, limits, retry policy and schedules, and what it opens."""

from __future__ import annotations

from typing import Any

from daemon.family import Exponential, FamilySettings, crontab
from handlers.integrations.database import Database
from handlers.integrations.modules import load_modules
from handlers.integrations.object_store.opening import open_store
from handlers.reports import analytics, system
from handlers.reports.payloads import GenerateReport
from handlers.reports.tasks import ReportService, generate_report

_ALL = ("pdf", "csv", "json")

__all__ = ["WorkerSettings", "close_reports", "open_reports", "system"]


async def open_reports(ctx: dict[Any, Any]) -> None:
    """Open the object store and, where there is one, the database; load the metrics.

    Raises:
        ConfigurationError: a module of metrics cannot be imported, or a setting cannot be used.
        DatabaseUnavailable: the database cannot be reached.
    """
    settings = ctx["settings"]
    load_modules("ARQD_REPORTS__METRICS", settings.reports.metrics)
    database = Database.of(settings) if settings.has_database else None
    ctx["reports"] = ReportService(settings.reports, open_store(settings), list(settings.families), database)
    if database is not None:
        await database.schema()
        if await analytics.has_events(database):
            analytics.register()


async def close_reports(ctx: dict[Any, Any]) -> None:
    """Close what was opened."""
    if "reports" in ctx:
        await ctx["reports"].store.close()
        if ctx["reports"].database is not None:
            await ctx["reports"].database.close()


class WorkerSettings(FamilySettings):
    """See docs/families/reports.md."""

    family = "reports"
    functions = (generate_report,)
    cron_jobs = (
        crontab("0 6 * * *", generate_report, name="daily", payload=GenerateReport(kind="daily", formats=_ALL)),
        crontab("0 8 * * 1", generate_report, name="weekly", payload=GenerateReport(kind="weekly", formats=_ALL)),
    )
    max_jobs = 2
    max_tries = 3
    backoff = Exponential(base=2)
    job_timeout = 600
    priority = 7
    on_startup = open_reports
    on_shutdown = close_reports
