"""From a job to the bytes of a message: headers, parts, attachments, signature. Pure work, run in a thread."""

from __future__ import annotations

import hashlib
import mimetypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address, UnstructuredHeader
from email.message import EmailMessage
from email.policy import EmailPolicy
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dkim  # type: ignore[import-untyped]

from daemon.errors import ConfigurationError, PermanentError
from handlers.email.payloads import Attachment, SendEmail
from handlers.email.rendering import Templates
from handlers.email.settings import UNSUBSCRIBE_PLACEHOLDER, DkimSettings, EmailSettings
from handlers.integrations.addresses import Mailbox, parse_mailbox
from handlers.integrations.folders import open_confined

# Signed when present; From and Subject once more than present, so that none can be added on the way.
SIGNED = (
    *("from", "to", "subject", "date", "message-id", "reply-to"),
    *("mime-version", "content-type", "content-transfer-encoding", "list-unsubscribe", "list-unsubscribe-post"),
)
SIGNED_ONCE_MORE = ("from", "subject")
# Lengths of a line without its end, bytes (RFC 5322, 2.1.1): as it should be, and the longest there may be.
LINE, LONGEST_LINE = 78, 998
_BLANK = re.compile(r" (?=\S)")


@dataclass(frozen=True, slots=True)
class Message:
    """A finished message.

    Attributes:
        sender: envelope address.
        data: header and body with CRLF line ends.
        utf8: an address has a non-ASCII part before the ``@``, so the server must know SMTPUTF8.
    """

    sender: str
    data: bytes
    utf8: bool


class _Policy(EmailPolicy):
    """SMTP's, with words of a header as they are, and no header that begins another one."""

    def fold_binary(self, name: str, value: Any) -> bytes:
        """Give a header's lines.

        Raises:
            PermanentError: its value has a line break that would begin another header.
        """
        folded = super().fold_binary(name, value)
        if name.lower() != "subject" and isinstance(value, UnstructuredHeader) and str(value).isascii():
            folded = _at_blanks(name, str(value)) or folded
        if any(line[:1] not in (b" ", b"\t") for line in folded.splitlines()[1:]):
            raise PermanentError(f"the header {name} has a line break that would begin another one")
        return folded


class Composer:
    """Makes messages by the operator's settings.

    Args:
        settings: with a sender.

    Raises:
        ConfigurationError: a folder or the DKIM key is missing or cannot be used.
    """

    def __init__(self, settings: EmailSettings, sender: str) -> None:
        self.settings = settings
        self.sender = parse_mailbox(sender)
        self._templates = Templates(settings.template_dirs)
        self._key = _signing_key(settings.dkim)

    def message_id(self, key: str) -> str:
        """Give the Message-ID of the message with this idempotency key: the same on every try."""
        return f"<{hashlib.sha256(key.encode()).hexdigest()[:32]}@{self.sender.domain}>"

    def compose(self, job: SendEmail, message_id: str) -> Message:
        """Make a message.

        Raises:
            PermanentError: it cannot be made from this job: template, variables, attachments, size, unsubscribe URL.
            OSError: an attachment cannot be read now.
        """
        recipients = [parse_mailbox(address) for address in job.to]
        reply_to = job.reply_to or self.settings.reply_to
        mailboxes = [*recipients, *([parse_mailbox(reply_to)] if reply_to else [])]
        utf8 = not all(mailbox.local.isascii() for mailbox in mailboxes)
        # Bodies are encoded to ASCII: a relay that had to convert them would break the signature.
        message = EmailMessage(policy=_Policy(linesep="\r\n", cte_type="7bit", utf8=utf8))
        message["From"] = _header(self.sender)
        message["To"] = [_header(mailbox) for mailbox in recipients]
        message["Subject"] = job.subject
        message["Date"] = datetime.now(UTC)
        message["Message-ID"] = message_id
        if reply_to:
            message["Reply-To"] = _header(parse_mailbox(reply_to))
        unsubscribe = self._unsubscribe(job, recipients[0], message) if job.marketing else None
        try:
            for name, value in job.headers.items():
                message[name] = value
        except ValueError as error:
            raise PermanentError(f"the header {name} cannot be written: {error}") from None
        self._add_parts(job, message, unsubscribe)
        self._attach(job.attachments, message)
        data = message.as_bytes()
        if len(data) > self.settings.max_message:
            raise PermanentError(f"the message has {len(data)} bytes; {self._limit}")
        return Message(self.sender.address, self._sign(data), utf8)

    @property
    def _limit(self) -> str:
        return f"the limit is {int(self.settings.max_message)} (ARQD_EMAIL__MAX_MESSAGE)"

    def _add_parts(self, job: SendEmail, message: EmailMessage, unsubscribe: str | None) -> None:
        context = {"subject": job.subject, **job.context}
        if unsubscribe is not None:
            context["unsubscribe_url"] = unsubscribe
        parts = self._templates.render(job.template, job.lang, context)
        if parts.text is not None:
            message.set_content(parts.text)
        if parts.html is not None:
            if parts.text is None:
                message.set_content(parts.html, subtype="html")
            else:
                message.add_alternative(parts.html, subtype="html")

    def _unsubscribe(self, job: SendEmail, recipient: Mailbox, message: EmailMessage) -> str:
        """Add the headers of RFC 8058 and give the URL."""
        template = job.unsubscribe_url or self.settings.unsubscribe_url
        if template is None:
            raise PermanentError(
                "a marketing message needs an unsubscribe_url: give it in the job or set ARQD_EMAIL__UNSUBSCRIBE_URL"
            )
        url = template.replace(UNSUBSCRIBE_PLACEHOLDER, quote(recipient.address, safe=""))
        mailto = self.settings.unsubscribe_mailto
        also = f", <mailto:{parse_mailbox(mailto).address}?subject=unsubscribe>" if mailto else ""
        message["List-Unsubscribe"] = f"<{url}>{also}"
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
        return url

    def _attach(self, attachments: Sequence[Attachment], message: EmailMessage) -> None:
        left = int(self.settings.max_message)
        for attachment in attachments:
            if attachment.path is None:
                content = attachment.content or b""
            else:
                content = read_confined(attachment.path, self.settings.attachment_dirs, left)
            left -= len(content)
            if left < 0:
                raise PermanentError(f"the attachments are too large; {self._limit}")
            guessed, packed = mimetypes.guess_type(attachment.filename)
            if packed:
                # Of report.csv.gz it says what is inside.
                guessed = "application/gzip" if packed == "gzip" else f"application/x-{packed}"
            kind, _, subtype = (guessed or "").partition("/")
            if kind not in ("application", "audio", "image", "text", "video", "font"):
                kind, subtype = "application", "octet-stream"
            message.add_attachment(content, kind, subtype, filename=attachment.filename)

    def _sign(self, data: bytes) -> bytes:
        if self._key is None:
            return data
        selector, key = self._key
        domain = self.settings.dkim.domain or self.sender.domain
        header = data.partition(b"\r\n\r\n")[0].lower()
        present = [name for name in SIGNED if f"\r\n{name}:".encode() in b"\r\n" + header]
        include = [name.encode() for name in (*present, *SIGNED_ONCE_MORE)]
        signature: bytes = dkim.sign(
            data, selector, domain.encode(), key, canonicalize=(b"relaxed", b"relaxed"), include_headers=include
        )
        return signature + data


def read_confined(path: str, folders: Sequence[Path], limit: int) -> bytes:
    """Read an attachment inside one of the folders; errors as `handlers.integrations.folders.open_confined`."""
    with open_confined(path, folders, "ARQD_EMAIL__ATTACHMENT_DIRS", limit) as file:
        return file.read(limit + 1)


def _at_blanks(name: str, value: str) -> bytes | None:
    """Give the lines of a header with a word longer than a line; None where there is none, or no line can hold it.

    The library would encode it. That is for words people read: nobody decodes the link of List-Unsubscribe, or the ids
    of References.
    """
    first, *words = _BLANK.split(value)
    lines = [f"{name}: {first}"]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > LINE:
            lines.append("")
        lines[-1] += f" {word}"
    longest = max(map(len, lines))
    return "".join(f"{line}\r\n" for line in lines).encode() if LINE < longest <= LONGEST_LINE else None


def _header(mailbox: Mailbox) -> Address:
    return Address(mailbox.name, mailbox.local, mailbox.domain)


def _signing_key(settings: DkimSettings) -> tuple[bytes, bytes] | None:
    """Give selector and key after signing something with them, so that a wrong key is told at start."""
    if not settings.is_on or settings.selector is None:
        return None
    selector = settings.selector.encode()
    try:
        key = settings.key_file.read_bytes() if settings.key_file else b""
    except OSError as error:
        raise ConfigurationError(
            f"ARQD_EMAIL__DKIM__KEY_FILE: cannot read {settings.key_file}: {error.strerror}"
        ) from None
    if settings.key is not None:
        key = settings.key.get_secret_value().encode()
    try:
        dkim.sign(b"From: a@example.com\r\n\r\n", selector, b"example.com", key, include_headers=[b"from"])
    except Exception:
        # Whatever the library raises, its text could quote the key.
        raise ConfigurationError("ARQD_EMAIL__DKIM: the key is not an RSA private key in PEM form") from None
    return selector, key
