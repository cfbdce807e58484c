"""Alerts as the console shows and silences them; silences are audited."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime

from daemon.alerts.book import Alert, Silence
from daemon.alerts.rules import Severity
from daemon.console.roles import Actor
from daemon.console.services import Services
from daemon.job import from_ms, seconds


@dataclass(slots=True)
class AlertView:
    """An alert that fires: ``subject`` is a queue, an objective or ``redis``; ``told`` how often people were told."""

    alert: str
    subject: str
    severity: Severity
    text: str
    since: datetime
    seen: datetime
    told: int
    silenced: bool


@dataclass(slots=True)
class SilenceView:
    """A silence; ``alert`` and ``subject`` None: of any."""

    id: str
    starts: datetime
    ends: datetime
    alert: str | None
    subject: str | None
    by: str
    reason: str


@dataclass(slots=True)
class Alerts:
    """What fires, the worst and the oldest first, and the silences that last or are to come."""

    alerts: list[AlertView] = field(default_factory=list)
    silences: list[SilenceView] = field(default_factory=list)


def _at(seconds: float) -> datetime:
    return from_ms(round(seconds * 1000))


def alert_view(alert: Alert) -> AlertView:
    """Give an alert as it is shown."""
    return AlertView(
        alert.alert, alert.subject, alert.severity, alert.text, _at(alert.since), _at(alert.seen), alert.times,
        alert.silenced,
    )  # fmt: skip


def silence_view(silence: Silence) -> SilenceView:
    """Give a silence as it is shown."""
    return SilenceView(
        silence.id, _at(silence.starts), _at(silence.ends), silence.alert, silence.subject, silence.by, silence.reason
    )


async def look(services: Services) -> Alerts:
    """Give alerts and silences."""
    now = time.time()
    firing, silences = await services.alerts.firing(now), await services.alerts.silences(now)
    return Alerts([alert_view(alert) for alert in firing], [silence_view(silence) for silence in silences])


async def silence(
    services: Services, actor: Actor, lasts: float | str, *, alert: str | None = None, subject: str | None = None,
    starts: datetime | None = None, reason: str = "",
) -> SilenceView:  # fmt: skip
    """Silence an alert, a queue or everything for a while.

    Raises:
        InvalidJob: for an alert that there is not, or a wrong time.
    """
    length, begins = seconds(lasts), None if starts is None else starts.timestamp()
    target = f"{alert or '*'}:{subject or '*'}"
    async with services.audit.record(actor, "alert.silence", target, seconds=length, reason=reason or None) as doing:
        made = await services.alerts.silence(
            time.time(), length, starts=begins, alert=alert, subject=subject, by=actor.name, reason=reason
        )
        doing.detail["id"] = made.id
    return silence_view(made)


async def unsilence(services: Services, actor: Actor, name: str) -> None:
    """End a silence."""
    async with services.audit.record(actor, "alert.unsilence", name):
        await services.alerts.unsilence(name)
