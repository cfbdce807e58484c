"""Dead letters of every family: lists, groups by cause, and redrives that run beside requests."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

from daemon import dead_letters
from daemon.console.jobs import JobList
from daemon.console.redrives import Care, RedriveView
from daemon.console.roles import Actor
from daemon.console.services import Services
from daemon.errors import InvalidJob
from daemon.job import JobState
from daemon.pages import EVERY, JobFilter
from daemon.redrive import Redrive


async def list_dead(
    services: Services, family: str | None, where: JobFilter = EVERY, *, cursor: str | None = None, limit: int = 50
) -> JobList:
    """Give dead letters, the newest first; of several families by family.

    Args:
        family: None for all, or the one of the filter's cause.

    Raises:
        InvalidJob: for a wrong limit or cursor.
    """
    names = await families_of(services, family, where)
    at, _, rest = (cursor or "").partition("/") if len(names) > 1 else (names[0], "", cursor or "")
    if at and at not in names:
        raise InvalidJob(f"cursor {(cursor or '')[:40]!r} is none: leave it out to begin anew")
    found = JobList([], None, False)
    for number, name in enumerate(names[names.index(at) if at else 0 :]):
        room = limit - len(found.jobs)
        page = await services.inspector.jobs(
            name, JobState.FAILED, limit=room, cursor=rest if number == 0 and rest else None, where=where
        )
        found.jobs += page
        found.partial |= page.partial
        if page.cursor is not None:
            found.cursor = page.cursor if len(names) == 1 else f"{name}/{page.cursor}"
            break
        following = names[names.index(name) + 1 :]
        if len(found.jobs) >= limit and following:
            found.cursor = f"{following[0]}/"
            break
    return found


async def families_of(services: Services, family: str | None, where: JobFilter = EVERY) -> list[str]:
    """Give the families that are meant: one, that of a cause, or all.

    Raises:
        JobNotFound: for an unknown family, or a cause that no dead letter has.
    """
    if family is not None:
        return [services.known(family)]
    if where.cause is not None:
        return [(await dead_letters.group(services.inspector, where.cause)).family]
    return services.families


async def groups(services: Services, family: str | None) -> list[dead_letters.DeadGroup]:
    """Give the groups of one family or all, the largest first."""
    return await dead_letters.groups(services.inspector, None if family is None else services.known(family))


async def redrive(
    services: Services, actor: Actor, family: str | None, where: JobFilter, care: Care, *, dry_run: bool = False
) -> list[RedriveView]:
    """Send dead letters back with care, some of each cause first; one redrive for each family that has some.

    Args:
        dry_run: only count; what it gives does not run.

    Raises:
        InvalidJob: for numbers that cannot be meant. JobNotFound: for a cause that no dead letter has.
        JobStateError: when a queue is paused or has no worker, so that no canary would run.
    """
    prepared: list[tuple[str, Redrive]] = []
    for name in await families_of(services, family, where):
        work = Redrive(services.control, name, where, **asdict(care))
        if await work.look():
            if care.canaries and not dry_run:
                await work.refuse_idle_queue()
            prepared.append((name, work))
    if dry_run:
        now = datetime.now(UTC)
        return [RedriveView("", name, actor.name, now, groups=work.groups) for name, work in prepared]
    detail = {**where.asked(), **asdict(care)}
    return [services.redrives.begin(actor, work, name, **detail) for name, work in prepared]
