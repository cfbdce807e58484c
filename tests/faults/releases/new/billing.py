"""The family as the new release has it: an invoice has a language, which must be given, and there are reminders."""

from __future__ import annotations

import asyncio
from typing import Any

from daemon.context import JobContext
from daemon.family import FamilySettings
from daemon.payload import Payload
from tests.faults.family import note


class SendInvoice(Payload, family="faults", version=2):
    name: str
    lang: str

    @classmethod
    def upgrade(cls, fields: dict[str, Any], version: int) -> dict[str, Any]:
        return {**fields, "lang": "en"}


class SendReminder(Payload, family="faults"):
    name: str


async def send_invoice(ctx: JobContext, job: SendInvoice) -> str:
    note("start", job.name, ctx.job_try)
    await asyncio.sleep(0.05)
    return f"{job.name} in {job.lang}"


async def send_reminder(ctx: JobContext, job: SendReminder) -> str:
    note("start", job.name, ctx.job_try)
    await asyncio.sleep(0.05)
    return f"{job.name} again"


class WorkerSettings(FamilySettings):
    family = "faults"
    functions = (send_invoice, send_reminder)
    keep_completed = None
