"""What the overview's list of alerts does: silence one, end a silence."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from daemon.console import alerts
from daemon.console.api.common import Operator
from daemon.console.pages.asking import answered, first
from daemon.console.pages.frame import Frame, fields
from daemon.console.services import services_of

router = APIRouter()


@router.post("/alerts/silence")
async def silence(request: Request, actor: Operator) -> Response:
    """Silence an alert of a queue for a while."""
    services, given = services_of(request), await fields(request)
    alert, subject, lasts = (first(given, name) for name in ("alert", "subject", "for"))

    async def act() -> str:
        made = await alerts.silence(services, actor, lasts, alert=alert or None, subject=subject or None)
        what = alert.replace("_", " ") or "every alert"
        return f"Silenced until {made.ends:%H:%M} UTC: {what} of {subject or 'all queues'}"

    return await answered(request, Frame(request, actor).href(), act())


@router.post("/alerts/unsilence")
async def unsilence(request: Request, actor: Operator) -> Response:
    """End a silence."""
    services, name = services_of(request), first(await fields(request), "silence")

    async def act() -> str:
        await alerts.unsilence(services, actor, name)
        return "The silence has ended"

    return await answered(request, Frame(request, actor).href(), act())
