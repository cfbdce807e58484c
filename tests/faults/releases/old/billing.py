"""The family as the old release has it."""

from __future__ import annotations

import asyncio

from daemon.context import JobContext
from daemon.family import FamilySettings
from daemon.payload import Payload
from tests.faults.family import note


class SendInvoice(Payload, family="faults"):
    name: str


async def send_invoice(ctx: JobContext, job: SendInvoice) -> str:
    note("start", job.name, ctx.job_try)
    await asyncio.sleep(0.05)
    return f"{job.name} in en"


class WorkerSettings(FamilySettings):
    family = "faults"
    functions = (send_invoice,)
    keep_completed = None
