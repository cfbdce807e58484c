"""What the webhooks family takes and gives. A producer needs only this module (pydantic, nothing else)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, AwareDatetime, Field, model_validator

from daemon.payload import Payload, PayloadModel
from handlers.integrations.endpoint_names import endpoint_group, endpoint_name

__all__ = [
    "DeliverWebhook",
    "Delivered",
    "EndpointName",
    "EndpointUrl",
    "HandledEvent",
    "ProcessStripeEvent",
    "PruneWebhooks",
    "Pruned",
    "Schedule",
    "endpoint_name",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._#-]{0,199}")
#: How failed deliveries are tried again: by the family's backoff, or by the schedule of Standard Webhooks.
Schedule = Literal["family", "standard"]


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 # raises for one that is none
    except ValueError:
        raise ValueError("this is no URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise ValueError("an endpoint's URL is https://host/path, without user and password")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("an endpoint's URL is ASCII without spaces")
    return text


def _endpoint(text: str) -> str:
    return _url(text) if "://" in text else _name(text)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("an endpoint is a URL, or a name of letters, digits, ., _, # and -")
    return text


EndpointName = Annotated[str, AfterValidator(_name)]
EndpointUrl = Annotated[str, AfterValidator(_url), Field(max_length=2000)]


class Delivered(PayloadModel):
    """A webhook that was taken.

    Attributes:
        webhook_id: the header ``webhook-id``, the same in every try.
        status: 2xx.
        attempt: which try it was, 1 for the first.
        seconds: how long the call took.
    """

    webhook_id: str
    status: int
    attempt: int
    seconds: float


class DeliverWebhook(Payload, family="webhooks", function="deliver_webhook", priority=3, returns=Delivered):
    """Post an event to an endpoint, signed as Standard Webhooks asks.

    Attributes:
        endpoint: URL, or the name of a registered endpoint.
        event: its type, ``order.paid``.
        payload: what happened, JSON (also accepted as ``data``).
        secret_ref: which secret of ``ARQD_WEBHOOKS__SECRETS`` signs; required with a URL, default the registered
            endpoint's.
        schedule: how failures are tried again; default the registered endpoint's, else the family's backoff.
        ordered: deliver the events of this endpoint one by one, in the order they were enqueued.
    """

    endpoint: Annotated[str, AfterValidator(_endpoint), Field(max_length=2000)]
    event: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,199}$")
    payload: Any = Field(validation_alias=AliasChoices("payload", "data"))
    secret_ref: str | None = Field(None, pattern=r"^[A-Za-z0-9_]{1,100}$")
    schedule: Schedule | None = None
    ordered: bool = False

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if "://" in self.endpoint and self.secret_ref is None:
            raise ValueError("a URL needs a secret_ref: the name of the secret that signs (ARQD_WEBHOOKS__SECRETS)")
        return self

    def group_key(self) -> str:
        """Jobs of an endpoint are a group; its ordered ones are another, of which the family runs one at a time."""
        return endpoint_group(self.endpoint, ordered=self.ordered)


class HandledEvent(PayloadModel):
    """What became of an event of Stripe's.

    Attributes:
        outcome: ``handled``; ``duplicate`` (handled before, at ``handled_at``); ``kept`` (no handler is registered for
            its type: it is stored and can be handed in again).
    """

    event_id: str
    outcome: Literal["handled", "duplicate", "kept"]
    handled_at: datetime | None = None


class ProcessStripeEvent(Payload, family="webhooks", function="process_stripe_event", priority=3, returns=HandledEvent):
    """Handle an event that Stripe has posted, once.

    Attributes:
        event_id: ``evt_…``.
        event_type: ``invoice.paid``.
        event_data: the event's ``data``.
        body: the request's body as it came, with ``signature``: they are verified by the worker.
        signature: the header ``Stripe-Signature``.
        received_at: when Stripe posted it; default when the payload is made. An outbox may enqueue it much later.
    """

    event_id: str = Field(pattern=r"^evt_[A-Za-z0-9_]{1,200}$")
    event_type: str = Field(pattern=r"^[a-z0-9_.]{1,200}$")
    event_data: dict[str, Any]
    body: str | None = None
    signature: str | None = Field(None, max_length=4000)
    received_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.body is None) != (self.signature is None):
            raise ValueError("body and signature belong together: give both or neither")
        return self


class Pruned(PayloadModel):
    """How many rows of the delivery log were removed."""

    deliveries: int


class PruneWebhooks(Payload, family="webhooks", function="prune_webhooks", priority=10, returns=Pruned):
    """Remove what is older than ``ARQD_WEBHOOKS__KEEP_DELIVERIES`` from the delivery log."""
