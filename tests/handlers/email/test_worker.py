"""The family's settings, what it opens at start, and the spool folder."""

from __future__ import annotations

import subprocess
import sys
from email import message_from_bytes, policy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from redis.asyncio import Redis

from daemon.errors import ConfigurationError, PermanentError
from daemon.family import RateLimit, load_family
from daemon.retry import Exponential
from handlers.email.payloads import SentEmail
from handlers.email.settings import EmailSettings
from handlers.email.tasks import send_email
from handlers.email.worker import WorkerSettings, close_mail, open_mail
from handlers.integrations.mail import SpoolSink
from handlers.integrations.smtp import SmtpPool
from handlers.integrations.smtp_settings import SmtpSettings
from tests.handlers.email.support import Context, email


def settings(email: EmailSettings | None = None, smtp: SmtpSettings | None = None) -> SimpleNamespace:
    return SimpleNamespace(email=email or EmailSettings(), smtp=smtp or SmtpSettings())


def test_values_of_the_family() -> None:
    family = load_family(WorkerSettings)
    values = family.values
    assert (family.name, values.max_jobs, values.max_tries, values.job_timeout, values.priority) == (
        "email",
        10,
        5,
        30,
        1,
    )
    assert values.rate_limit == RateLimit(100, per=1)
    assert values.backoff == Exponential(3)
    assert {name: function.timeout for name, function in family.functions.items()} == {
        "send_email": None,
        "send_bulk_email": 300,
    }


async def test_without_settings_messages_go_to_the_spool_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis: Redis
) -> None:
    monkeypatch.chdir(tmp_path)
    base: dict[Any, Any] = {}
    await open_mail(base)
    result = await send_email(Context(redis, **base), email(["Ada <ada@example.com>", "bob@example.com"]))
    await close_mail(base)
    (file,) = (tmp_path / "var/spool/email").iterdir()
    assert file.suffix == ".eml"
    assert file.stat().st_mode & 0o777 == 0o600
    message = message_from_bytes(file.read_bytes(), policy=policy.default)
    assert message["Message-ID"] == result.message_id
    assert message["X-Envelope-From"] == "arqd@localhost"
    assert message["X-Envelope-To"] == "ada@example.com, bob@example.com"


async def test_the_spool_folder_refuses_a_domain_that_cannot_be(tmp_path: Path, redis: Redis) -> None:
    base: dict[Any, Any] = {"settings": settings(EmailSettings(spool_dir=tmp_path / "spool"))}
    await open_mail(base)
    with pytest.raises(PermanentError, match=r"550 5\.1\.2 .*\.invalid"):
        await send_email(Context(redis, "a", **base), email("nobody@example.invalid"))
    assert not (tmp_path / "spool").exists()
    both: SentEmail = await send_email(Context(redis, "b", **base), email(["a@example.com", "b@x.invalid"]))
    assert [refused.recipient for refused in both.refused] == ["b@x.invalid"]


async def test_transport_follows_the_settings() -> None:
    base: dict[Any, Any] = {"settings": settings(EmailSettings(sender="a@example.org"), SmtpSettings(host="localhost"))}
    await open_mail(base)
    assert isinstance(base["mail"].transport, SmtpPool)
    await close_mail(base)
    base = {"settings": settings()}
    await open_mail(base)
    assert isinstance(base["mail"].transport, SpoolSink)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (settings(smtp=SmtpSettings(host="localhost")), "ARQD_EMAIL__SENDER is not set"),
        (settings(EmailSettings(template_dirs="/nowhere")), "TEMPLATE_DIRS"),
        (
            settings(EmailSettings(sender="a@example.org"), SmtpSettings(host="h", ca_file="/nowhere.pem")),
            "ARQD_SMTP__CA_FILE",
        ),
    ],
)
async def test_start_is_refused(given: SimpleNamespace, told: str) -> None:
    base: dict[Any, Any] = {"settings": given}
    with pytest.raises(ConfigurationError, match=told):
        await open_mail(base)
    await close_mail(base)


@pytest.mark.parametrize(
    ("model", "fields", "told"),
    [
        (EmailSettings, {"sender": "not an address"}, "not one mail address"),
        (EmailSettings, {"sender": "zoë@example.org"}, "ASCII"),
        (EmailSettings, {"unsubscribe_url": "http://example.org"}, "https"),
        (EmailSettings, {"max_message": "1KB"}, "greater than"),
        (SmtpSettings, {"host": "h", "username": "u"}, "belong together"),
        (SmtpSettings, {"host": "h", "tls": "ssl"}, "starttls"),
    ],
)
def test_settings_are_checked(model: type[BaseModel], fields: dict[str, str], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        model(**fields)


def test_settings_as_an_environment_writes_them() -> None:
    made = EmailSettings.model_validate({"template_dirs": "/a:/b", "max_message": "25MB"})
    assert made.template_dirs == (Path("/a"), Path("/b"))
    assert made.max_message == 25_000_000


def test_settings_and_payloads_pull_in_no_mail_library() -> None:
    code = (
        "import sys, handlers.email.payloads, handlers.email.settings, handlers.integrations.smtp_settings;"
        "print([name for name in ('jinja2', 'aiosmtplib', 'dkim', 'css_inline') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
