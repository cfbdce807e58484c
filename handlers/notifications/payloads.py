"""What the notifications family takes and gives. A producer needs only this module (pydantic, nothing else)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AliasChoices,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from daemon.payload import Payload, PayloadModel
from handlers.integrations.addresses import one_line
from handlers.integrations.texts import LINKS, UserId, Words, scheme_of

__all__ = ["HandedOver", "Notified", "NotifyUser"]


class HandedOver(PayloadModel):
    """What became of a notification by one channel: the job that sends it, or why none does.

    Attributes:
        job_id: of the push or the mail, ``push:notify-…``.
        run_at: when it runs, where the user has quiet hours.
        skipped: why there is none. In JSON, what does not apply is left out.
    """

    job_id: str | None = None
    run_at: datetime | None = None
    skipped: str | None = None

    @model_serializer(mode="wrap")
    def _what_applies(self, serialise: SerializerFunctionWrapHandler) -> Mapping[str, Any]:
        return {name: value for name, value in serialise(self).items() if value}


class Notified(PayloadModel):
    """A notification that is stored; a repetition gets the same.

    Attributes:
        notification_id: its id in the user's list.
        existed: it was stored before.
        push, email: what became of it there.
    """

    notification_id: str
    existed: bool
    push: HandedOver
    email: HandedOver


class NotifyUser(Payload, family="notifications", function="notify_user", priority=3, returns=Notified):
    """Tell a user something: in the app, and by push and mail as they want it.

    Attributes:
        user_id: whom.
        type: ``info``, ``warning``, ``error``, ``success`` or the name of an event; users may mute it.
        title: one line; also the subject of the mail.
        body: the text, without markup (also accepted as ``message``).
        metadata: for the app; ``action_url`` (http, https or mailto) and ``action_text`` are a button in the mail.
        urgent: send it in quiet hours, too, and wake the phone.
        idempotency_key: notifications of a user with the same key are one; default the job's id.
    """

    user_id: UserId
    type: str = Field("info", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,99}$")
    title: Annotated[Words, AfterValidator(one_line), Field(max_length=200)]
    body: Annotated[Words, Field(max_length=10_000)] = Field(validation_alias=AliasChoices("body", "message"))
    metadata: dict[str, Any] = Field(default_factory=dict)
    urgent: bool = False
    idempotency_key: str | None = Field(None, min_length=1, max_length=500)

    @field_validator("metadata")
    @classmethod
    def _leads_somewhere(cls, metadata: dict[str, Any]) -> dict[str, Any]:
        url = metadata.get("action_url")
        if url and not (isinstance(url, str) and scheme_of(url) in LINKS):
            raise ValueError("action_url is a link that begins with http://, https:// or mailto:")
        return metadata
