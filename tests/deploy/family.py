"""The family whose jobs the tests of the deployment run; it is copied into the installation."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from daemon.context import JobContext
from daemon.family import FamilySettings


async def nap(ctx: JobContext, seconds: float) -> int:
    """Tell that it starts, wait, tell that it ends."""
    await ctx["redis"].rpush("test:starts", ctx.job_id)
    await asyncio.sleep(seconds)
    await ctx["redis"].rpush("test:ends", ctx.job_id)
    return os.getpid()


async def block(ctx: JobContext, seconds: float) -> int:
    """Block the event loop the first time."""
    if await ctx["redis"].set("test:blocked", "1", nx=True):
        time.sleep(seconds)  # noqa: ASYNC251 - that is what it is for
    return os.getpid()


def look(ctx: JobContext) -> dict[str, object]:
    """Tell what a job can see and do where it runs."""

    def can(path: str) -> bool:
        try:
            with open(path, "a"):
                return True
        except OSError:
            return False

    return {
        "uid": os.getuid(),
        "home": os.access("/root", os.R_OK),
        "usr": can("/usr/written"),
        "etc": can("/etc/written"),
        "state": can("written"),
        "secret": any("REDIS_URL" in name for name in os.environ),
        "status": Path("/proc/self/status").read_text(),
    }


class WorkerSettings(FamilySettings):
    """Short times, so that tests are quick; long enough for a busy machine."""

    family = "deployed"
    functions = (nap, block, look)
    max_jobs, max_tries = 4, 3
    lease, drain_timeout = 4, 30
