"""Queues: counts, figures, health; and what acts on one or on all of them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Query, Response
from fastapi import Body as InBody
from pydantic import Field, model_validator

from daemon.console import queue_actions, queues
from daemon.console.api.common import (
    Body,
    DryRun,
    Family,
    Given,
    Operator,
    Selection,
    Viewer,
    partly,
    problems,
    tell_partly,
)
from daemon.console.fields import Counted, Duration, Whole
from daemon.limits.queue_limits import FamilyLimits
from daemon.statistics import FamilyStatistics, Step

router = APIRouter(tags=["queues"])


class Clean(DryRun):
    """Which ended jobs to remove, oldest first."""

    state: Literal["completed", "failed", "aborted", "expired"] = "completed"
    older_than: Duration = Field(0.0, description="only those that ended so long ago: seconds, or `7d`")
    count: Whole | None = Field(None, ge=1, le=10**9, description="at most so many")


class RetrySelection(Selection, DryRun):
    """Which dead letters to send back."""


# An action may come without a body.
MaybeDryRun = Annotated[DryRun, InBody()]
MaybeClean = Annotated[Clean, InBody()]
MaybeRetry = Annotated[RetrySelection, InBody()]
#: Whether each queue was changed; None of one whose server, one of several, cannot be asked.
Switched = dict[str, bool | None]
_RUN, _CLEAN, _RETRY = DryRun(), Clean(), RetrySelection()


class Limits(Body):
    """What is left out or null stays as it is; `none` is no limit."""

    rate: str | None = Field(None, description="starts per period: `50/s`, `30/m`, `none`")
    concurrency: Annotated[int | str, Counted] | None = Field(None, description="jobs at the same time, or `none`")
    group: str | None = Field(
        None,
        description="of this group; `kind:*`: of each whose name begins so; `*`: of each without limits of its own",
    )
    function: str | None = Field(None, description="of this function; `*`: of each without limits of its own")
    weight: Whole | None = Field(None, ge=1, le=64, description="turns of the group where others have one")
    max_bytes: str | None = Field(None, description="what the queue may take in Redis: `500MB`, `none`")
    reset: bool = Field(False, description="take back what was set so")

    @model_validator(mode="after")
    def _something(self) -> Self:
        limits = (self.rate, self.concurrency, self.weight, self.max_bytes)
        if not self.reset and all(limit is None for limit in limits):
            raise ValueError("name a limit: rate, concurrency, weight, max_bytes, or reset")
        return self


@router.get("/queues", responses=problems())
async def list_queues(services: Given, actor: Viewer) -> list[queues.QueueView | queues.QueueAway]:
    """Every queue with its counts and what it did in the last minute and hour; one that cannot be asked with why."""
    return await queues.views(services)


@router.post("/queues/pause", responses={**partly(Switched), **problems()})
async def pause_all(services: Given, actor: Operator, response: Response) -> Switched:
    """Let nobody claim from any queue; tells whether each was changed by that, null of one that cannot be asked."""
    changed = await queue_actions.switch(services, actor, services.families, paused=True)
    tell_partly(response, [family for family, now in changed.items() if now is None])
    return changed


@router.post("/queues/resume", responses={**partly(Switched), **problems()})
async def resume_all(services: Given, actor: Operator, response: Response) -> Switched:
    """Let workers claim from every queue again."""
    changed = await queue_actions.switch(services, actor, services.families, paused=False)
    tell_partly(response, [family for family, now in changed.items() if now is None])
    return changed


@router.post("/queues/drain", responses={**partly(queue_actions.Counts), **problems()})
async def drain_all(
    services: Given, actor: Operator, response: Response, asked: MaybeDryRun = _RUN
) -> queue_actions.Counts:
    """Remove what waits or is delayed in every queue."""
    counts = await queue_actions.drain(services, actor, services.families, dry_run=asked.dry_run)
    tell_partly(response, counts.away)
    return counts


@router.post("/queues/clean", responses={**partly(queue_actions.Counts), **problems()})
async def clean_all(
    services: Given, actor: Operator, response: Response, asked: MaybeClean = _CLEAN
) -> queue_actions.Counts:
    """Remove ended jobs of every queue."""
    counts = await queue_actions.clean(services, actor, services.families, **asked.model_dump())
    tell_partly(response, counts.away)
    return counts


@router.get("/queues/{family}", responses=problems(404))
async def get_queue(family: Family, services: Given, actor: Viewer) -> queues.QueueView:
    """One queue."""
    return await queues.view(services, family)


@router.get("/queues/{family}/health", responses=problems(404))
async def get_queue_health(family: Family, services: Given, actor: Viewer) -> queues.QueueHealth:
    """Whether a queue is as it should be, and why not."""
    return await queues.queue_health(services, family)


@router.get("/queues/{family}/stats", responses=problems(404))
async def get_stats(
    family: Family, services: Given, actor: Viewer,
    last: Annotated[str, Query(description="of the last so many seconds, or `24h`")] = "1h",
    step: Annotated[Step | None, Query(description="default minutes for three hours or less")] = None,
    function: Annotated[str | None, Query(description="of this function only")] = None,
) -> FamilyStatistics:  # fmt: skip
    """Throughput, failures, run times and waits: in all, per function, and as a series (docs/statistics.md)."""
    return await services.inspector.stats(family, last=last, step=step, function=function)


@router.get("/queues/{family}/limits", responses=problems(404))
async def get_limits(family: Family, services: Given, actor: Viewer) -> FamilyLimits:
    """The limits of a queue, its groups and functions, and what runs of them."""
    return await queue_actions.limits(services, family)


@router.put("/queues/{family}/limits", responses=problems(404))
async def set_limits(family: Family, asked: Limits, services: Given, actor: Operator) -> FamilyLimits:
    """Change limits while the queue runs; they win over the settings until they are reset."""
    changes = asked.model_dump()
    changes["concurrency"] = None if asked.concurrency is None else str(asked.concurrency)
    return await queue_actions.set_limits(services, actor, family, **changes)


@router.post("/queues/{family}/pause", responses=problems(404))
async def pause(family: Family, services: Given, actor: Operator) -> Switched:
    """Let nobody claim from a queue; tells whether it was changed by that."""
    return await queue_actions.switch(services, actor, [family], paused=True)


@router.post("/queues/{family}/resume", responses=problems(404))
async def resume(family: Family, services: Given, actor: Operator) -> Switched:
    """Let workers claim again."""
    return await queue_actions.switch(services, actor, [family], paused=False)


@router.post("/queues/{family}/drain", responses=problems(404))
async def drain(family: Family, services: Given, actor: Operator, asked: MaybeDryRun = _RUN) -> queue_actions.Counts:
    """Remove what waits or is delayed, not what runs."""
    return await queue_actions.drain(services, actor, [family], dry_run=asked.dry_run)


@router.post("/queues/{family}/clean", responses=problems(404))
async def clean(family: Family, services: Given, actor: Operator, asked: MaybeClean = _CLEAN) -> queue_actions.Counts:
    """Remove ended jobs with their results; of failed ones the dead letter is gone for good."""
    return await queue_actions.clean(services, actor, [family], **asked.model_dump())


@router.post("/queues/{family}/clear", responses=problems(404))
async def clear(family: Family, services: Given, actor: Operator, asked: MaybeDryRun = _RUN) -> queue_actions.Counts:
    """Remove every job but those that run."""
    return await queue_actions.clear(services, actor, [family], dry_run=asked.dry_run)


@router.post("/queues/{family}/retry", responses=problems(404))
async def retry(family: Family, services: Given, actor: Operator, asked: MaybeRetry = _RETRY) -> queue_actions.Counts:
    """Send dead letters back at once, oldest first; `POST /dead/retry` does so with care."""
    return await queue_actions.retry(services, actor, [family], asked.where(), dry_run=asked.dry_run)
