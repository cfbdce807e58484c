"""What the push family takes and gives. A producer needs only this module (pydantic, nothing else)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)
from pydantic_core import to_json

from daemon.payload import Payload, PayloadModel
from handlers.integrations.texts import LARGEST_PUSH_DATA, UserId, Words

__all__ = ["PushPriority", "SendPush", "SentPush"]

PushPriority = Annotated[
    Literal["HIGH", "MEDIUM", "LOW"], BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)
]


class SentPush(PayloadModel):
    """What became of a push: ``{sent_at, message_id, devices}``, or ``{skipped, reason}`` where nobody is to get it.

    Attributes:
        message_id: OneSignal's id of the message.
        devices: how many it was sent to.
        invalid: how many were found to be none; they get no more pushes. In JSON, what does not apply is left out.
    """

    sent_at: datetime | None = None
    message_id: str | None = None
    devices: int = 0
    invalid: int = 0
    skipped: bool = False
    reason: str | None = None

    @model_serializer(mode="wrap")
    def _what_applies(self, serialise: SerializerFunctionWrapHandler) -> Mapping[str, Any]:
        return {name: value for name, value in serialise(self).items() if value}


class SendPush(Payload, family="push", function="send_push", priority=2, returns=SentPush):
    """Push a message to all of a user's devices.

    Attributes:
        user_id: whose.
        title: its heading.
        message: its text.
        data: for the app, at most 2,048 bytes of JSON.
        priority: ``HIGH`` wakes a sleeping phone; ``LOW`` arrives without sound and light.
    """

    user_id: UserId
    title: Annotated[Words, Field(max_length=200)]
    message: Annotated[Words, Field(max_length=2000)]
    data: dict[str, Any] = Field(default_factory=dict)
    priority: PushPriority = "MEDIUM"

    @field_validator("data")
    @classmethod
    def _fits(cls, data: dict[str, Any]) -> dict[str, Any]:
        if len(to_json(data)) > LARGEST_PUSH_DATA:
            raise ValueError(
                f"data is at most {LARGEST_PUSH_DATA:,} bytes of JSON: send an id, and let the app ask for it"
            )
        return data
