"""Settings as a team with stock arq has them, which the ``arq`` command and ``arqd run`` both work here."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from arq import Retry, cron
from arq.connections import RedisSettings


async def startup(ctx: dict[str, Any]) -> None:
    await ctx["redis"].rpush("up", os.environ["WORKER"])


async def quick(ctx: dict[str, Any], number: int) -> int:
    await ctx["redis"].rpush("runs", f"{number} {os.environ['WORKER']}")
    await asyncio.sleep(0.02)
    return number


async def third_time(ctx: dict[str, Any]) -> int:
    await ctx["redis"].rpush("tries", f"{ctx['job_id']} {ctx['job_try']}")
    if ctx["job_try"] < 3:
        raise Retry(defer=0.2)
    return int(ctx["job_try"])


async def never(ctx: dict[str, Any]) -> None:
    await ctx["redis"].rpush("tries", f"{ctx['job_id']} {ctx['job_try']}")
    raise Retry


async def hold(ctx: dict[str, Any]) -> str:
    await ctx["redis"].rpush("held", f"{ctx['job_id']} {os.environ['WORKER']}")
    while not await ctx["redis"].exists("go"):
        await asyncio.sleep(0.02)
    return os.environ["WORKER"]


async def beat(ctx: dict[str, Any]) -> None:
    await ctx["redis"].rpush("beats", ctx["job_id"])


class WorkerSettings:
    functions = (quick, third_time, never, hold)
    cron_jobs = (cron(beat, second=set(range(60))),)
    redis_settings = RedisSettings.from_dsn(os.environ.get("ARQD_REDIS_URL", "redis://127.0.0.1:1/0"))
    on_startup = startup
    allow_abort_jobs = True
    max_jobs = 4
    max_tries = 3
    poll_delay = 0.1
