"""Jobs: submit, look, and act on one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from pydantic import Field

from daemon.console import jobs, submissions
from daemon.console.api.common import (
    Body,
    Cursor,
    Family,
    Given,
    JobId,
    Limit,
    Operator,
    Since,
    Until,
    Viewer,
    problems,
)
from daemon.console.fields import Level
from daemon.console.filters import job_filter
from daemon.flows.view import FlowNode
from daemon.inspecting.explain import Explanation
from daemon.job import JobInfo, JobLogs
from daemon.pages import JobFilter

router = APIRouter(tags=["jobs"])

Key = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, description="becomes the job's id, so that a repeat adds none"),
]
Reveal = Annotated[bool, Query(description="decrypt what is encrypted; for admins, and audited")]


class Batch(Body):
    """Many jobs, each taken or refused by itself."""

    jobs: list[submissions.JobSubmission] = Field(min_length=1, max_length=submissions.BATCH)


@dataclass(slots=True)
class BatchResult:
    """What became of each job, in their order."""

    results: list[submissions.BatchEntry]


class Priority(Body):
    """A level, or its name."""

    priority: Level


@dataclass(slots=True)
class Outcome:
    """What became of a job: ``retried``, ``promoted``, ``changed``, ``aborted`` or ``asked`` (its worker was told)."""

    id: str
    outcome: str


@router.post("/jobs", status_code=202, responses=problems(404, 409, 413, 429))
async def submit(
    asked: submissions.JobSubmission, services: Given, actor: Operator, key: Key = None
) -> submissions.Submitted:
    """Hand a job over. One with its id or dedup key that is there already is kept: `created` is false then."""
    return await submissions.submit(services, actor, asked, key)


@router.post("/jobs/batch", status_code=202, responses=problems(413, 429))
async def submit_batch(asked: Batch, services: Given, actor: Operator, key: Key = None) -> BatchResult:
    """Hand up to 1,000 jobs over, of any families. The answer tells for each whether it was taken."""
    return BatchResult(await submissions.submit_many(services, actor, asked.jobs, key))


def _where(
    function: str | None = None,
    tag: str | None = None,
    group: Annotated[str | None, Query(description="of jobs that have not ended, and of dead letters")] = None,
    error: Annotated[str | None, Query(description="type of the error, of ended jobs")] = None,
    since: Since = None,
    until: Until = None,
    cause: Annotated[str | None, Query(description="group of dead letters")] = None,
    q: Annotated[str | None, Query(description="words that all occur in it (docs/search.md)")] = None,
) -> JobFilter:
    return job_filter(function=function, tag=tag, group=group, error=error, since=since, until=until, cause=cause, q=q)


Where = Annotated[JobFilter, Depends(_where)]


@router.get("/queues/{family}/jobs", responses=problems(404))
async def list_jobs(
    family: Family, services: Given, actor: Viewer, where: Where, state: str = "waiting", cursor: Cursor = None,
    limit: Limit = 50,
) -> jobs.JobList:  # fmt: skip
    """Jobs in a state: those that wait in the order they will run, those that have ended newest first."""
    return jobs.JobList.of(await services.inspector.jobs(family, state, limit=limit, cursor=cursor, where=where))


# Ids may hold slashes: the longer paths come first.


@router.get("/jobs/{id:path}/logs", responses=problems(404, 409))
async def get_logs(id: JobId, services: Given, actor: Viewer, reveal: Reveal = False) -> JobLogs:
    """What a job's handler logged, oldest first."""
    return await jobs.logs(services, actor, id, reveal=reveal)


@router.get("/jobs/{id:path}/explain", responses=problems(404))
async def explain(id: JobId, services: Given, actor: Viewer) -> Explanation:
    """Why a job does not run, and when it will."""
    return await jobs.explain(services, id)


@router.get("/jobs/{id:path}", responses=problems(404, 409))
async def get_job(id: JobId, services: Given, actor: Viewer, reveal: Reveal = False) -> JobInfo:
    """Everything known of a job: state, payload, progress, tries, times, result, error."""
    return await jobs.get(services, actor, id, reveal=reveal)


@router.get("/flows/{id:path}", responses=problems(404))
async def get_flow(
    id: JobId, services: Given, actor: Viewer, limit: Annotated[int, Query(ge=1, le=5000)] = 500
) -> FlowNode:
    """A job with what it waits or waited for, as a tree of at most `limit` jobs."""
    return await services.inspector.flow(id, limit=limit)


@router.delete("/jobs/{id:path}", status_code=204, responses=problems(404, 409))
async def remove(id: JobId, services: Given, actor: Operator) -> None:
    """Remove a job that does not run, with all it left."""
    await jobs.act_on_one(services, actor, "remove", id)


@router.post("/jobs/{id:path}/retry", responses=problems(404, 409))
async def retry(id: JobId, services: Given, actor: Operator) -> Outcome:
    """Send a dead letter back to its queue: same id, tries start anew, history is kept."""
    return Outcome(id, await jobs.act_on_one(services, actor, "retry", id))


@router.post("/jobs/{id:path}/promote", responses=problems(404, 409))
async def promote(id: JobId, services: Given, actor: Operator) -> Outcome:
    """Let a delayed job run now."""
    return Outcome(id, await jobs.act_on_one(services, actor, "promote", id))


@router.post("/jobs/{id:path}/abort", responses=problems(404, 409))
async def abort(id: JobId, services: Given, actor: Operator) -> Outcome:
    """End a job now; of one that runs the handler is cancelled."""
    return Outcome(id, await jobs.act_on_one(services, actor, "abort", id))


@router.post("/jobs/{id:path}/priority", responses=problems(404, 409))
async def set_priority(id: JobId, asked: Priority, services: Given, actor: Operator) -> Outcome:
    """Move a waiting job behind those of another level; a delayed one comes due at it."""
    return Outcome(id, await jobs.act_on_one(services, actor, "priority", id, asked.priority))
