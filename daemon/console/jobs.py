"""Jobs as the console shows them, and what acts on them by id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from daemon.console.problems import Problem
from daemon.console.queues import QueueAway
from daemon.console.roles import Actor, Role
from daemon.console.services import Services
from daemon.errors import JobNotFound
from daemon.inspecting.explain import Explanation, Reason
from daemon.job import JobInfo, JobLogs
from daemon.outcomes import DONE, REASONS
from daemon.pages import JobPage

Action = Literal["retry", "discard", "remove", "promote", "abort", "priority"]

#: Ids named in an entry of the audit log.
_NAMED = 20


@dataclass(slots=True)
class JobList:
    """A page of jobs; ``cursor`` goes on behind it, None at the end. A filtered page may be short and still go on.

    ``partial``: found in a search index that is still being built. ``away``: families that cannot be
    asked, where it is of several.
    """

    jobs: list[JobInfo]
    cursor: str | None
    partial: bool
    away: list[QueueAway] = field(default_factory=list)

    @classmethod
    def of(cls, page: JobPage) -> JobList:
        """Give a page in this form."""
        return cls(list(page), page.cursor, page.partial)


async def get(services: Services, actor: Actor, job_id: str, *, reveal: bool = False) -> JobInfo:
    """Give a job; what is encrypted as asterisks, unless an admin reveals it, which is audited.

    Raises:
        Problem: 403 for a reveal by somebody else.
        JobNotFound, InvalidJob, KeyMissing: see `Inspector.job`.
    """
    if not reveal:
        return await services.inspector.job(job_id)
    _refuse_reveal(actor)
    async with services.audit.record(actor, "job.reveal", job_id):
        return await services.inspector.job(job_id, reveal=True)


async def logs(services: Services, actor: Actor, job_id: str, *, reveal: bool = False) -> JobLogs:
    """Give what a job's handler logged; see `get`."""
    if not reveal:
        return await services.inspector.logs(job_id)
    _refuse_reveal(actor)
    async with services.audit.record(actor, "job.reveal", job_id, what="logs"):
        return await services.inspector.logs(job_id, reveal=True)


async def explain(services: Services, job_id: str) -> Explanation:
    """Tell why a job does not run, and when it will.

    Raises:
        JobNotFound: when there is none.
    """
    found = await services.inspector.explain(job_id)
    if found.reason is Reason.NOT_FOUND:
        raise JobNotFound.of(job_id)
    return found


def _refuse_reveal(actor: Actor) -> None:
    if not actor.role.includes(Role.ADMIN):
        raise Problem(403, f"revealing needs the role {Role.ADMIN}, and {actor.name} has {actor.role}")


async def act(
    services: Services, actor: Actor, action: Action, ids: Sequence[str], priority: int | str = "", *,
    dry_run: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Act on jobs; gives what became of each (`daemon.outcomes` says it for people).

    Args:
        priority: with the action ``priority``.
        dry_run: with ``retry`` and ``discard``: only tell what would become of each.

    Raises:
        InvalidJob: for an id of no family, or a wrong priority; nothing was done.
    """
    control = services.control
    acts: dict[Action, Callable[[Sequence[str]], Awaitable[dict[str, str]]]] = {
        "retry": partial(control.retry, dry_run=dry_run),
        "discard": partial(control.discard, dry_run=dry_run),
        "remove": control.remove,
        "promote": control.promote,
        "abort": control.abort,
        "priority": lambda written: control.set_priority(written, priority),
    }
    if dry_run:
        return await acts[action](ids)
    target = ids[0] if len(ids) == 1 else f"{len(ids)} jobs"
    named = list(ids[:_NAMED]) if len(ids) > 1 else None
    async with services.audit.record(actor, f"job.{action}", target, ids=named, priority=priority or None) as doing:
        words = await acts[action](ids)
        doing.detail["outcomes"] = dict(Counter(words.values()))
        if not any(word in DONE for word in words.values()):
            doing.outcome = "refused"
    return words


async def act_on_one(services: Services, actor: Actor, action: Action, job_id: str, priority: int | str = "") -> str:
    """Act on one job; gives what became of it.

    Raises:
        JobNotFound: when there is none. Problem: 409 when its state forbids it.
    """
    word = (await act(services, actor, action, [job_id], priority))[job_id]
    if word == "not_found":
        raise JobNotFound.of(job_id)
    if word not in DONE:
        raise Problem(409, f"{job_id}: {REASONS.get(word, word)}")
    return word
