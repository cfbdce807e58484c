"""A family whose jobs wait in the middle until a test lets them go on, and another for what stands beside it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from daemon.context import JobContext
from daemon.errors import PermanentError
from daemon.family import Family
from daemon.payload import Payload
from daemon.secret import Secret
from tests.engine import make_family

#: By the job's name: it goes on when that is set.
GATES: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
#: By the job's name: what the next try fails of, and whether another one would help.
FAILURES: dict[str, str] = {}


class Charge(Payload, family="shop", function="charge"):
    """Money to take."""

    name: str
    amount: int = 1


async def charge(ctx: JobContext, job: Charge) -> dict[str, Any]:
    await ctx.log(f"charging {job.name}")
    await ctx.progress(40, f"asking the bank of {job.name}")
    await GATES[job.name].wait()
    if job.name in FAILURES:
        raise PermanentError(FAILURES[job.name])
    return {"charged": job.name}


async def refuse(ctx: JobContext, why: str = "no") -> None:
    raise PermanentError(why)


async def settle(ctx: JobContext) -> str:
    return "settled"


class Pay(Payload, family="mail", function="pay"):
    """What a card pays; its number is encrypted."""

    owner: str
    number: Secret[str]


async def pay(ctx: JobContext, job: Pay) -> None:
    """Nothing; the browser looks at what it was given."""


def shop(**values: Any) -> Family:
    """Give the family, with values of its settings."""
    return make_family("shop", charge, refuse, settle, **{"max_tries": 1, "search": "payload", **values})


def mail() -> Family:
    """Give a family beside it."""
    return make_family("mail", settle, pay)
