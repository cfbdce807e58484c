"""A job: what it carries, how far it is, what became of each try, why it does not run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from daemon.console.api.common import Viewer
from daemon.console.pages.frame import Frame, page
from daemon.console.roles import Actor
from daemon.console.services import services_of
from daemon.encryption import MASK
from daemon.inspecting.explain import Reason
from daemon.inspector import Inspector
from daemon.job import ENDED, JobInfo, JobLogs, JobState

router = APIRouter()

#: Reasons somebody should do something about.
ALARMING = (
    Reason.PAUSED, Reason.NO_WORKER, Reason.UNKNOWN_FUNCTION, Reason.PARKED, Reason.LEASE_ENDED, Reason.SUSPECT,
)  # fmt: skip
_ACTIONS = {JobState.FAILED: [("retry", "Retry")], JobState.DELAYED: [("promote", "Promote")]}
#: Why a dead letter is not tried again, in words.
_REASONS = {"tries": "no try is left", "permanent": "no other try can help", "crashes": "its workers died"}
#: Most jobs of a flow that are shown.
FLOW = 200


@dataclass(frozen=True, slots=True)
class Moment:
    """A point of a job's timeline; ``kind`` is ``ok``, ``bad``, ``now`` or ""."""

    title: str
    at: datetime | None
    kind: str = ""
    text: str = ""
    note: str = ""


@router.get("/find")
async def find(request: Request, actor: Viewer, id: str = "") -> Response:
    """Go to a job by its id as somebody typed it."""
    frame = Frame(request, actor)
    return RedirectResponse(frame.href("jobs", id.strip()) if id.strip() else frame.href(), 303)


@router.get("/jobs/{id:path}")
async def job(request: Request, actor: Viewer, id: str) -> Response:
    """Show a job."""
    return await show(request, actor, services_of(request).inspector, id)


async def show(request: Request, actor: Actor, inspector: Inspector, written: str, *, reveal: bool = False) -> Response:
    """Give a job's page.

    Args:
        reveal: show what is encrypted; whoever calls this has written that to the audit log.

    Raises:
        JobNotFound: when there is none. InvalidJob: when the id names no family. KeyMissing: it cannot be revealed.
    """
    info = await inspector.job(written, reveal=reveal)
    logs = await inspector.logs(info.id, reveal=reveal)
    return await page(
        request,
        actor,
        "job.html",
        family=info.family,
        job=info,
        logs=logs,
        why=await inspector.explain(info.id),
        alarming=ALARMING,
        flow=await inspector.flow(info.id, limit=FLOW) if info.children else None,
        timeline=timeline(info),
        # Of a job that was tried before, what it waited since it was enqueued says nothing.
        waited=_between(info.enqueued_at, info.started_at) if info.tries <= 1 else None,
        ran=_between(info.started_at, info.finished_at),
        hidden=_is_hidden(info, logs),
        revealed=reveal,
        actions=_ACTIONS.get(info.state, []),
        can_move=info.state in (JobState.WAITING, JobState.DELAYED),
        can_abort=info.state not in ENDED,
    )


def _between(begin: datetime | None, end: datetime | None) -> float | None:
    return (end - begin).total_seconds() if begin and end else None


def _is_hidden(info: JobInfo, logs: JobLogs) -> bool:
    """Tell whether something of it is shown as asterisks."""
    told = [info.payload, info.result, info.error, info.note, *(line.text for line in logs.lines)]
    return any(MASK in repr(each) for each in told)


def timeline(info: JobInfo) -> list[Moment]:
    """Give what is known of a job's way, in the order of time."""
    found = []
    if info.enqueued_at:
        found.append(Moment("Enqueued", info.enqueued_at, note="waits for other jobs" if info.children else ""))
    for attempt in info.history:
        told = f"{attempt['type']}: {attempt['message']}"
        found.append(Moment(f"Try {attempt['try']} failed", attempt["at"], "bad", told))
    if info.started_at and info.state is not JobState.ACTIVE:
        found.append(Moment("Last try started" if info.history else "Started", info.started_at))
    found.sort(key=lambda moment: moment.at.timestamp() if moment.at else 0.0)
    return [*found, _last(info)]


def _last(info: JobInfo) -> Moment:
    """Give where a job is now."""
    name = str(info.state).capitalize()
    if info.state is JobState.ACTIVE:
        told = f"try {info.tries + 1}" + (f", on {info.worker}" if info.worker else "")
        return Moment("Running since", info.started_at, "now", note=told)
    if info.state is JobState.COMPLETED:
        return Moment(name, info.finished_at, "ok")
    if info.state in ENDED:
        reason = (info.error or {}).get("reason", "")
        return Moment(name, info.finished_at, "bad", note=_REASONS.get(reason, reason))
    if info.state is JobState.DELAYED:
        return Moment("Next try" if info.history else "Due", info.due_at, "now")
    return Moment(name, None, "now", note="now")
