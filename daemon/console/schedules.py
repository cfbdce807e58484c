"""Schedules as the console changes them: payloads checked as the worker will, changes audited."""

from __future__ import annotations

from typing import Any

from daemon.console.roles import Actor
from daemon.console.services import Services
from daemon.errors import InvalidJob
from daemon.payload import Payload
from daemon.schedules import ScheduleInfo


async def add(
    services: Services, actor: Actor, name: str, function: str, payload: Any = None, *, family: str | None = None,
    **given: Any,
) -> ScheduleInfo:  # fmt: skip
    """Add a schedule.

    Args:
        name: unique in its family; ``family:name`` is taken as well.
        family: needed where several families have the function.
        given: further arguments of `Schedules.add`; None is not given.

    Raises:
        InvalidJob: for what is wrong. ScheduleConflict: when there is one of this name.
    """
    named, job, fields = _call(services, function, payload, family)
    async with services.audit.record(actor, "schedule.add", f"{named}:{name}", function=function):
        return await services.schedules.add(
            name.removeprefix(f"{named}:"), job, fields, family=named,
            **{option: value for option, value in given.items() if value is not None},
        )  # fmt: skip


async def change(services: Services, actor: Actor, written: str, changes: dict[str, Any]) -> ScheduleInfo:
    """Change a schedule; what is not named stays, what is None is taken away.

    Args:
        changes: arguments of `Schedules.change`, and ``paused``.

    Raises: as `Schedules.change`.
    """
    changes = dict(changes)
    paused = changes.pop("paused", None)
    if "payload" in changes or "function" in changes:
        known = await services.schedules.get(written)
        function = changes.pop("function", known.function)
        _, job, fields = _call(services, function, changes.pop("payload", known.payload), known.family)
        changes |= {"payload": job} if isinstance(job, Payload) else {"function": function, "payload": fields}
    # First what may be refused: then nothing has been done.
    if changes:
        told = sorted(changes)
        async with services.audit.record(actor, "schedule.change", written, changes=told):
            await services.schedules.change(written, **changes)
    if paused is not None:
        await pause(services, actor, written, paused=paused)
    return await services.schedules.get(written)


async def pause(services: Services, actor: Actor, written: str, *, paused: bool) -> bool:
    """Let a schedule not be due, or be due again; gives whether it was changed by that."""
    act = services.schedules.pause if paused else services.schedules.resume
    async with services.audit.record(actor, f"schedule.{'pause' if paused else 'resume'}", written):
        return await act(written)


async def run(services: Services, actor: Actor, written: str) -> str:
    """Enqueue a schedule's job now; gives its id."""
    async with services.audit.record(actor, "schedule.run", written) as doing:
        job_id = await services.schedules.run_now(written)
        doing.detail["job"] = job_id
        return job_id


async def remove(services: Services, actor: Actor, written: str) -> None:
    """Remove a schedule."""
    async with services.audit.record(actor, "schedule.remove", written):
        await services.schedules.remove(written)


def _call(
    services: Services, function: str, payload: Any, family: str | None
) -> tuple[str, Payload | str, Any]:  # fmt: skip
    """Check a function and its payload; gives the family, and both as `Schedules.add` takes them."""
    if family is not None and family not in services.catalog.families:
        raise InvalidJob(f"there is no family {family[:70]!r}: known are {', '.join(services.families)}")
    named, known = services.catalog.find(function, family)
    job = services.catalog.checked(named, known, payload)
    return (named, job, None) if isinstance(job, Payload) else (named, function, job)
