"""Mail by SMTP: a bounded pool of connections that are used again."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPException,
    SMTPRecipientRefused,
    SMTPResponseException,
)

from handlers.integrations.mail import MailRefused, MailUnavailable, Reply
from handlers.integrations.smtp_settings import SmtpSettings

logger = logging.getLogger("arqd.smtp")

# What a lost or failing conversation raises; aiosmtplib lets some of asyncio's own errors through.
LOST = (SMTPException, OSError, TimeoutError, ssl.SSLError)
# The server wants AUTH, another AUTH or TLS first: a matter of settings, which heals when they are mended.
SETTINGS_REPLIES = frozenset({530, 534, 535, 538})
# RFC 5321, 4.5.3.1.10: to RCPT a 552 means "too many recipients now" (or a full mailbox): try again later.
TRY_LATER = {552: 452}
_ADDRESS = re.compile(r"<?[^\s<>()\[\]\"',;:]+@[^\s<>()\[\]\"',;:]+>?")


class SmtpPool:
    """Connections to one mail server.

    At most ``pool_size`` are open. One that was used before is checked with RSET, which also clears what an
    earlier conversation left; when it has gone stale, the message goes over a new one.

    Args:
        settings: with a host.

    Raises:
        OSError: the file of authorities cannot be read.
    """

    def __init__(self, settings: SmtpSettings) -> None:
        assert settings.host is not None
        self.settings = settings
        self.where = f"{settings.host}:{settings.effective_port}"
        self._slots = asyncio.Semaphore(settings.pool_size)
        self._idle: list[SMTP] = []
        self._closed = False
        self._tls = None if settings.tls == "none" else _tls_context(settings)

    async def send(
        self, sender: str, recipients: Sequence[str], message: bytes, *, utf8: bool = False
    ) -> Mapping[str, Reply]:
        """Hand one message over; see `MailTransport.send`.

        A reply that asks for other settings (530, 534, 535, 538) raises `MailUnavailable`: it heals when the
        operator mends them, and the messages should then still be there.
        """
        async with self._connection() as smtp:
            try:
                return await self._converse(smtp, sender, recipients, message, utf8)
            except SMTPResponseException as error:
                raise self._refused(error) from None
            except LOST as error:
                raise MailUnavailable(f"lost the mail server {self.where}: {_text(error)}") from error

    async def check(self) -> None:
        """Connect, with TLS and AUTH as set, and hang up.

        Raises:
            MailUnavailable: telling what went wrong.
        """
        async with self._connection():
            pass

    async def close(self) -> None:
        """Say goodbye on every idle connection; one in use is closed when its message is done."""
        self._closed = True
        idle, self._idle = self._idle, []
        for smtp in idle:
            with suppress(*LOST):
                await smtp.quit(timeout=2)
            smtp.close()

    # ------------------------------------------------------------------ connections

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[SMTP]:
        """Lend a connection that answers. It comes back only after a conversation that ended in order."""
        async with self._slots:
            smtp = await self._checked_idle() or await self._connect()
            try:
                yield smtp
            except MailRefused:
                self._give_back(smtp)
                raise
            except BaseException:
                # Cancelled or broken in mid-conversation: the next reply would be taken for another command's.
                smtp.close()
                raise
            self._give_back(smtp)

    def _give_back(self, smtp: SMTP) -> None:
        if self._closed or not smtp.is_connected:
            smtp.close()
        else:
            self._idle.append(smtp)

    async def _checked_idle(self) -> SMTP | None:
        while self._idle:
            # The one used last is the least likely to have gone stale.
            smtp = self._idle.pop()
            try:
                await smtp.rset()
            except LOST:
                logger.debug("a connection to %s had gone stale", self.where)
                smtp.close()
            except BaseException:
                smtp.close()
                raise
            else:
                return smtp
        return None

    async def _connect(self) -> SMTP:
        settings = self.settings
        smtp = SMTP(
            hostname=settings.host,
            port=settings.effective_port,
            local_hostname=settings.local_hostname,
            timeout=settings.timeout,
            use_tls=settings.tls == "tls",
            start_tls=settings.tls == "starttls",
            tls_context=self._tls,
        )
        try:
            await smtp.connect()
            if smtp.is_ehlo_or_helo_needed:
                await smtp.ehlo()
            if settings.username and settings.password:
                await smtp.login(settings.username, settings.password.get_secret_value())
        except SMTPAuthenticationError as error:
            smtp.close()
            told = f"the mail server {self.where} refuses the login of {settings.username!r}: {_text(error)}"
            raise MailUnavailable(told) from None
        except LOST as error:
            smtp.close()
            hint = ""
            if settings.tls == "starttls" and "STARTTLS" in str(error):
                hint = "; set tls to tls or none if that is what it offers"
            raise MailUnavailable(f"cannot use the mail server {self.where}: {_text(error)}{hint}") from error
        except BaseException:
            smtp.close()
            raise
        return smtp

    # ------------------------------------------------------------------ one message

    async def _converse(
        self, smtp: SMTP, sender: str, recipients: Sequence[str], message: bytes, utf8: bool
    ) -> dict[str, Reply]:
        options, encoding = [], "ascii"
        refused: dict[str, Reply] = {}
        if utf8:
            if not smtp.supports_extension("smtputf8"):
                raise MailRefused(Reply(553, "5.6.7 this mail server takes no internationalised addresses (SMTPUTF8)"))
            options, encoding = ["SMTPUTF8", "BODY=8BITMIME"], "utf-8"
        if smtp.supports_extension("size"):
            options.append(f"SIZE={len(message)}")
        await smtp.mail(sender, options=options, encoding=encoding)
        for recipient in recipients:
            try:
                await smtp.rcpt(recipient, encoding=encoding)
            except SMTPRecipientRefused as error:
                if error.code in SETTINGS_REPLIES or not smtp.is_connected:
                    raise
                refused[recipient] = Reply(TRY_LATER.get(error.code, error.code), _text(error))
        if len(refused) < len(recipients):
            # Its end is answered when the message has been through the server's filters, which may take minutes (RFC
            # 5321, 4.5.3.2.6). Whoever hangs up before, sends it again: only the job's own time ends this step.
            await smtp.data(message, timeout=None)
        return refused

    def _refused(self, error: SMTPResponseException) -> MailRefused | MailUnavailable:
        if error.code in SETTINGS_REPLIES or error.code < 400:
            return MailUnavailable(f"the mail server {self.where} wants other settings: {error.code} {_text(error)}")
        return MailRefused(Reply(error.code, _text(error)))


def _tls_context(settings: SmtpSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ca_file)
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _text(error: BaseException) -> str:
    """Give an error's or a reply's text as one line, without the addresses it quotes; replies have several lines."""
    text = error.message if isinstance(error, SMTPException) else str(error)
    return _ADDRESS.sub("<address>", " ".join(str(text).split()))[:300] or type(error).__name__
