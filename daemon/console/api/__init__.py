"""The API's routes, a module for each noun: thin, since pages call what they call."""

from __future__ import annotations

from fastapi import APIRouter

from daemon.console.api import alerts, archive, dead, jobs, openapi, queues, schedules, system, tokens


def create_api() -> APIRouter:
    """Give all routes below ``/api/v1``."""
    router = APIRouter()
    for module in (queues, jobs, archive, dead, schedules, alerts, system, tokens, openapi):
        router.include_router(module.router)
    return router
