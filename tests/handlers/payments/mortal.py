"""A worker that dies by SIGKILL at an await of a handler: ``python -m tests.handlers.payments.mortal``.

Each line of its input is a JSON object: the environment, the job, and at which await to die, ``at`` it (what was begun
goes on without us) or ``behind`` it (it has ended, and we never heard of it). It answers ``killed``, or ``ended N``
with the number of awaits. It forks for each, since importing everything anew would take a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import types
from collections.abc import Coroutine, Generator
from typing import Any

from daemon.settings import load_settings
from daemon.testing.handlers import run_handler
from handlers.payments.commissions import pay_commission as pay
from handlers.payments.payloads import PayCommission, RetryPayment
from handlers.payments.tasks import retry_payment as retry
from handlers.payments.worker import close_payments, open_payments

seen = 0
ask: dict[str, Any] = {}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@types.coroutine
def mortal(work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Drive a coroutine, and die where it was asked for."""
    global seen
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            waits = work.send(value) if error is None else work.throw(error)
        except StopIteration as end:
            return end.value
        seen += 1
        if ask["at"] == seen:
            die()
        value = error = None
        try:
            value = yield waits
        except BaseException as raised:
            error = raised
        if ask["behind"] == seen:
            die()


async def retry_payment(ctx: Any, job: RetryPayment) -> Any:
    return await mortal(retry(ctx, job))


async def pay_commission(ctx: Any, job: PayCommission) -> Any:
    return await mortal(pay(ctx, job))


async def live() -> None:
    ctx: dict[str, Any] = {"settings": load_settings(ask["environ"])}
    await open_payments(ctx)
    kind = RetryPayment if "provider" in ask["job"] else PayCommission
    handler = retry_payment if kind is RetryPayment else pay_commission
    await run_handler(handler, kind.model_validate(ask["job"]), ctx=ctx, job_id="job")
    await close_payments(ctx)


for line in sys.stdin:
    ask = json.loads(line)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        asyncio.run(live())
        os.write(theirs, str(seen).encode())
        os._exit(0)
    os.close(theirs)
    _, status = os.waitpid(child, 0)
    with os.fdopen(ours) as told:
        number = told.read()
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    print("killed" if killed else f"ended {number}", flush=True)
