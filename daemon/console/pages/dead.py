"""Dead letters by cause: what failed for good, sent back with care or discarded."""

from __future__ import annotations

import contextlib
from math import isfinite
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from daemon import dead_letters
from daemon.console import dead, queue_actions
from daemon.console.api.common import Operator, Viewer
from daemon.console.pages.asking import answered, ask, back_to, first, plural, told
from daemon.console.pages.frame import Frame, fields, page
from daemon.console.problems import Problem
from daemon.console.queues import QueueAway
from daemon.console.redrives import Care, RedriveView
from daemon.console.roles import Actor
from daemon.console.services import Services, services_of
from daemon.job import JobState
from daemon.pages import EVERY, JobFilter

router = APIRouter()

#: Jobs of a cause on a page.
SHOWN = 25


@router.get("/dead")
async def groups(request: Request, actor: Viewer, family: str = "") -> Response:
    """Show the causes, the most frequent first."""
    services = services_of(request)
    found = await dead.groups(services, family or None)
    causes = [each for each in found if not isinstance(each, QueueAway)]
    return await page(
        request,
        actor,
        "dead.html",
        section="dead",
        groups=causes,
        total=sum(group.count for group in causes),
        untold=[each.family for each in found if isinstance(each, QueueAway)],
        families=services.families,
        chosen=family,
        redrives=_redrives(services, family),
    )


def _redrives(services: Services, family: str = "", cause: str = "") -> list[RedriveView]:
    """Give redrives of a family, or those with a cause among their groups."""
    return [
        view
        for view in services.redrives.known()
        if family in ("", view.family) and (not cause or any(one.group.id == cause for one in view.groups))
    ]


@router.get("/dead/retry")
async def ask_retry(request: Request, actor: Operator, cause: str = "", family: str = "") -> Response:
    """Count what would be sent back, and ask how carefully."""
    services, frame, care = services_of(request), Frame(request, actor), Care()
    found, away = await dead.redrive(services, actor, family or None, _where(cause), care, dry_run=True)
    causes = [one for view in found for one in view.groups]
    return await page(
        request,
        actor,
        "redrive.html",
        title="Retry dead letters?",
        path=frame.href("dead", "retry"),
        back=back_to(request, request.query_params.get("back", ""), frame.href("dead")),
        found=causes,
        total=sum(one.found for one in causes),
        given=[("cause", cause), ("family", family)],
        canaries=care.canaries,
        rate=f"{care.rate:g}",
        problem=told("", away),
    )


@router.post("/dead/retry")
async def retry(request: Request, actor: Operator) -> Response:
    """Send dead letters of a cause, a family or all back, some of each cause first."""
    services, given = services_of(request), await fields(request)

    async def act() -> str:
        canaries = _number(given, "canaries", 3)
        if canaries != int(canaries):
            raise Problem(422, "canaries is a whole number of jobs")
        care = Care(canaries=int(canaries), rate=_number(given, "rate", None))
        where = _where(first(given, "cause"))
        begun, away = await dead.redrive(services, actor, first(given, "family") or None, where, care)
        total = sum(one.found for view in begun for one in view.groups)
        text = f"{plural(total, 'dead letter')} on their way back" if total else "There is nothing to send back"
        return told(text, away)

    return await answered(request, _back(request, actor, given), act())


@router.post("/dead/cancel")
async def cancel(request: Request, actor: Operator) -> Response:
    """Stop a redrive; what was not sent back stays a dead letter."""
    services, given = services_of(request), await fields(request)

    async def act() -> str:
        view = await services.redrives.cancel(first(given, "redrive"))
        return f"Stopped; {plural(sum(one.left for one in view.groups), 'dead letter')} stay"

    return await answered(request, back_to(request, first(given, "back")), act())


@router.get("/dead/discard")
async def ask_discard(request: Request, actor: Operator, cause: str = "", family: str = "") -> Response:
    """Count what would be discarded, and ask."""
    services, where = services_of(request), _where(cause)
    families = await dead.families_of(services, family or None, where)
    counts = await queue_actions.discard(services, actor, families, where, dry_run=True)
    total = sum(each["discarded"] for each in counts.families.values())
    return await ask(
        request,
        actor,
        title="Discard dead letters?",
        path=Frame(request, actor).href("dead", "discard"),
        button=f"Discard {total:,}",
        text=told("They are gone for good, with their payloads and errors.", counts.away),
        what="Would be discarded",
        counts={"dead letters": total},
        given=[("cause", cause), ("family", family)],
        danger=True,
    )


@router.post("/dead/discard")
async def discard(request: Request, actor: Operator) -> Response:
    """Remove dead letters of a cause, a family or all for good."""
    services, given = services_of(request), await fields(request)

    async def act() -> str:
        where = _where(first(given, "cause"))
        families = await dead.families_of(services, first(given, "family") or None, where)
        counts = await queue_actions.discard(services, actor, families, where)
        total = sum(each["discarded"] for each in counts.families.values())
        return told(f"Discarded {plural(total, 'dead letter')}", counts.away)

    return await answered(request, _back(request, actor, given), act())


@router.get("/dead/{cause}")
async def group(request: Request, actor: Viewer, cause: str, cursor: str | None = None) -> Response:
    """Show one cause, with the traceback of the newest one and all jobs that failed so."""
    services = services_of(request)
    found = await dead_letters.group(services.inspector, cause)
    jobs = await services.inspector.jobs(
        found.family, JobState.FAILED, limit=SHOWN, cursor=cursor, where=JobFilter(cause=cause)
    )
    return await page(
        request,
        actor,
        "dead_group.html",
        section="dead",
        group=found,
        jobs=list(jobs),
        cursor=jobs.cursor,
        example=next((job for job in jobs if job.error), None),
        redrives=_redrives(services, cause=cause),
    )


def _back(request: Request, actor: Actor, given: dict[str, list[str]]) -> str:
    """Give where to go back to; all causes instead of one, whose page is gone with the last of its dead letters."""
    causes = Frame(request, actor).href("dead")
    back = back_to(request, first(given, "back"), causes)
    return causes if back.partition("?")[0] == Frame(request, actor).href("dead", first(given, "cause")) else back


def _where(cause: str) -> JobFilter:
    return JobFilter(cause=cause) if cause else EVERY


def _number(given: dict[str, list[str]], name: str, missing: Any) -> Any:
    """Give a number of a form; what stands for an empty field.

    Raises:
        Problem: for anything else.
    """
    text = first(given, name)
    if not text:
        return missing
    with contextlib.suppress(ValueError):
        if isfinite(number := float(text)):
            return number
    raise Problem(422, f"{name} is a number, not {text[:40]!r}")
