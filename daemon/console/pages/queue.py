"""A queue: its figures, and its jobs by state with filters."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from daemon.connecting.connections import translated
from daemon.console import queues
from daemon.console.api.common import Viewer
from daemon.console.filters import job_filter
from daemon.console.pages.charts import chart
from daemon.console.pages.frame import Frame, board_of, page
from daemon.console.pages.overview import standing, summed
from daemon.console.problems import Problem
from daemon.console.services import Services, services_of
from daemon.errors import InvalidJob
from daemon.inspector import QueueStats
from daemon.job import JobInfo, JobState
from daemon.pages import INDEX, JobPage

router = APIRouter()

#: Jobs on a page, and what they can be filtered by.
SHOWN = 25
FILTERS = ("q", "function", "tag", "group", "error", "since", "until")
STATES = tuple(map(str, (state for state in JobState if state is not JobState.NOT_FOUND)))
ENDED = tuple(map(str, INDEX))
_TIMES = {
    "waiting": ("Enqueued", "enqueued_at"),
    "delayed": ("Due", "due_at"),
    "parked": ("Enqueued", "enqueued_at"),
    "blocked": ("Enqueued", "enqueued_at"),
    "active": ("Started", "started_at"),
}
_ENDED_TIME = ("Ended", "finished_at")
_PRIORITY, _ABORT, _REMOVE = ("priority", "Priority …"), ("abort", "Abort …"), ("remove", "Remove …")
#: What can be done to many jobs of a state at once.
BULK = {
    "waiting": [_PRIORITY, _ABORT, _REMOVE],
    "delayed": [("promote", "Promote"), _PRIORITY, _ABORT, _REMOVE],
    "active": [_ABORT],
    "failed": [("retry", "Retry"), _REMOVE],
    "parked": [_ABORT, _REMOVE],
    "blocked": [_ABORT, _REMOVE],
}


@router.get("/queues/{family}")
async def queue(request: Request, actor: Viewer, family: str, state: str = "", cursor: str | None = None) -> Response:
    """Show a queue and a page of its jobs; without a state those that there are most likely questions about."""
    services = services_of(request)
    services.known(family)
    board = await board_of(request).board()
    if family in board.away:
        raise Problem(503, queues.reason(board.away[family], f"the queue {family}"))
    stats = next(each for each in board.queues if each.family == family)
    if state not in STATES:
        return RedirectResponse(Frame(request, actor).href("queues", family, state=_first(stats)), 303)
    asked = {name: request.query_params.get(name, "").strip() for name in FILTERS}
    jobs, problem = await _jobs(services, family, state, asked, cursor)
    figures = await services.inspector.stats(family, last=3600, step="minute")
    return await page(
        request,
        actor,
        "queue.html",
        family=family,
        queue=stats,
        state=state,
        tabs=[(name, getattr(stats, name)) for name in STATES],
        ended_states=ENDED,
        time_name=_TIMES.get(state, _ENDED_TIME)[0],
        time_of=time_of,
        filters=asked,
        filtered=any(asked.values()),
        grouped=state not in ENDED or state == "failed",
        searchable=await _searchable(services, family),
        problem=problem,
        jobs=list(jobs),
        partial=jobs.partial,
        cursor=jobs.cursor,
        paging=cursor is not None,
        bulk=BULK.get(state, [_REMOVE]),
        dangerous=("abort", "remove"),
        asked_again=("abort", "remove", "priority"),
        hour=figures.total,
        minute=summed(figures.series[-2:]),
        throughput=chart("Jobs ended per minute", figures.series[-60:], "minute", "completed", "failed"),
        functions=figures.functions,
        function_names=_functions(services, family, figures.functions),
        standing=standing,
    )


async def _jobs(
    services: Services, family: str, state: str, asked: dict[str, str], cursor: str | None
) -> tuple[JobPage, str]:
    """Give a page of jobs; or none, and what is wrong with the question."""
    try:
        where = job_filter(**asked)
        return await services.inspector.jobs(family, state, limit=SHOWN, cursor=cursor, where=where), ""
    except (InvalidJob, Problem) as error:
        return JobPage([], None), str(error)


async def _searchable(services: Services, family: str) -> str:
    """Give what its search index holds, ``errors`` or ``payload``; "" without one."""
    with translated():
        kept = await services.redis.hget(services.inspector.of(family).key("conf"), "search")
    return kept.decode().partition(" ")[0] if kept else ""


def time_of(job: JobInfo, state: str) -> datetime | None:
    """Give the time by which a state is listed."""
    time: datetime | None = getattr(job, _TIMES.get(state, _ENDED_TIME)[1])
    return time


def _first(stats: QueueStats) -> str:
    return next(
        (name for name in ("active", "waiting", "failed", "delayed", "completed") if getattr(stats, name)), "waiting"
    )


def _functions(services: Services, family: str, seen: dict[str, Any]) -> list[str]:
    """Give names to choose from: those registered here, and those that had something to do."""
    known = services.catalog.families.get(family)
    return sorted({*seen, *(known.functions if known else ())})
