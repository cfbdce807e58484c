"""Dead letters: lists, groups by cause, sending them back and discarding them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from fastapi import APIRouter, Response
from pydantic import Field, model_validator

from daemon.console import dead, jobs, queue_actions
from daemon.console.api.common import (
    Cursor,
    DryRun,
    Given,
    Limit,
    MaybeFamily,
    Operator,
    Selection,
    Viewer,
    partly,
    problems,
    tell_partly,
)
from daemon.console.api.jobs import Where
from daemon.console.fields import Number, Whole
from daemon.console.queues import QueueAway
from daemon.console.redrives import Care, RedriveView
from daemon.dead_letters import DeadGroup

router = APIRouter(tags=["dead letters"])


class DeadSelection(Selection, DryRun):
    """Which dead letters: some by their ids, or those of a family, or of all, that the filter lets through."""

    ids: list[str] | None = Field(None, min_length=1, max_length=1000)
    family: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.ids is not None and self.model_fields_set - {"ids", "dry_run"}:
            raise ValueError("give ids, or a family and a filter")
        return self


class DeadRetry(DeadSelection):
    """Which dead letters, and how carefully to send them back."""

    canaries: Whole = Field(0, ge=0, le=500, description="jobs of each cause that are tried first; 0: all at once")
    rate: Number | None = Field(50, gt=0, le=1e6, description="with canaries: jobs a second; null: no limit")
    tolerance: Whole = Field(1, ge=1, le=10**6, description="so many new dead letters of a cause stop it")
    patience: Number = Field(600, gt=0, le=86400, description="how long canaries are waited for, seconds")

    @model_validator(mode="after")
    def _care(self) -> Self:
        if not self.canaries and (self.rate, self.tolerance, self.patience) != (50, 1, 600):
            raise ValueError("rate, tolerance and patience go with canaries")
        return self


@dataclass(slots=True)
class DeadDone:
    """What was done.

    Attributes:
        families: how many of each family were (with `dry_run`: would be) sent back or discarded.
        outcomes: where ids were given, what became (with `dry_run`: would become) of each.
        redrives: where canaries were asked for; those that were begun run beside requests.
        away: families whose server, one of several, cannot be asked: with their dead letters nothing was done.
    """

    dry_run: bool = False
    families: dict[str, dict[str, int]] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    redrives: list[RedriveView] = field(default_factory=list)
    away: list[QueueAway] = field(default_factory=list)


@router.get("/dead", responses=problems(404))
async def list_dead(
    services: Given, actor: Viewer, where: Where, family: MaybeFamily = None, cursor: Cursor = None, limit: Limit = 50
) -> jobs.JobList:
    """Dead letters of one family, of a cause, or of all families (one family after the other), newest first."""
    return await dead.list_dead(services, family, where, cursor=cursor, limit=limit)


@router.get("/dead/groups", responses=problems(404))
async def list_groups(services: Given, actor: Viewer, family: MaybeFamily = None) -> list[DeadGroup | QueueAway]:
    """Dead letters by cause, the largest group first; last the families that cannot be asked, and why."""
    return await dead.groups(services, family)


@router.post(
    "/dead/retry",
    responses={
        202: {"model": DeadDone, "description": "Redrives have begun"},
        **partly(DeadDone),
        **problems(404, 409),
    },
)
async def retry(asked: DeadRetry, services: Given, actor: Operator, response: Response) -> DeadDone:
    """Send dead letters back: at once, or with canaries of each cause first, beside requests (202)."""
    if asked.ids is not None:
        return DeadDone(
            asked.dry_run, outcomes=await jobs.act(services, actor, "retry", asked.ids, dry_run=asked.dry_run)
        )
    where = asked.where()
    if not asked.canaries:
        names = await dead.families_of(services, asked.family, where)
        counts = await queue_actions.retry(services, actor, names, where, dry_run=asked.dry_run)
        tell_partly(response, counts.away)
        return DeadDone(counts.dry_run, counts.families, away=counts.away)
    care = Care(asked.canaries, asked.rate, asked.tolerance, asked.patience)
    begun, away = await dead.redrive(services, actor, asked.family, where, care, dry_run=asked.dry_run)
    if begun and not asked.dry_run:
        response.status_code = 202
    tell_partly(response, away)
    return DeadDone(asked.dry_run, redrives=begun, away=away)


@router.post("/dead/discard", responses={**partly(DeadDone), **problems(404)})
async def discard(asked: DeadSelection, services: Given, actor: Operator, response: Response) -> DeadDone:
    """Remove dead letters for good."""
    if asked.ids is not None:
        return DeadDone(
            asked.dry_run, outcomes=await jobs.act(services, actor, "discard", asked.ids, dry_run=asked.dry_run)
        )
    where = asked.where()
    names = await dead.families_of(services, asked.family, where)
    counts = await queue_actions.discard(services, actor, names, where, dry_run=asked.dry_run)
    tell_partly(response, counts.away)
    return DeadDone(counts.dry_run, counts.families, away=counts.away)


@router.get("/dead/redrives", responses=problems())
async def list_redrives(services: Given, actor: Viewer) -> list[RedriveView]:
    """Redrives that this process runs, and the last that have ended, newest first."""
    return services.redrives.known()


@router.delete("/dead/redrives/{redrive}", responses=problems(404))
async def cancel_redrive(redrive: str, services: Given, actor: Operator) -> RedriveView:
    """Stop a redrive; what was not sent back stays a dead letter."""
    return await services.redrives.cancel(redrive)
