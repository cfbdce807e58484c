"""What a finished message looks like: headers, parts, attachments, signature."""

from __future__ import annotations

import base64
import os
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from daemon.errors import ConfigurationError, PermanentError
from handlers.email.message import Composer, read_confined
from handlers.email.payloads import Attachment, SendEmail
from handlers.email.settings import DkimSettings, EmailSettings
from tests.handlers.email.support import email, pem, private_key

SENDER = "Boutique d’Été <shop@example.org>"


def composed(job: SendEmail, **settings: Any) -> tuple[EmailMessage, bytes]:
    composer = Composer(EmailSettings(**settings), SENDER)
    data = composer.compose(job, composer.message_id("key")).data
    parsed = message_from_bytes(data, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed, data


def test_headers_and_parts() -> None:
    job = email(
        ["Doe, Jane <jane@example.com>", "zoe@exämple.com"],
        subject="Été — " + " très long" * 20,
        reply_to="Aide <help@example.org>",
        headers={"X-Campaign": "été"},
    )
    message, data = composed(job)
    assert message["From"].addresses[0].display_name == "Boutique d’Été"
    assert [each.addr_spec for each in message["To"].addresses] == ["jane@example.com", "zoe@xn--exmple-cua.com"]
    assert message["To"].addresses[0].display_name == "Doe, Jane"
    assert message["Subject"] == job.subject
    assert message["Reply-To"].addresses[0].addr_spec == "help@example.org"
    assert message["X-Campaign"] == "été"
    assert message["Date"].datetime.tzinfo is not None
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert data.isascii()
    assert b"\n" not in data.replace(b"\r\n", b"")
    assert max(map(len, data.split(b"\r\n"))) <= 998


@pytest.mark.parametrize("breaking", ["=?utf-8?q?a=0D=0ABcc=3A_eve=40example=2Ecom=0D=0A=0D=0Abody?=", "a\r\nBcc: b"])
def test_no_field_begins_another_one(breaking: str) -> None:
    """Whatever comes past the checks of a payload, and whatever the library makes of it."""
    for fields in (
        {"subject": breaking},
        {"to": (f"{breaking} <ada@example.com>",)},
        {"headers": {"X-A": breaking}},
        {"attachments": (Attachment.model_construct(filename=breaking, content=b"", path=None),)},
    ):
        job = email("ada@example.com").model_copy(update=fields)
        with pytest.raises((PermanentError, ValueError)):
            composed(job)


def test_long_words_of_ascii_stay_as_they_are() -> None:
    """Nobody decodes what is a link or an id: mail programs would find no address to unsubscribe at."""
    url = f"https://shop.example/unsubscribe?token={'a1B2' * 100}"
    threads = f"<{'a' * 80}@example.com> <{'b' * 80}@example.com>"
    job = email(template="campaign", context={"message": "m"}, marketing=True, unsubscribe_url=url)
    job = job.model_copy(update={"headers": {"References": threads, "X-Options": "x" * 1500, "X-Words": "word " * 60}})
    message, data = composed(job, unsubscribe_mailto="leave@example.org")
    lines = data.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert f"List-Unsubscribe: <{url}>,".encode() in lines
    assert f" <{'b' * 80}@example.com>".encode() in lines
    assert message["X-Options"] == "x" * 1500
    assert message["References"].split() == threads.split()
    assert message["X-Words"].split() == ["word"] * 60
    assert max(map(len, lines)) <= 998
    assert max(len(line) for line in lines if b"word" in line) <= 78


def test_message_id_is_stable_and_of_the_senders_domain() -> None:
    first, second = (Composer(EmailSettings(), SENDER) for _ in range(2))
    assert first.message_id("a") == second.message_id("a") != first.message_id("b")
    assert first.message_id("a").endswith("@example.org>")


def test_answers_go_where_the_operator_says() -> None:
    message, _ = composed(email(), reply_to="help@example.org")
    assert message["Reply-To"] == "help@example.org"


def test_international_local_part_asks_for_smtputf8() -> None:
    composer = Composer(EmailSettings(), SENDER)
    assert composer.compose(email("ada@exämple.com"), "<a@b>").utf8 is False
    made = composer.compose(email("zoë@example.com"), "<a@b>")
    assert made.utf8 is True
    assert "zoë@example.com".encode() in made.data


def test_marketing_can_be_left_with_one_click() -> None:
    job = email("Ada <ada+x@example.com>", template="campaign", context={"message": "m"}, marketing=True)
    url = "https://example.org/u?to={recipient}"
    message, _ = composed(job, unsubscribe_url=url, unsubscribe_mailto="leave@example.org")
    one = "https://example.org/u?to=ada%2Bx%40example.com"
    assert message["List-Unsubscribe"] == f"<{one}>, <mailto:leave@example.org?subject=unsubscribe>"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    text = message.get_body(("plain",))
    assert text is not None
    assert one in text.get_content()


@pytest.mark.parametrize(
    ("filename", "kind"),
    [
        ("sales.csv.gz", "application/gzip"),
        ("logs.tar.xz", "application/x-xz"),
        ("a.pdf", "application/pdf"),
        ("a.eml", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_type_of_an_attachment(filename: str, kind: str) -> None:
    message, _ = composed(email(attachments=[{"filename": filename, "content": b"x"}]))
    (attached,) = message.iter_attachments()
    assert attached.get_content_type() == kind


def test_jobs_unsubscribe_url_wins() -> None:
    job = email(template="campaign", context={"message": "m"}, marketing=True, unsubscribe_url="https://a.example/t")
    assert composed(job, unsubscribe_url="https://b.example/")[0]["List-Unsubscribe"] == "<https://a.example/t>"


def test_marketing_without_a_way_out_is_refused() -> None:
    with pytest.raises(PermanentError, match="unsubscribe_url"):
        composed(email(marketing=True))


def test_attachments(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "may.csv").write_bytes(b"a,b\r\n1,2\n")
    job = email(
        attachments=[
            {"filename": "éclair.png", "content": b"\x89PNG"},
            {"filename": "may.csv", "path": "reports/may.csv"},
            {"filename": "full.csv", "path": str(tmp_path / "reports" / "may.csv")},
            {"filename": "mail.eml", "content": b"Subject: x\r\n\r\n"},
        ]
    )
    message, data = composed(job, attachment_dirs=[tmp_path])
    assert message.get_content_type() == "multipart/mixed"
    parts = list(message.iter_attachments())
    assert [(part.get_filename(), part.get_content_type()) for part in parts] == [
        ("éclair.png", "image/png"),
        ("may.csv", "text/csv"),
        ("full.csv", "text/csv"),
        ("mail.eml", "application/octet-stream"),
    ]
    assert parts[0].get_content() == b"\x89PNG"
    assert parts[1].get_payload(decode=True) == b"a,b\r\n1,2\n", "bytes arrive as they are"
    assert data.isascii()


def test_paths_stay_inside_the_folders(tmp_path: Path) -> None:
    allowed, secret = tmp_path / "allowed", tmp_path / "secret.txt"
    allowed.mkdir()
    secret.write_text("secret")
    (allowed / "link").symlink_to(secret)
    (tmp_path / "allowed-too").mkdir()
    (tmp_path / "allowed-too" / "a").write_text("a")
    (allowed / "folder").mkdir()
    os.mkfifo(allowed / "pipe")
    for path in ("../secret.txt", str(secret), "link", "/etc/passwd", str(tmp_path / "allowed-too" / "a")):
        with pytest.raises(PermanentError, match="not inside an allowed folder"):
            read_confined(path, [allowed], 100)
    for path in ("folder", "pipe"):
        with pytest.raises((PermanentError, OSError)):
            read_confined(path, [allowed], 100)
    with pytest.raises(PermanentError, match="not inside"):
        read_confined(str(secret), [], 100)
    with pytest.raises(FileNotFoundError, match="yet"):
        read_confined("later.pdf", [allowed], 100)


def test_limit_counts_everything(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 20_000)
    for attachment in ({"path": "big"}, {"content": b"x" * 20_000}, {"content": b"x" * 9_000}):
        with pytest.raises(PermanentError, match="limit"):
            composed(
                email(attachments=[{"filename": "big", **attachment}]), attachment_dirs=[tmp_path], max_message=10_000
            )


def dns_record(key: Any) -> bytes:
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)


def test_signature_holds_and_covers_what_matters(tmp_path: Path) -> None:
    key = private_key()
    file = tmp_path / "dkim.pem"
    file.write_bytes(pem(key))
    job = email(
        template="campaign",
        context={"message": "é" * 500},
        marketing=True,
        unsubscribe_url="https://example.org/u",
        attachments=[{"filename": "a.txt", "content": b"line\nline\r\n.\n"}],
    )
    _, data = composed(job, dkim={"selector": "s1", "key_file": file})
    asked: list[bytes] = []

    def dns(name: bytes, timeout: float = 5) -> bytes:
        asked.append(name)
        return dns_record(key)

    assert dkim.verify(data, dnsfunc=dns)
    assert asked == [b"s1._domainkey.example.org."]
    assert not dkim.verify(data.replace(b"Subject: Hi", b"Subject: Ho"), dnsfunc=dns)
    assert not dkim.verify(b"Subject: Second\r\n" + data, dnsfunc=dns)
    forged = data.replace(b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n", b"")
    assert forged != data
    assert not dkim.verify(forged, dnsfunc=dns)


def test_wrong_key_is_told_at_start_without_quoting_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not an RSA private key") as caught:
        Composer(EmailSettings(dkim=DkimSettings(selector="s", key="not-a-key")), SENDER)
    assert "not-a-key" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="KEY_FILE"):
        Composer(EmailSettings(dkim=DkimSettings(selector="s", key_file=tmp_path / "none")), SENDER)


@pytest.mark.parametrize("fields", [{"selector": "s"}, {"key": "k"}, {"selector": "s", "key": "k", "key_file": "f"}])
def test_incomplete_dkim_settings(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="both"):
        DkimSettings(**fields)
