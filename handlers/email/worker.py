"""The email family: its functions, limits and retry policy, and the transport it opens."""

from __future__ import annotations

from typing import Any

from daemon.errors import ConfigurationError
from daemon.family import Exponential, FamilySettings, RateLimit, func
from handlers.email.message import Composer
from handlers.email.settings import EmailSettings
from handlers.email.tasks import MailService, send_bulk_email, send_email
from handlers.integrations.mail import MailTransport, SpoolSink
from handlers.integrations.smtp import SmtpPool
from handlers.integrations.smtp_settings import SmtpSettings

#: The sender where nobody but the developer sees the message.
SPOOL_SENDER = "arqd@localhost"


async def open_mail(ctx: dict[Any, Any]) -> None:
    """Open the transport the settings ask for: the mail server, or without one the spool folder.

    Raises:
        ConfigurationError: no sender for the mail server, or something the settings name is missing.
    """
    settings = ctx.get("settings")
    email = EmailSettings() if settings is None else settings.email
    smtp = SmtpSettings() if settings is None else settings.smtp
    sender = email.sender
    transport: MailTransport
    if smtp.host is None:
        transport = SpoolSink(email.spool_dir)
        sender = sender or SPOOL_SENDER
    else:
        if sender is None:
            raise ConfigurationError("ARQD_EMAIL__SENDER is not set: messages to a mail server need a sender of yours")
        try:
            transport = SmtpPool(smtp)
        except OSError as error:
            raise ConfigurationError(f"ARQD_SMTP__CA_FILE: cannot use {smtp.ca_file}: {error}") from None
    ctx["mail"] = MailService(Composer(email, sender), transport)


async def close_mail(ctx: dict[Any, Any]) -> None:
    """Close the transport."""
    if "mail" in ctx:
        await ctx["mail"].transport.close()


class WorkerSettings(FamilySettings):
    """See docs/families/email.md."""

    family = "email"
    functions = (send_email, func(send_bulk_email, timeout=300))
    max_jobs = 10
    rate_limit = RateLimit(100, per=1)
    max_tries = 5
    backoff = Exponential(base=3)
    job_timeout = 30
    priority = 1
    on_startup = open_mail
    on_shutdown = close_mail
