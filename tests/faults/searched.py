"""The family of the search's fault test: jobs that end in every way."""

from __future__ import annotations

from daemon.context import JobContext
from daemon.errors import PermanentError
from daemon.family import FamilySettings


async def good(ctx: JobContext, text: str) -> None:
    return None


async def bad(ctx: JobContext, text: str) -> None:
    raise PermanentError(f"no {text}")


class WorkerSettings(FamilySettings):
    family = "faults"
    functions = (good, bad)
    keep_completed = 60
    search = "payload"
