"""The notifications family's function: what a user is told is stored, then handed to push and mail."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from daemon.context import JobContext
from daemon.producing.options import JobOptions
from handlers.integrations.database import Database
from handlers.integrations.texts import LARGEST_PUSH_DATA
from handlers.integrations.users.inbox import Inbox, Notification
from handlers.integrations.users.preferences import CHANNELS, Channel, Preference
from handlers.integrations.users.store import User, Users
from handlers.notifications.payloads import HandedOver, Notified, NotifyUser
from handlers.notifications.settings import NotificationsSettings

#: What the ids of notifications are made in; it must never change.
KEYS = uuid.UUID("0f3a7a52-6d3b-4f0e-8a39-0a6b3f0a5c17")
#: Which function sends by a channel; the channel's name is its family.
FUNCTIONS: dict[Channel, str] = {"push": "send_push", "email": "send_email"}
#: A mail about something that happened goes behind a password somebody waits for.
MAIL_PRIORITY = 3
#: A phone shows no more of a text than so many characters.
SHOWN = 500


@dataclass(frozen=True, slots=True)
class NotificationService:
    """What the family opens at start and finds in its context as ``notifications``."""

    settings: NotificationsSettings
    database: Database
    users: Users
    inbox: Inbox


async def notify_user(ctx: JobContext, job: NotifyUser) -> Notified:
    """Tell a user something.

    1. Store the notification under an id made of the key (or the job's id); one that went through here before is left
       as it is, and its result given again.
    2. Hand it to each channel the user wants, as a job whose id is made of the notification's, at the end of their
       quiet hours.
    3. Write down what became of it.

    A job that runs twice stores one notification and enqueues one job a channel.
    """
    service: NotificationService = ctx["notifications"]
    made = _notification(job, job.idempotency_key or ctx.job_id)
    stored = await service.inbox.add(made)
    if stored is not None and stored.channels is not None:
        return Notified(notification_id=made.id, existed=True, **stored.channels)
    user = await service.users.find(job.user_id)
    preferences = await service.users.preferences(job.user_id)
    channels: dict[str, HandedOver] = {}
    for channel in CHANNELS:
        preference = preferences.get(channel, Preference(enabled=channel in service.settings.channels))
        why = preference.refuses(job.type) or await _unreachable(service, channel, user)
        channels[channel] = (
            HandedOver(skipped=why) if why else await _hand_over(ctx, job, made.id, channel, user, preference)
        )
    await service.inbox.handed_over(made.id, {name: each.model_dump(mode="json") for name, each in channels.items()})
    return Notified(notification_id=made.id, existed=stored is not None, **channels)


def _notification(job: NotifyUser, key: str) -> Notification:
    # With the length of the first: ids may hold any character.
    name = f"{len(job.user_id)}:{job.user_id}:{key}"
    return Notification(
        id=str(uuid.uuid5(KEYS, name)),
        user_id=job.user_id,
        type=job.type,
        title=job.title,
        body=job.body,
        metadata=job.metadata,
        created_at=datetime.now(UTC),
    )


async def _unreachable(service: NotificationService, channel: Channel, user: User) -> str | None:
    if channel == "email":
        return None if user.email else "the user has no mail address"
    devices = await service.users.devices(user.user_id, usable=True)
    return None if devices else "the user has no device that takes pushes"


async def _hand_over(
    ctx: JobContext,
    job: NotifyUser,
    notification_id: str,
    channel: Channel,
    user: User,
    preference: Preference,
) -> HandedOver:
    """Enqueue the job of a channel, now or when the quiet hours end."""
    payload = _push(job, notification_id) if channel == "push" else _mail(job, notification_id, user)
    options: JobOptions = {"job_id": f"notify-{notification_id}"}
    if channel == "email":
        options["priority"] = MAIL_PRIORITY
    run_at = None
    if preference.quiet is not None and not job.urgent:
        run_at = preference.quiet.until(datetime.now(UTC), user.zone)
        if run_at is not None:
            options["run_at"] = run_at
    handle = await ctx.producer.enqueue(FUNCTIONS[channel], payload, family=channel, **options)
    return HandedOver(job_id=handle.id, run_at=run_at)


def _push(job: NotifyUser, notification_id: str) -> Mapping[str, Any]:
    data = {"notification_id": notification_id, "type": job.type}
    whole = {**job.metadata, **data}
    return {
        "user_id": job.user_id,
        "title": job.title,
        "message": job.body if len(job.body) <= SHOWN else f"{job.body[: SHOWN - 1]}…",
        # What is too large for a push the app finds in the user's list.
        "data": whole if len(to_json(whole)) <= LARGEST_PUSH_DATA else data,
        "priority": "HIGH" if job.urgent else "MEDIUM",
    }


def _mail(job: NotifyUser, notification_id: str, user: User) -> Mapping[str, Any]:
    button = {name: job.metadata[name] for name in ("action_url", "action_text") if job.metadata.get(name)}
    return {
        "to": user.email,
        "subject": job.title,
        "template": "notification",
        "context": {"title": job.title, "message": job.body, "name": user.name, **button},
        "lang": user.lang,
        "idempotency_key": f"notification:{notification_id}",
    }
