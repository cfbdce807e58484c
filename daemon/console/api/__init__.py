"""The API's routes, a module for each noun: thin, since pages call what they call."""

from __future__ import annotations

from fastapi import APIRouter

from daemon.console.api import queues, system
from daemon.console.services import Services


def create_api(services: Services) -> APIRouter:
    """Give all routes below ``/api/v1``."""
    router = APIRouter()
    for module in (queues, system):
        router.include_router(module.router)
    return router
