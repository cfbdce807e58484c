"""The push family's function: a message to all of a user's devices."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError

from daemon.context import JobContext
from daemon.errors import PermanentError
from handlers.integrations.database import Database
from handlers.integrations.http import HttpClient
from handlers.integrations.users.store import Users
from handlers.push.onesignal import OneSignal, Pushed
from handlers.push.payloads import SendPush, SentPush

logger = logging.getLogger("arqd.push")

#: What is left of a try's time for writing down how it went, seconds.
MARGIN = 1.0
#: What the keys of jobs are made in; it must never change.
KEYS = uuid.UUID("5e6d7f04-2a53-4d0a-9e3c-6f1f8f6b9f51")


class PushRefused(PermanentError):
    """Nothing was sent: none of the devices is one, or OneSignal says why."""


@dataclass(frozen=True, slots=True)
class PushService:
    """What the family opens at start and finds in its context as ``push``.

    Attributes:
        onesignal: None where it is not set up.
    """

    database: Database
    http: HttpClient
    users: Users
    onesignal: OneSignal | None


async def send_push(ctx: JobContext, job: SendPush) -> SentPush:
    """Push a message, once.

    1. See whether the user wants pushes, and has a device.
    2. Call OneSignal with a key made of the job's id: a repetition gets the first answer and sends nothing.
    3. Mark the devices that are none.
    4. Decide: without an id of a message nothing was sent.

    Raises:
        RetryAfter: OneSignal asks for a pause (429 with Retry-After): the queue waits, and no try is counted.
        HttpStatus, HttpUnavailable, HttpError: it failed, or its outcome is unknown; tried again with the same key.
        PushRefused, PermanentError: nothing was sent, and another try would not change it.
    """
    service: PushService = ctx["push"]
    preference = (await service.users.preferences(job.user_id)).get("push")
    if preference is not None and not preference.enabled:
        return SentPush(skipped=True, reason="the user has disabled pushes")
    devices = [device.device_id for device in await service.users.devices(job.user_id, usable=True)]
    if not devices:
        return SentPush(skipped=True, reason="the user has no device that takes pushes")
    if service.onesignal is None:
        raise PermanentError("push is not set up: set ARQD_PUSH__APP_ID and ARQD_PUSH__API_KEY")
    asked = datetime.now(UTC)
    limit = max(1.0, min(service.http.settings.timeout, ctx.remaining - MARGIN))
    pushed = await service.onesignal.push(job, devices, idempotency_key(ctx.job_id), limit)
    if pushed.invalid:
        await _mark(service, job.user_id, pushed, asked)
    if pushed.message_id is None:
        raise PushRefused(f"OneSignal has sent nothing to {len(devices)} devices: {pushed.told}")
    return SentPush(
        sent_at=datetime.now(UTC),
        message_id=pushed.message_id,
        devices=len(devices) - len(pushed.invalid),
        invalid=len(pushed.invalid),
    )


def idempotency_key(job_id: str) -> uuid.UUID:
    """Give the key of a job, the same in each of its tries."""
    return uuid.uuid5(KEYS, job_id)


async def _mark(service: PushService, user_id: str, pushed: Pushed, asked: datetime) -> None:
    """Send nothing to these devices any more; a database that is away now must not fail a push that is out."""
    why = "OneSignal does not know it, or it is not subscribed"
    try:
        await service.users.disable_devices(user_id, pushed.invalid, why, asked)
    except (SQLAlchemyError, OSError):
        logger.exception("%d devices that take no pushes could not be marked", len(pushed.invalid))
