"""Jobs that tests of the producer's side hand over: one typed, one plain, one that waits to be stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from daemon.context import JobContext
from daemon.payload import Payload, PayloadModel
from daemon.producer import Producer


class Answer(PayloadModel):
    text: str
    at: datetime


class Ask(Payload, family="t", returns=Answer):
    question: str
    fail: str | None = None


class Plain(Payload, family="t"):
    n: int = 0


NOW = datetime(2026, 3, 1, tzinfo=UTC)


async def ask(ctx: JobContext, job: Ask) -> Answer:
    if job.fail:
        raise ValueError(job.fail)
    return Answer(text=job.question.upper(), at=NOW)


async def plain(ctx: JobContext, job: Plain) -> int:
    return job.n


async def wait_for_end(ctx: JobContext, percent: int = 0) -> None:
    await ctx.progress(percent, "waiting")
    await asyncio.Event().wait()


FUNCTIONS = (ask, plain, wait_for_end)


@asynccontextmanager
async def producing(url: str, **options: Any) -> AsyncIterator[Producer]:
    async with Producer.connect(url, **options) as producer:
        yield producer
