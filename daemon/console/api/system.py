"""The system: health, workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from daemon.console import queues
from daemon.console.access import MaybeActor
from daemon.console.api.common import Given, Viewer, problems
from daemon.inspector import WorkerInfo

router = APIRouter(tags=["system"])


@dataclass(slots=True)
class BareHealth:
    """What everybody may know."""

    status: queues.Status


def _bare(request: Request) -> queues.BareStatus:
    bare: queues.BareStatus = request.app.state.bare_status
    return bare


@router.get("/health", responses={503: {"model": queues.Health, "description": "Redis cannot be used"}})
async def get_health(
    services: Given, actor: MaybeActor, bare: Annotated[queues.BareStatus, Depends(_bare)], response: Response
) -> queues.Health | BareHealth:
    """How the system is: to everybody the status alone, to those who are logged in with counts and reasons."""
    found = BareHealth(await bare.get()) if actor is None else await queues.health(services)
    if found.status is queues.Status.DOWN:
        response.status_code = 503
    return found


@router.get("/workers", responses=problems())
async def list_workers(services: Given, actor: Viewer) -> list[WorkerInfo]:
    """The processes that work the queues."""
    return await services.inspector.workers()
