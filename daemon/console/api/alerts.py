"""Alerts: what fires; silence it for a while."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import AwareDatetime, Field

from daemon.console import alerts
from daemon.console.api.common import Body, Given, Operator, Viewer, problems
from daemon.console.fields import Duration, Named

router = APIRouter(tags=["alerts"])


class NewSilence(Body):
    """What to silence, and for how long; what is left out covers everything."""

    lasts: Duration = Field(alias="for", description="seconds, or text such as `30m`, `2h`; 90 days at most")
    alert: str | None = Field(None, description="name of an alert, `no_worker`")
    subject: Named | None = Field(None, max_length=200, description="a family, an objective or `redis`")
    starts: AwareDatetime | None = Field(None, description="from then on; default now")
    reason: str = Field("", max_length=500)


@router.get("/alerts", responses=problems())
async def list_alerts(services: Given, actor: Viewer) -> alerts.Alerts:
    """What fires, the worst and the oldest first, and silences."""
    return await alerts.look(services)


@router.post("/alerts/silence", status_code=201, responses=problems())
async def silence(asked: NewSilence, services: Given, actor: Operator) -> alerts.SilenceView:
    """Tell nobody of something for a while; what still fires afterwards is told then."""
    return await alerts.silence(
        services, actor, asked.lasts, alert=asked.alert, subject=asked.subject, starts=asked.starts, reason=asked.reason
    )


@router.delete("/alerts/silence/{silence}", status_code=204, responses=problems(404))
async def unsilence(
    silence: Annotated[str, Path(description="id of the silence")], services: Given, actor: Operator
) -> None:
    """End a silence."""
    await alerts.unsilence(services, actor, silence)
