"""A family for the tests of the command."""

from __future__ import annotations

import asyncio
import os

from daemon.context import JobContext
from daemon.errors import PermanentError
from daemon.family import FamilySettings
from daemon.payload import Payload, PayloadModel


class Greeting(PayloadModel):
    text: str


class Greet(Payload, family="greetings", priority="high", returns=Greeting):
    name: str
    loudness: int = 1


async def greet(ctx: JobContext, job: Greet) -> Greeting:
    """Greet someone; ``nobody`` cannot be greeted, and for ``forever`` it never ends."""
    await ctx.progress(50, "thinking of \x1b[31msomething nice")
    if job.name == "nobody":
        raise PermanentError("there is \x1b[31mnobody")
    if job.name == "forever":
        await asyncio.Event().wait()
    await ctx.log(f"greeting \x1b[31m{job.name}\nloudly")
    return Greeting(text=f"Hello, {job.name}{'!' * job.loudness}")


async def process_id(ctx: JobContext) -> int:
    """Give the worker's process id."""
    return os.getpid()


class Stock:
    """A plain arq settings class with arq's own serialisers."""

    functions = (process_id,)


class WorkerSettings(FamilySettings):
    """As a user would write it."""

    family = "greetings"
    functions = (greet, process_id)
    drain_timeout = 5
