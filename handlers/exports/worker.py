"""The exports family: its function, limits and retry policy, and what it opens."""

from __future__ import annotations

from typing import Any

from daemon.family import Exponential, FamilySettings
from handlers.exports.spool import Spool
from handlers.exports.tasks import ExportService, export_data
from handlers.integrations.database import Database
from handlers.integrations.modules import load_modules
from handlers.integrations.object_store.opening import open_store


async def open_exports(ctx: dict[Any, Any]) -> None:
    """Open the database and the object store, and load the datasets.

    Raises:
        ConfigurationError: a module of datasets cannot be imported, or a setting cannot be used.
        DatabaseUnavailable: the database cannot be reached.
    """
    settings = ctx["settings"]
    load_modules("ARQD_EXPORTS__DATASETS", settings.exports.datasets)
    url = settings.exports.database_url
    database = Database.of(settings) if url is None else Database(url.get_secret_value(), settings.database)
    ctx["exports"] = ExportService(database, open_store(settings), Spool(settings.exports.spool_dir))
    # The tables that are read are not ours: it is enough that it answers.
    await database.schema()


async def close_exports(ctx: dict[Any, Any]) -> None:
    """Close what was opened."""
    if "exports" in ctx:
        await ctx["exports"].store.close()
        await ctx["exports"].database.close()


class WorkerSettings(FamilySettings):
    """See docs/families/exports.md."""

    family = "exports"
    functions = (export_data,)
    max_jobs = 2
    max_tries = 3
    backoff = Exponential(base=2)
    job_timeout = 600
    priority = 7
    on_startup = open_exports
    on_shutdown = close_exports
