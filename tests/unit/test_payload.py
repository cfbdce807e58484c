"""Payload classes: where a job goes, and how strict its fields are."""

from __future__ import annotations

import base64

import pytest
from pydantic import SecretStr, ValidationError

from daemon.payload import Payload, PayloadModel, PayloadSpec


class Sent(PayloadModel):
    at: str


class Address(PayloadModel):
    street_name: str


class SendEmail(Payload, family="email", priority="high", returns=Sent):
    reply_to: str
    body: bytes = b""
    home: Address | None = None


def test_a_payload_class_says_where_its_jobs_go() -> None:
    assert SendEmail.__job__ == PayloadSpec("email", "send_email", 3, Sent)


def test_a_subclass_inherits_all_but_the_function() -> None:
    class SendBulkEmail(SendEmail, priority=9):
        pass

    class Other(Payload, family="email", function="named"):
        pass

    assert SendBulkEmail.__job__ == PayloadSpec("email", "send_bulk_email", 9, Sent)
    assert Other.__job__.function == "named"


def test_a_class_without_a_usable_family_or_priority_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="NoFamily names no family"):

        class NoFamily(Payload):
            pass

    with pytest.raises(TypeError, match=r"must match \[a-z0-9_-\]\+"):

        class BadFamily(Payload, family="E mail"):
            pass

    with pytest.raises(Exception, match="'soon' is not a level"):

        class BadPriority(Payload, family="email", priority="soon"):
            pass


def test_unknown_fields_are_refused_and_camel_case_is_understood() -> None:
    mail = SendEmail.model_validate({"replyTo": "a@example.com", "home": {"streetName": "High Street"}})
    assert mail == SendEmail(reply_to="a@example.com", home=Address(street_name="High Street"))
    assert "reply_to" in mail.model_dump_json()
    with pytest.raises(ValidationError, match="extra_forbidden"):
        SendEmail.model_validate({"reply_to": "a@example.com", "bcc": "x"})
    with pytest.raises(ValidationError, match="extra_forbidden"):
        SendEmail.model_validate({"reply_to": "a@example.com", "home": {"streetName": "x", "more": 1}})


def test_a_validation_error_does_not_quote_the_input() -> None:
    with pytest.raises(ValidationError) as caught:
        SendEmail.model_validate({"reply_to": ["private@example.com"], "body": 17, "home": {"streetName": 4711}})
    assert "reply_to" in str(caught.value)
    assert "private" not in str(caught.value)
    assert "4711" not in str(caught.value)


def test_bytes_are_base64_both_ways() -> None:
    mail = SendEmail(reply_to="a@example.com", body=b"\x00\xff")
    written = mail.model_dump_json()
    assert base64.urlsafe_b64encode(b"\x00\xff").decode() in written
    assert SendEmail.model_validate_json(written) == mail


def test_a_payload_cannot_be_changed() -> None:
    mail = SendEmail(reply_to="a@example.com")
    with pytest.raises(ValidationError, match="frozen"):
        mail.reply_to = "b@example.com"  # type: ignore[misc]


def test_of_pydantics_own_secret_types_only_asterisks_would_travel() -> None:
    with pytest.raises(TypeError, match=r"WithSecret.token: .* write Secret\[str\]"):

        class WithSecret(Payload, family="email"):
            token: SecretStr
