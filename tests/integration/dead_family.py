"""A family with bugs, for the tests of the command."""

from __future__ import annotations

from daemon.context import JobContext
from daemon.family import FamilySettings

#: Functions that are in order.
FIXED: set[str] = set()


async def ship(ctx: JobContext, n: int) -> int:
    """Fail until it is fixed."""
    if "ship" not in FIXED:
        raise LookupError(f"no order \x1b[31m{n}")
    return n


async def bill(ctx: JobContext, n: int) -> int:
    """Fail until it is fixed."""
    if "bill" not in FIXED:
        raise ValueError(f"order {n} costs nothing")
    return n


class WorkerSettings(FamilySettings):
    """As a user would write it."""

    family = "shop"
    functions = (ship, bill)
    max_tries = 1
