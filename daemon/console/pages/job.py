"""A job: what it carries, how far it is, what became of each try, why it does not run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from daemon.console.pages.frame import Frame, Viewer, page
from daemon.console.roles import Actor
from daemon.console.services import services_of
from daemon.encryption import MASK
from daemon.explain import Reason
from daemon.inspector import Inspector
from daemon.job import ENDED, JobInfo, JobState

router = APIRouter()

#: Reasons somebody should do something about.
ALARMING = (
    Reason.PAUSED, Reason.NO_WORKER, Reason.UNKNOWN_FUNCTION, Reason.PARKED, Reason.LEASE_ENDED, Reason.SUSPECT,
)  # fmt: skip
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
        JobNotFound: when there is none. InvalidJob: when the id names no family. KeyMissing: when it cannot be revealed.
    """
    info = await inspector.job(written, reveal=reveal)
    logs = await inspector.logs(info.id, reveal=reveal)
    ended = info.state in ENDED
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
        waited=(info.started_at - info.enqueued_at).total_seconds() if info.started_at and info.enqueued_at and info.tries <= 1 else None,
        ran=(info.finished_at - info.started_at).total_seconds() if info.finished_at and info.started_at else None,
        hidden=MASK in repr((info.payload, info.result, info.error, info.note)) or any(MASK in line.text for line in logs.lines),
        revealed=reveal,
        actions=[("retry", "Retry")] if info.state is JobState.FAILED else [("promote", "Promote")] if info.state is JobState.DELAYED else [],
        can_move=info.state in (JobState.WAITING, JobState.DELAYED),
        can_abort=not ended,
    )  # fmt: skip


def timeline(info: JobInfo) -> list[Moment]:
    """Give what is known of a job's way, in the order of time."""
    found = []
    if info.enqueued_at:
        found.append(Moment("Enqueued", info.enqueued_at, note="waits for other jobs" if info.children else ""))
    for attempt in info.history:
        found.append(Moment(f"Try {attempt['try']} failed", attempt["at"], "bad", f"{attempt['type']}: {attempt['message']}"))
    if info.started_at and info.state is not JobState.ACTIVE:
        found.append(Moment("Last try started" if info.history else "Started", info.started_at))
    found.sort(key=lambda moment: moment.at or datetime.min)
    if info.state is JobState.ACTIVE:
        told = f"try {info.tries + 1}" + (f", on {info.worker}" if info.worker else "")
        found.append(Moment("Running since", info.started_at, "now", note=told))
    elif info.state is JobState.COMPLETED:
        found.append(Moment("Completed", info.finished_at, "ok"))
    elif info.state in ENDED:
        error = info.error or {}
        reason = {"tries": "no try is left", "permanent": "no other try can help"}.get(error.get("reason", ""), error.get("reason", ""))
        found.append(Moment(str(info.state).capitalize(), info.finished_at, "bad", note=reason))
    elif info.state is JobState.DELAYED:
        found.append(Moment("Next try" if info.history else "Due", info.due_at, "now"))
    else:
        found.append(Moment(str(info.state).capitalize(), None, "now", note="now"))
    return found
