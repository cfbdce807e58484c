"""The ai family: its function, limits and retry policy, and what it opens."""

from __future__ import annotations

from typing import Any

from daemon.family import Exponential, FamilySettings
from handlers.ai.budget import Budget
from handlers.ai.endpoint import Endpoint
from handlers.ai.schemas import checker
from handlers.ai.tasks import AiService, generate_text
from handlers.integrations.database import Database
from handlers.integrations.http import HttpClient


async def open_ai(ctx: dict[Any, Any]) -> None:
    """Open the database and a client for the endpoint.

    Raises:
        ConfigurationError: tables are missing, or a setting cannot be used.
        DatabaseUnavailable: the database cannot be reached.
    """
    settings = ctx["settings"]
    database = await Database.open(settings)
    # The endpoint's address is the operator's own; a model may think for long before its first word.
    limits = settings.http.model_copy(update={"read_timeout": settings.ai.silence})
    http = HttpClient(limits, guarded=False)
    endpoint, budget = Endpoint(http, settings.ai), Budget(database, settings.ai)
    ctx["ai"] = AiService(settings.ai, database, http, endpoint, budget, checker)


async def close_ai(ctx: dict[Any, Any]) -> None:
    """Close what was opened."""
    if "ai" in ctx:
        await ctx["ai"].http.close()
        await ctx["ai"].database.close()


class WorkerSettings(FamilySettings):
    """See docs/families/ai.md."""

    family = "ai"
    functions = (generate_text,)
    max_jobs = 2
    max_tries = 3
    backoff = Exponential(base=5)
    job_timeout = 300
    priority = 5
    on_startup = open_ai
    on_shutdown = close_ai
