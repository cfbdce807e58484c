"""The API's routes, a module for each noun: thin, since pages call what they call."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from daemon.console.api import alerts, archive, dead, jobs, openapi, queues, schedules, system, tokens
from daemon.console.api.common import refuse_unknown


def create_api() -> APIRouter:
    """Give all routes below ``/api/v1``."""
    router = APIRouter()
    router.include_router(system.open_router)
    for module in (queues, jobs, archive, dead, schedules, alerts, system, tokens, openapi):
        router.include_router(module.router, dependencies=[Depends(refuse_unknown)])
    return router
