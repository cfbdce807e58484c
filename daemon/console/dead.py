"""Dead letters of every family: lists, groups by cause, and redrives that run beside requests."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial

from daemon import dead_letters
from daemon.console.jobs import JobList
from daemon.console.queues import QueueAway, away_of
from daemon.console.redrives import Care, RedriveView
from daemon.console.roles import Actor
from daemon.console.services import Services
from daemon.errors import InvalidJob, RedisError
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.pages import EVERY, JobFilter, JobPage
from daemon.redrive import Redrive


async def list_dead(
    services: Services, family: str | None, where: JobFilter = EVERY, *, cursor: str | None = None, limit: int = 50
) -> JobList:
    """Give dead letters, the newest first; of several families by family.

    Args:
        family: None for all, or the one of the filter's cause.

    Raises:
        InvalidJob: for a wrong limit or cursor. RedisUnavailable, RedisRefused: when no server can be asked.
    """
    names = await families_of(services, family, where)
    at, _, rest = (cursor or "").partition("/") if len(names) > 1 else (names[0], "", cursor or "")
    if at and at not in names:
        raise InvalidJob(f"cursor {(cursor or '')[:40]!r} is none: leave it out to begin anew")
    found, away = JobList([], None, False), dict[str, RedisError]()
    for number, name in enumerate(names[names.index(at) if at else 0 :]):
        room = limit - len(found.jobs)
        behind = rest if number == 0 and rest else None
        answers = await services.inspector.only([name]).ask(partial(_page, name, room, behind, where))
        away |= answers.away
        if not answers.told:
            continue
        (page,) = answers.told
        found.jobs += page
        found.partial |= page.partial
        if page.cursor is not None:
            found.cursor = page.cursor if len(names) == 1 else f"{name}/{page.cursor}"
            break
        following = names[names.index(name) + 1 :]
        if len(found.jobs) >= limit and following:
            found.cursor = f"{following[0]}/"
            break
    if len(away) == len(names):
        raise away[names[0]]
    found.away = away_of(away)
    return found


async def _page(family: str, limit: int, cursor: str | None, where: JobFilter, inspector: Inspector) -> JobPage:
    return await inspector.jobs(family, JobState.FAILED, limit=limit, cursor=cursor, where=where)


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


async def groups(services: Services, family: str | None) -> list[dead_letters.DeadGroup | QueueAway]:
    """Give the groups of one family or all, the largest first, and behind them families that cannot be asked."""
    if family is not None:
        return [*await dead_letters.groups(services.inspector, services.known(family))]
    answers = await services.inspector.ask(dead_letters.groups)
    return [*dead_letters.largest_first(each for part in answers.some() for each in part), *away_of(answers.away)]


async def redrive(
    services: Services, actor: Actor, family: str | None, where: JobFilter, care: Care, *, dry_run: bool = False
) -> tuple[list[RedriveView], list[QueueAway]]:
    """Send dead letters back with care, some of each cause first; gives a redrive for each family that has some, and
    the families whose server, one of several, cannot be asked.

    Args:
        dry_run: only count; what it gives does not run.

    Raises:
        InvalidJob: for numbers that cannot be meant. JobNotFound: for a cause that no dead letter has.
        JobStateError: when a queue is paused or has no worker, so that no canary would run.
        RedisError: when no server can be asked.
    """
    prepared: list[tuple[str, Redrive]] = []
    names = await families_of(services, family, where)
    away = await services.inspector.away(names)
    for name in names:
        if name in away:
            continue
        work = Redrive(services.control, name, where, **asdict(care))
        if await work.look():
            if care.canaries and not dry_run:
                await work.refuse_idle_queue()
            prepared.append((name, work))
    if dry_run:
        now = datetime.now(UTC)
        return [RedriveView("", name, actor.name, now, groups=work.groups) for name, work in prepared], away_of(away)
    detail = {**where.asked(), **asdict(care)}
    return [services.redrives.begin(actor, work, name, **detail) for name, work in prepared], away_of(away)
