"""The family of the schedules' fault test: its jobs note their ids in the journal."""

from __future__ import annotations

from daemon.context import JobContext
from daemon.family import FamilySettings, crontab
from tests.faults.family import note


async def tick(ctx: JobContext) -> None:
    note("start", ctx.job_id.rpartition(":")[2], ctx.job_try)


class WorkerSettings(FamilySettings):
    family = "faults"
    cron_jobs = (crontab("* * * * * *", tick),)
    keep_completed = None
