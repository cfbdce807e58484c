"""What the email family takes and gives. A producer needs only this module (pydantic, nothing else)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    FailFast,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from daemon.payload import Payload, PayloadModel
from handlers.email.settings import https_url
from handlers.integrations.addresses import Address, OneLine, one_line, parse_mailbox

__all__ = ["Attachment", "BulkEmail", "RefusedRecipient", "SendBulkEmail", "SendEmail", "SentEmail"]

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,76}")
_TEMPLATE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_SUFFIX = re.compile(r"\.(hbs|html)\Z")
# Fields of ours, and those that would send the message elsewhere, forge its way or change how its body is read.
_OWN_HEADERS = {
    *("from", "sender", "to", "cc", "bcc", "reply-to", "subject", "date", "message-id", "mime-version"),
    *("dkim-signature", "return-path", "received", "delivered-to", "list-unsubscribe", "list-unsubscribe-post"),
}
_OWN_PREFIXES = ("content-", "resent-", "arc-", "x-envelope-")


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _distinct(addresses: tuple[str, ...]) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for address in addresses:
        found.setdefault(parse_mailbox(address).identity, address)
    return tuple(found.values())


def _from_base64(value: Any) -> Any:
    """Take text for base64 wherever it comes from: pydantic alone would do so in JSON only."""
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode("".join(value.split()).translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("content is bytes, in JSON as base64") from None


def _template_name(value: str) -> str:
    name = _SUFFIX.sub("", value)
    if not _TEMPLATE.fullmatch(name):
        raise ValueError("a template is named by letters, digits, - and _; folders and other suffixes are not allowed")
    return name


class Attachment(PayloadModel):
    """A file that goes with the message: its bytes, or its path inside a folder the operator allows."""

    filename: Annotated[OneLine, Field(min_length=1, max_length=255)]
    content: Annotated[bytes, BeforeValidator(_from_base64)] | None = None
    path: str | None = Field(None, min_length=1, max_length=4096)

    @field_validator("filename")
    @classmethod
    def _no_folder(cls, name: str) -> str:
        if "/" in name or "\\" in name:
            raise ValueError("filename is a name without folders")
        return name

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.content is None) == (self.path is None):
            raise ValueError("an attachment has either content or a path")
        return self


class _Email(PayloadModel):
    """What a single and a bulk message have in common.

    Attributes:
        subject: one line.
        template: a template's name; a ``.hbs`` or ``.html`` suffix is ignored.
        context: the template's variables (also accepted as ``variables`` or ``data``).
        lang: ``en``, ``fr`` or any language tag; one without templates falls back to the base template (English).
        attachments: files that go with it.
        reply_to: where answers go; default the operator's setting.
        headers: further header fields; those arqd writes itself are refused.
        marketing: add ``List-Unsubscribe`` with its one-click form.
        unsubscribe_url: https address for it, default the operator's setting; ``{recipient}`` in it becomes the
            recipient's address.
        idempotency_key: messages with the same key are one message, sent to each recipient once in 30 days; default
            the job's id, so use no id twice for two messages.
    """

    subject: Annotated[OneLine, Field(min_length=1, max_length=500)]
    template: Annotated[str, AfterValidator(_template_name)]
    context: dict[str, Any] = Field(default_factory=dict, validation_alias=AliasChoices("context", "variables", "data"))
    lang: str = Field("en", max_length=35, pattern=r"^[A-Za-z]{1,8}([-_][A-Za-z0-9]{1,8})*$")
    attachments: tuple[Attachment, ...] = Field((), max_length=50)
    reply_to: Address | None = None
    headers: dict[str, OneLine] = Field(default_factory=dict, max_length=50)
    marketing: bool = False
    unsubscribe_url: Annotated[str, AfterValidator(https_url)] | None = Field(None, max_length=900)
    idempotency_key: str | None = Field(None, min_length=1, max_length=500)

    @field_validator("headers")
    @classmethod
    def _may_be_set(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(one_line(name)):
                raise ValueError("a header's name is letters, digits and -")
            if name.lower() in _OWN_HEADERS or name.lower().startswith(_OWN_PREFIXES):
                raise ValueError(f"the header {name} is written by arqd; use the field for it, if there is one")
            if len(value) > 2000:
                raise ValueError(f"the header {name} is longer than 2,000 characters")
        if len({name.lower() for name in headers}) < len(headers):
            raise ValueError("a header is given twice")
        return headers


class RefusedRecipient(PayloadModel):
    """A recipient the mail server refused for good, with its reply."""

    recipient: str
    code: int
    reply: str


class SentEmail(PayloadModel):
    """What became of a message: ``{sent_at, message_id}``, or ``{skipped, reason}`` when it was sent before.

    ``refused`` lists recipients that were refused for good while others were accepted. In JSON, what does not
    apply is left out.
    """

    sent_at: datetime | None = None
    message_id: str | None = None
    skipped: bool = False
    reason: str | None = None
    refused: tuple[RefusedRecipient, ...] = ()

    @model_serializer(mode="wrap")
    def _what_applies(self, serialise: SerializerFunctionWrapHandler) -> Mapping[str, Any]:
        return {name: value for name, value in serialise(self).items() if value}


class BulkEmail(PayloadModel):
    """What a fan-out did: distinct ``recipients``, jobs newly ``enqueued``, jobs that ``existed`` already."""

    recipients: int
    enqueued: int
    existed: int


class SendEmail(_Email, Payload, family="email", function="send_email", priority=1, returns=SentEmail):
    """One message to one recipient or to several, who all see each other's address.

    Attributes:
        to: one address or up to 100; ``ada@example.com`` or ``Ada <ada@example.com>``. Repeated ones are dropped.
    """

    to: Annotated[
        tuple[Address, ...],
        BeforeValidator(_one_or_many),
        AfterValidator(_distinct),
        Field(min_length=1, max_length=100),
    ]

    @model_validator(mode="after")
    def _one_unsubscribes(self) -> Self:
        if self.marketing and len(self.to) > 1:
            raise ValueError("a marketing message goes to one recipient, who can unsubscribe: use send_bulk_email")
        return self


class SendBulkEmail(_Email, Payload, family="email", function="send_bulk_email", priority=7, returns=BulkEmail):
    """The same message for many recipients, each in a ``send_email`` job of its own at priority 7.

    Attributes:
        to: one address or many, as many as fit in a payload. Repeated ones are dropped.
        attachments: by path only.
    """

    to: Annotated[
        tuple[Address, ...],
        # Of the first that is none: a list of 100,000 of them made an error of 20 MB.
        FailFast(),
        BeforeValidator(_one_or_many),
        AfterValidator(_distinct),
        Field(min_length=1),
    ]

    @field_validator("attachments")
    @classmethod
    def _by_path(cls, attachments: tuple[Attachment, ...]) -> tuple[Attachment, ...]:
        if any(attachment.path is None for attachment in attachments):
            raise ValueError("a bulk message attaches files by path: content would be stored once for each recipient")
        return attachments
