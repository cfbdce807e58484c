"""Three families whose jobs make up random flows: each tells what it saw of its children, and fails where told to."""

from __future__ import annotations

import asyncio
from typing import Any

from daemon.context import JobContext
from daemon.errors import PermanentError
from daemon.family import FamilySettings
from daemon.job import JobState
from tests.faults.family import note


async def step(ctx: JobContext, job: dict[str, Any]) -> dict[str, str]:
    """Give how each child ended, by the name of its id."""
    note("start", job["name"], ctx.job_try)
    seen = {child.id.partition(":")[2]: child.state.value for child in (await ctx.children()).values()}
    await asyncio.sleep(job["seconds"])
    for name, state in seen.items():
        assert state in (JobState.COMPLETED, JobState.FAILED), (name, state)
    note("end", job["name"], ctx.job_try)
    if job["fails"]:
        raise PermanentError("as told")
    return seen


class _Steps(FamilySettings):
    functions = (step,)
    lease = 1
    max_jobs = 4
    # Killed at random, a job may lose any number of workers; it is not to blame.
    max_crashes = 1000
    keep_completed = None


class Red(_Steps):
    family = "red"


class Green(_Steps):
    family = "green"


class Blue(_Steps):
    family = "blue"


FAMILIES = ("red", "green", "blue")
