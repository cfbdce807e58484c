"""An encrypted family whose job does everything that is stored: steps, lines, notes, failed tries, a result."""

from __future__ import annotations

import logging

from daemon.context import JobContext
from daemon.family import FamilySettings, Fixed, func
from daemon.payload import Payload, PayloadModel
from daemon.secret import Secret


class Opened(PayloadModel):
    text: str
    pin: Secret[str]


class OpenVault(Payload, family="vault", returns=Opened, encrypted=True):
    text: str
    pin: Secret[str]
    fail: bool = False


class Pick(Payload, family="vault", encrypted=True):
    text: str

    def dedup_key(self) -> str:
        return self.text


async def open_vault(ctx: JobContext, job: OpenVault) -> Opened:
    assert job.pin.startswith("canary")
    step = await ctx.once("look", lambda: {"seen": f"{job.text} in a receipt"})
    typed = await ctx.once("turn", lambda: Opened(text=job.text, pin=job.pin), returns=Opened)
    assert (step, typed) == ({"seen": f"{job.text} in a receipt"}, Opened(text=job.text, pin=job.pin))
    await ctx.log(f"{job.text} in a line")
    await ctx.progress(50, f"{job.text} in a note")
    logging.getLogger("vault").info("opening %r", job)
    if ctx.job_try == 1 or job.fail:
        raise ValueError(f"{job.text} in an error")
    assert ctx.previous_error is not None
    assert ctx.previous_error["message"] == f"{job.text} in an error"
    return Opened(text=f"{job.text} in a result", pin=job.pin)


async def pick(ctx: JobContext, job: Pick) -> str:
    return job.text


async def on_failure(ctx: JobContext, error: BaseException) -> None:
    raise RuntimeError(f"the listener: {error}")


class WorkerSettings(FamilySettings):
    family = "vault"
    functions = (func(open_vault, name="open_vault"), func(pick, name="pick"))
    encrypted = True
    max_tries = 2
    backoff = Fixed(0)
    on_failure = on_failure
