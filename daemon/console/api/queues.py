"""Queues: counts and figures, health."""

from __future__ import annotations

from fastapi import APIRouter

from daemon.console import queues
from daemon.console.api.common import Family, Given, Viewer, problems

router = APIRouter(tags=["queues"])


@router.get("/queues", responses=problems())
async def list_queues(services: Given, actor: Viewer) -> list[queues.QueueView]:
    """Every queue with its counts and what it did in the last minute and hour."""
    return await queues.views(services)


@router.get("/queues/{family}", responses=problems(404))
async def get_queue(family: Family, services: Given, actor: Viewer) -> queues.QueueView:
    """One queue."""
    return await queues.view(services, family)


@router.get("/queues/{family}/health", responses=problems(404))
async def get_queue_health(family: Family, services: Given, actor: Viewer) -> queues.QueueHealth:
    """Whether a queue is as it should be, and why not."""
    return await queues.queue_health(services, family)
