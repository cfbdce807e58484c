"""Events that Stripe posts: verified, and handled once by what is registered for their type.

    # shop/stripe_events.py, named by ARQD_WEBHOOKS__STRIPE_HANDLERS
    from handlers.webhooks.stripe_events import StripeEvent, on_stripe_event

    @on_stripe_event("invoice.paid")
    async def paid(ctx: JobContext, event: StripeEvent, connection: AsyncConnection) -> None:
        await connection.execute(…)

A handler's changes on ``connection`` and the note that the event was handled are one transaction: both or neither.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from daemon.context import JobContext
from daemon.errors import ConfigurationError, PermanentError
from handlers.integrations.database import Database, insert
from handlers.webhooks.payloads import HandledEvent, ProcessStripeEvent
from handlers.webhooks.tables import STRIPE_EVENTS

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

#: How old a signature may be when the event comes, seconds: Stripe's own default.
TOLERANCE = 300


class BadSignature(PermanentError):
    """The event is not signed by Stripe with a secret of ours, or its signature is too old."""


@dataclass(frozen=True, slots=True)
class StripeEvent:
    """An event as Stripe describes it; ``data`` holds ``object`` and, of an update, ``previous_attributes``."""

    id: str
    type: str
    data: dict[str, Any]


Handler = Callable[[JobContext, StripeEvent, "AsyncConnection"], Awaitable[None]]
_handlers: dict[str, Handler] = {}


def on_stripe_event(*types: str) -> Callable[[Handler], Handler]:
    """Register a coroutine function for these types of events.

    Raises:
        ConfigurationError: when another one is registered for one of them.
    """

    def register(handler: Handler) -> Handler:
        for each in types:
            if _handlers.setdefault(each, handler) is not handler:
                raise ConfigurationError(f"two handlers are registered for Stripe's event {each}")
        return handler

    return register


async def process_stripe_event(ctx: JobContext, job: ProcessStripeEvent) -> HandledEvent:
    """Handle an event once, whatever happens to the worker, and however often it is enqueued.

    An event nothing is registered for is kept, and handled when it comes again after something is.

    Raises:
        BadSignature: permanent.
    """
    service: StripeService = ctx["stripe_events"]
    event = service.verified(job, ctx.enqueue_time)
    handler = _handlers.get(event.type)
    async with service.database.begin() as connection:
        row = {"event_id": event.id, "type": event.type, "data": event.data, "received_at": ctx.enqueue_time}
        await connection.execute(insert(connection, STRIPE_EVENTS).values(row).on_conflict_do_nothing())
        query = select(STRIPE_EVENTS.c.handled_at).where(STRIPE_EVENTS.c.event_id == event.id).with_for_update()
        before: datetime | None = (await connection.execute(query)).scalar_one()
        if before is not None:
            return HandledEvent(event_id=event.id, outcome="duplicate", handled_at=before)
        if handler is None:
            return HandledEvent(event_id=event.id, outcome="kept")
        await handler(ctx, event, connection)
        now = datetime.now(UTC)
        await connection.execute(
            update(STRIPE_EVENTS).where(STRIPE_EVENTS.c.event_id == event.id).values(handled_at=now)
        )
    return HandledEvent(event_id=event.id, outcome="handled", handled_at=now)


@dataclass(frozen=True, slots=True)
class StripeService:
    """What the family finds in its context as ``stripe_events``; ``secrets`` set: signatures are required."""

    database: Database
    secrets: Sequence[str]

    def verified(self, job: ProcessStripeEvent, enqueued: datetime) -> StripeEvent:
        """Give the event of a job; where it is signed, what was signed counts and nothing else.

        Raises:
            BadSignature: see there, also where one is required and there is none.
        """
        if job.body is None or job.signature is None:
            if self.secrets:
                raise BadSignature("the event has no signature: enqueue its body and the header Stripe-Signature")
            return StripeEvent(job.event_id, job.event_type, job.event_data)
        # A job may wait for hours, in an outbox and in its queue: the signature was to be fresh when the event came. A
        # payload that does not tell when that was is dated when it is read, so the earlier time counts.
        came = min(job.received_at, enqueued)
        verify_signature(job.body.encode(), job.signature, self.secrets, came.timestamp())
        try:
            signed = json.loads(job.body)
            event = StripeEvent(signed["id"], signed["type"], signed["data"])
        except (ValueError, KeyError, TypeError):
            raise BadSignature("the signed body is no event of Stripe's") from None
        if event.id != job.event_id or event.type != job.event_type:
            raise BadSignature("event_id or event_type are not those of the signed body")
        return event


def verify_signature(
    body: bytes, header: str, secrets: Iterable[str], now: float, tolerance: float = TOLERANCE
) -> None:
    """Verify a ``Stripe-Signature`` (``t=…,v1=…``), before enqueueing or in the worker.

    Args:
        body: the request's, as it came.
        secrets: of the endpoint, ``whsec_…``; one that fits is enough.
        now: seconds since the epoch.

    Raises:
        BadSignature: see there.

    Source: https://docs.stripe.com/webhooks#verify-manually
    """
    parts = [part.strip().partition("=") for part in header.split(",")]
    times = [value for name, _, value in parts if name == "t"]
    given = [value for name, _, value in parts if name == "v1"]
    if len(times) != 1 or not (times[0].isascii() and times[0].isdigit() and len(times[0]) < 16) or not given:
        raise BadSignature("Stripe-Signature is not t=…,v1=…")
    signed = times[0].encode() + b"." + body
    wanted = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    if not any(hmac.compare_digest(one.encode(), other.encode()) for one in wanted for other in given):
        raise BadSignature("the event is not signed with a secret of ARQD_WEBHOOKS__STRIPE_SECRETS")
    if abs(now - int(times[0])) > tolerance:
        raise BadSignature(f"the event was signed more than {tolerance:g} s before it came, or after")
