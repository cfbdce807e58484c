"""The webhooks family's functions: deliver an event, and keep the log short. Stripe's are in ``stripe_events``."""

from __future__ import annotations

import hashlib
import logging
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from arq.worker import Retry
from pydantic_core import to_json
from sqlalchemy.exc import SQLAlchemyError

from daemon.context import JobContext
from daemon.errors import ArqdError, PermanentError, RetryAfter
from handlers.integrations.http import HttpClient, HttpError, HttpForbidden, HttpReply
from handlers.webhooks.endpoints import REPLY, Attempt, Endpoint, Endpoints
from handlers.webhooks.payloads import Delivered, DeliverWebhook, Pruned, PruneWebhooks
from handlers.webhooks.settings import WebhooksSettings
from handlers.webhooks.signing import headers
from handlers.webhooks.turns import Turns

logger = logging.getLogger("arqd.webhooks")

#: Standard Webhooks' schedule: seconds after the first, second … failed try.
STANDARD = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
JITTER = 0.1
#: What is left of a try's time for writing down how it went, seconds.
MARGIN = 3.0
#: A body is read up to here: the log keeps less, and nothing is decided by it.
ENOUGH = 4 * REPLY
NO_LIMIT = 2**40


class NotDelivered(Exception):
    """The endpoint has not taken the event; it is tried again."""


class NotDeliveredYet(NotDelivered, Retry):
    """The same, tried again by the schedule of Standard Webhooks.

    Args:
        wait: until then, seconds.
    """

    def __init__(self, told: str, wait: float) -> None:
        Retry.__init__(self, defer=wait)
        self.told = told

    def __str__(self) -> str:
        return self.told


class EndpointDisabled(PermanentError):
    """Nothing is sent to the endpoint any more."""


class SecretMissing(PermanentError):
    """The secret that signs is not set."""


@dataclass(frozen=True, slots=True)
class WebhookService:
    """What the family opens at start and finds in its context as ``webhooks``."""

    settings: WebhooksSettings
    http: HttpClient
    endpoints: Endpoints
    turns: Turns


async def deliver_webhook(ctx: JobContext, job: DeliverWebhook) -> Delivered:
    """Deliver an event.

    1. Find the endpoint; a disabled one gets nothing, one that asked for a pause gets it.
    2. Where order matters, wait for the turn.
    3. Sign and post.
    4. Write down how it went, and decide.

    It may be delivered again when the worker dies between 3 and 4: ``webhook-id`` is then the same.

    Raises:
        RetryAfter: the endpoint asked for a pause (429 or 503 with Retry-After), or it is another job's turn.
        NotDelivered, Retry: any other reply but 2xx, or none; tried again by the family's backoff or the schedule.
        EndpointDisabled, HttpForbidden, UnknownEndpoint, SecretMissing: permanent.
    """
    service: WebhookService = ctx["webhooks"]
    endpoint = await service.endpoints.of_job(job)
    if endpoint.disabled_at is not None:
        raise EndpointDisabled(
            f"the endpoint {endpoint.name} is disabled since {endpoint.disabled_at:%Y-%m-%d %H:%M} UTC "
            f"({endpoint.disabled_why}): arqd webhooks enable {endpoint.name}, then retry its dead letters"
        )
    now = datetime.now(UTC)
    if endpoint.held_until is not None and endpoint.held_until > now:
        raise RetryAfter((endpoint.held_until - now).total_seconds(), "job")
    secrets = _secrets(service.settings, job.secret_ref or endpoint.secret_ref)
    if job.ordered:
        await service.turns.take(ctx, endpoint.name)
    try:
        attempt, hold = await _post(ctx, service, endpoint, job, secrets)
    except HttpForbidden:
        await _end_turn(ctx, service, endpoint, job)
        raise
    endpoint = await _record(service, endpoint, attempt, hold)
    if attempt.delivered:
        await _end_turn(ctx, service, endpoint, job)
        assert attempt.status is not None
        return Delivered(
            webhook_id=attempt.webhook_id, status=attempt.status, attempt=ctx.job_try, seconds=attempt.seconds
        )
    raise await _refusal(ctx, service, endpoint, job, attempt, hold)


async def prune_webhooks(ctx: JobContext, job: PruneWebhooks) -> Pruned:
    """Keep the log of deliveries short; it may run twice."""
    service: WebhookService = ctx["webhooks"]
    before = datetime.now(UTC) - timedelta(seconds=service.settings.keep_deliveries)
    return Pruned(deliveries=await service.endpoints.prune(before))


async def _post(
    ctx: JobContext, service: WebhookService, endpoint: Endpoint, job: DeliverWebhook, secrets: list[str]
) -> tuple[Attempt, float | None]:
    """Make the call; gives how it went, and how long the endpoint asked to be left alone."""
    # What a repetition sends is the same to the letter: the time is the job's.
    body = to_json({"type": job.event, "timestamp": ctx.enqueue_time.isoformat(), "data": job.payload})
    webhook_id = f"msg_{hashlib.sha256(ctx.job_id.encode()).hexdigest()[:32]}"
    at, began = datetime.now(UTC), time.monotonic()
    status: int | None = None
    hold: float | None = None
    try:
        limit = max(1.0, min(service.http.settings.timeout, ctx.remaining - MARGIN))
        sent = headers(webhook_id, at, body, secrets)
        async with service.http.stream(
            "POST", endpoint.url, content=body, headers=sent, timeout=limit, max_body=NO_LIMIT
        ) as stream:
            status, told = stream.reply.status, b""
            hold = _asked_pause(stream.reply)
            async for chunk in stream.chunks():
                told += chunk[: ENOUGH - len(told)]
                if len(told) >= ENOUGH:
                    break
        reply = told.decode("utf-8", "replace").replace("\x00", "")
    except HttpForbidden:
        raise
    except HttpError as error:
        # A reply that began with a status has one, whatever became of its body.
        reply = str(error)
    seconds = time.monotonic() - began
    attempt = Attempt(endpoint.name, webhook_id, job.event, ctx.job_try, at, seconds, status, reply[:REPLY])
    return attempt, hold


async def _record(service: WebhookService, endpoint: Endpoint, attempt: Attempt, hold: float | None) -> Endpoint:
    """Write it down; a database that is away now must not make a delivered event be delivered again."""
    try:
        return await service.endpoints.record(endpoint, attempt, hold=hold)
    except (SQLAlchemyError, ArqdError, OSError):
        logger.exception("a try to deliver to %s could not be written down", endpoint.name)
        return endpoint


async def _refusal(
    ctx: JobContext,
    service: WebhookService,
    endpoint: Endpoint,
    job: DeliverWebhook,
    attempt: Attempt,
    hold: float | None,
) -> Exception:
    """Give the error that decides on an event that was not taken."""
    said = f"answers {attempt.status}" if attempt.status else f"was not reached: {attempt.reply[:200]}"
    if endpoint.disabled_at is not None:
        logger.error("the endpoint %s is disabled: %s", endpoint.name, endpoint.disabled_why)
        await _end_turn(ctx, service, endpoint, job)
        return EndpointDisabled(f"the endpoint {endpoint.name} {said}, and is disabled now: {endpoint.disabled_why}")
    if hold is not None:
        if job.ordered:
            await service.turns.keep(endpoint.name, ctx.job_id, hold)
        return RetryAfter(hold, "job")
    standard = (job.schedule or endpoint.schedule) == "standard"
    if ctx.is_last_try:
        await _end_turn(ctx, service, endpoint, job)
    elif job.ordered:
        wait = _wait(ctx.job_try) if standard else ctx.worker.policy.backoff.wait(ctx.job_try)
        await service.turns.keep(endpoint.name, ctx.job_id, wait)
    told = f"the endpoint {endpoint.name} {said}"
    if standard:
        return NotDeliveredYet(told, _wait(ctx.job_try))
    return NotDelivered(told)


def _wait(attempt: int) -> float:
    return STANDARD[min(attempt, len(STANDARD)) - 1] * random.uniform(1, 1 + JITTER)  # noqa: S311


def _asked_pause(reply: HttpReply) -> float | None:
    return reply.retry_after if reply.status in (429, 503) else None


def _secrets(settings: WebhooksSettings, name: str | None) -> list[str]:
    found = settings.secrets_of(name) if name else None
    if found is None:
        variable = f"ARQD_WEBHOOKS__SECRETS__{(name or 'NAME').upper()}"
        raise SecretMissing(f"no secret {name!r} is set to sign with: {variable}")
    return found


async def _end_turn(ctx: JobContext, service: WebhookService, endpoint: Endpoint, job: DeliverWebhook) -> None:
    if not job.ordered:
        return
    try:
        await service.turns.leave(endpoint.name, ctx.job_id)
    except (SQLAlchemyError, ArqdError, OSError):
        # The next one finds out by itself that this job has ended.
        logger.exception("the turn of %s could not be given on", endpoint.name)
