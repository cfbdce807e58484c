"""What acts on whole queues, each audited unless it only counts (``dry_run``)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from daemon.connecting.connections import translated
from daemon.console.queues import QueueAway, away_of
from daemon.console.roles import Actor
from daemon.console.services import Services
from daemon.errors import RedisError
from daemon.limits.queue_limits import FamilyLimits, change_limits, read_limits
from daemon.pages import EVERY, JobFilter

T = TypeVar("T")


@dataclass(slots=True)
class Counts:
    """How many jobs of each family an action took (with ``dry_run``: would take), by what they were or became; ``away``
    are families whose server, one of several, cannot be asked: with them nothing was done."""

    dry_run: bool
    families: dict[str, dict[str, int]]
    away: list[QueueAway] = field(default_factory=list)


async def switch(services: Services, actor: Actor, families: Sequence[str], *, paused: bool) -> dict[str, bool | None]:
    """Pause queues or let them go on; gives whether each was changed by it, None of one that cannot be asked."""
    control = services.control
    act = control.pause if paused else control.resume
    done, away = await _each(services, actor, f"queue.{'pause' if paused else 'resume'}", families, act)
    return {family: done.get(family) for family in sorted([*done, *away])}


async def drain(services: Services, actor: Actor, families: Sequence[str], *, dry_run: bool = False) -> Counts:
    """Remove what waits or is delayed."""

    async def act(family: str) -> dict[str, int]:
        return {"drained": await services.control.drain(family, dry_run=dry_run)}

    return _counts(dry_run, *await _each(services, actor, "queue.drain", families, act, dry_run=dry_run))


async def clean(
    services: Services,
    actor: Actor,
    families: Sequence[str],
    state: str = "completed",
    *,
    older_than: float | str = 0,
    count: int | None = None,
    dry_run: bool = False,
) -> Counts:
    """Remove ended jobs; see `Control.clean`."""

    async def act(family: str) -> dict[str, int]:
        return {state: await services.control.clean(family, state, older_than=older_than, count=count, dry_run=dry_run)}

    detail = {"state": state, "older_than": older_than, "count": count}
    return _counts(dry_run, *await _each(services, actor, "queue.clean", families, act, dry_run=dry_run, **detail))


async def clear(services: Services, actor: Actor, families: Sequence[str], *, dry_run: bool = False) -> Counts:
    """Remove every job but those that run."""

    async def act(family: str) -> dict[str, int]:
        return await services.control.clear(family, dry_run=dry_run)

    return _counts(dry_run, *await _each(services, actor, "queue.clear", families, act, dry_run=dry_run))


async def retry(
    services: Services, actor: Actor, families: Sequence[str], where: JobFilter = EVERY, *, dry_run: bool = False
) -> Counts:
    """Send the dead letters that a filter lets through back at once."""

    async def act(family: str) -> dict[str, int]:
        return {"retried": await services.control.retry_all(family, where, dry_run=dry_run)}

    return _counts(
        dry_run, *await _each(services, actor, "dead.retry", families, act, dry_run=dry_run, **where.asked())
    )


async def discard(
    services: Services, actor: Actor, families: Sequence[str], where: JobFilter = EVERY, *, dry_run: bool = False
) -> Counts:
    """Remove the dead letters that a filter lets through for good."""

    async def act(family: str) -> dict[str, int]:
        return {"discarded": await services.control.discard_all(family, where, dry_run=dry_run)}

    return _counts(
        dry_run, *await _each(services, actor, "dead.discard", families, act, dry_run=dry_run, **where.asked())
    )


def _counts(dry_run: bool, done: dict[str, dict[str, int]], away: dict[str, RedisError]) -> Counts:
    return Counts(dry_run, done, away_of(away))


async def _each(
    services: Services,
    actor: Actor,
    action: str,
    families: Sequence[str],
    act: Callable[[str], Awaitable[T]],
    *,
    dry_run: bool = False,
    **detail: Any,
) -> tuple[dict[str, T], dict[str, RedisError]]:
    """Act on queues one after the other, an entry of the audit log for each; gives what was done, and the queues that
    cannot be asked, where others can.

    Raises:
        RedisError: where none can.
    """
    done: dict[str, T] = {}
    # Beforehand: a server that hangs would take its whole time for each of its families.
    away = await services.inspector.away(families) if len(families) > 1 else {}
    for family in families:
        try:
            if dry_run:
                if family not in away:
                    done[family] = await act(family)
                continue
            async with services.audit.record(actor, action, family, **detail) as doing:
                if family in away:
                    raise away[family]
                done[family] = await act(family)
                doing.detail["result"] = done[family]
        except RedisError as error:
            if not away:
                raise
            away[family] = error
    return done, away


async def limits(services: Services, family: str) -> FamilyLimits:
    """Give the limits of a queue, its groups and functions."""
    with translated():
        functions = services.catalog.families[family].functions
        return await read_limits(services.redis, services.inspector.of(family), functions)


async def set_limits(services: Services, actor: Actor, family: str, **changes: Any) -> FamilyLimits:
    """Change limits of a queue, or of a group or function of it, while it runs.

    Args:
        changes: arguments of `daemon.limits.queue_limits.change_limits`; None leaves one as it is.

    Raises:
        InvalidJob: for what is no limit; nothing was changed.
    """
    async with services.audit.record(actor, "queue.limits", family, **changes):
        with translated():
            functions = services.catalog.families[family].functions
            return await change_limits(services.redis, services.inspector.of(family), functions=functions, **changes)
