"""What the producer accepts, refuses and sends."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from pydantic import ValidationError

from handlers.email.payloads import SendBulkEmail, SendEmail, SentEmail
from handlers.integrations.addresses import parse_mailbox
from tests.handlers.email.support import email


def test_survives_json() -> None:
    job = email(
        ["Ada <ada@example.com>", "zoë@exämple.com"],
        attachments=[{"filename": "a.bin", "content": bytes(range(256))}],
        headers={"X-Campaign": "spring"},
    )
    assert SendEmail.model_validate_json(job.model_dump_json()) == job


def test_names_of_other_systems_are_accepted() -> None:
    for name in ("context", "variables", "data"):
        given = {"to": "a@example.com", "subject": "Hi", "template": "welcome.hbs", name: {"name": "Ada"}}
        job = SendEmail.model_validate(given | {"replyTo": "b@example.com", "idempotencyKey": "k"})
        assert (job.template, job.context, job.reply_to, job.idempotency_key) == (
            "welcome",
            {"name": "Ada"},
            "b@example.com",
            "k",
        )


@pytest.mark.parametrize("variant", [base64.b64encode, base64.urlsafe_b64encode])
def test_content_is_base64_in_json_and_from_a_mapping(variant: Any) -> None:
    content = bytes(range(256))
    fields = {"to": "a@example.com", "subject": "Hi", "template": "welcome"}
    attachments = [{"filename": "a.bin", "content": variant(content).decode()}]
    job = SendEmail.model_validate(fields | {"attachments": attachments})
    assert job.attachments[0].content == content


def test_priorities_and_family() -> None:
    assert (SendEmail.__job__.family, SendEmail.__job__.function, SendEmail.__job__.priority) == (
        "email",
        "send_email",
        1,
    )
    assert (SendBulkEmail.__job__.function, SendBulkEmail.__job__.priority) == ("send_bulk_email", 7)


def test_repeated_recipients_are_dropped() -> None:
    assert email(["Ada <ada@Example.com>", "b@example.com", "ADA@example.com"]).to == (
        "Ada <ada@Example.com>",
        "b@example.com",
    )


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"to": "ada@example.com\r\nBcc: eve@example.com"}, "line breaks"),
        ({"to": "Ada\n <ada@example.com>"}, "line breaks"),
        ({"to": "ada@example.com, eve@example.com"}, "not one mail address"),
        ({"to": "ada"}, "not one mail address"),
        ({"to": "ada@"}, "not a domain name"),
        ({"to": "ada@-example.com"}, "not a domain name"),
        ({"to": "a..b@example.com"}, "not one mail address"),
        ({"to": "ada@example.com> SIZE=1"}, "not one mail address"),
        ({"to": ()}, "at least 1"),
        ({"to": [f"a{n}@example.com" for n in range(101)]}, "at most 100"),
        ({"subject": "Hi\r\nBcc: eve@example.com"}, "line breaks"),
        ({"subject": "Hi\u2028Bcc: eve@example.com"}, "line breaks"),
        ({"subject": ""}, "at least 1"),
        ({"reply_to": "a@example.com\nX: y"}, "line breaks"),
        ({"headers": {"X-A": "b\r\nBcc: eve@example.com"}}, "line breaks"),
        ({"headers": {"X-A\r\nBcc": "eve@example.com"}}, "line breaks"),
        # Text of this kind is decoded on its way into a header: to line breaks and addresses of a stranger's choice.
        ({"subject": "=?utf-8?q?Hi=0D=0ABcc=3A_eve=40example=2Ecom?="}, "write the text itself"),
        ({"to": "=?utf-8?q?x=2C_eve=40example=2Ecom=2C?= <ada@example.com>"}, "write the text itself"),
        ({"to": "=?utf-8?Q?=0D=0ABcc=3A?=@example.com"}, "write the text itself"),
        ({"reply_to": "=?ascii*en?b?DQpCY2M6IGV2ZUBleGFtcGxlLmNvbQ==?= <a@example.com>"}, "write the text itself"),
        ({"headers": {"X-A": "b =?utf-8?q?=0D=0ABcc=3A_eve=40example=2Ecom?="}}, "write the text itself"),
        (
            {"attachments": [{"filename": "=?utf-8?q?=0D=0ABcc=3A_eve=40example=2Ecom?=", "content": b""}]},
            "write the text itself",
        ),
        ({"unsubscribe_url": "https://example.com/=?utf-8?q?=0D=0ABcc=3A?="}, "write the text itself"),
        ({"headers": {"X A": "b"}}, "header's name"),
        ({"headers": {"BCC": "eve@example.com"}}, "written by arqd"),
        ({"headers": {"Content-Type": "text/plain"}}, "written by arqd"),
        ({"headers": {"Resent-To": "eve@example.com"}}, "written by arqd"),
        ({"headers": {"X-A": "b", "x-a": "c"}}, "given twice"),
        ({"template": "../../etc/passwd"}, "template is named"),
        ({"template": "welcome.txt"}, "template is named"),
        ({"template": "/etc/passwd"}, "template is named"),
        ({"lang": "../fr"}, "pattern"),
        ({"attachments": [{"filename": "../a", "content": b""}]}, "without folders"),
        ({"attachments": [{"filename": "a"}]}, "either content or a path"),
        ({"attachments": [{"filename": "a", "content": b"", "path": "b"}]}, "either content or a path"),
        ({"attachments": [{"filename": "a", "content": "%"}]}, "base64"),
        ({"marketing": True, "to": ["a@example.com", "b@example.com"]}, "send_bulk_email"),
        ({"unsubscribe_url": "http://example.com"}, "https://"),
        ({"unsubscribe_url": "https://example.com/>, <x"}, "no spaces"),
        ({"cc": "eve@example.com"}, "not permitted"),
    ],
)
def test_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told) as caught:
        SendEmail.model_validate({"to": "a@example.com", "subject": "Hi", "template": "welcome"} | fields)
    assert "eve@" not in str(caught.value), "errors do not quote what was given"


def test_bulk_tells_of_the_first_recipient_that_is_none() -> None:
    with pytest.raises(ValidationError, match="this is not one mail address") as caught:
        SendBulkEmail(to=["a@example.com", *["nobody"] * 1000], subject="Hi", template="campaign")
    assert [each["loc"] for each in caught.value.errors()] == [("to", 1)]


def test_bulk_attaches_by_path() -> None:
    with pytest.raises(ValidationError, match="by path"):
        SendBulkEmail(
            to="a@example.com", subject="Hi", template="campaign", attachments=[{"filename": "a", "content": b""}]
        )


def test_international_domain_travels_in_ascii() -> None:
    assert parse_mailbox("Zoë <zoë@EXÄMPLE.com>").address == "zoë@xn--exmple-cua.com"
    assert parse_mailbox('"Doe, John \\"JD\\"" <j@example.com>').name == 'Doe, John "JD"'


def test_result_leaves_out_what_does_not_apply() -> None:
    skipped = SentEmail(skipped=True, reason="sent before")
    assert skipped.model_dump_json() == '{"skipped":true,"reason":"sent before"}'
    assert SentEmail.model_validate_json(skipped.model_dump_json()) == skipped
