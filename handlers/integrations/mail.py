"""Handing a finished message over: what a mail transport is, and the one for development, which writes files."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Reply:
    """A mail server's negative reply: its three-digit code and its text."""

    code: int
    text: str

    @property
    def is_permanent(self) -> bool:
        """Whether trying again cannot help: a code of 500 or more."""
        return self.code >= 500

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


class MailError(Exception):
    """The message was not handed over."""


class MailUnavailable(MailError):
    """No conversation was possible (connection, TLS, login) or it broke off: try again."""


class MailRefused(MailError):
    """The server refused the message as a whole: its sender or its content.

    Attributes:
        reply: what the server said.
    """

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        super().__init__(str(reply))


class MailTransport(Protocol):
    """Hands messages over."""

    async def send(
        self, sender: str, recipients: Sequence[str], message: bytes, *, utf8: bool = False
    ) -> Mapping[str, Reply]:
        """Hand one message over.

        Args:
            sender: envelope address, without a display name.
            recipients: envelope addresses, without display names; each at most once.
            message: with CRLF line ends; header fields and addresses may be UTF-8 only with ``utf8``.

        Returns:
            The refused recipients with the reply each got; everyone else's message was accepted. When all were refused,
            nothing was sent.

        Raises:
            MailRefused: the whole message was refused.
            MailUnavailable: no conversation, or it broke off; after the end of the message this leaves open whether it
                was accepted.
        """
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...


class SpoolSink:
    """Writes each message as an ``.eml`` file, readable by this user only. For development and tests.

    Recipients in the reserved domain ``.invalid`` are refused with a 550, so that a failure can be seen.

    Args:
        folder: made when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def send(
        self, sender: str, recipients: Sequence[str], message: bytes, *, utf8: bool = False
    ) -> Mapping[str, Reply]:
        """Write one message; see `MailTransport.send`. The envelope is put before its header."""
        refused = {
            address: Reply(550, "5.1.2 the domain .invalid never exists")
            for address in recipients
            if address.lower().endswith(".invalid")
        }
        accepted = [address for address in recipients if address not in refused]
        if accepted:
            await asyncio.to_thread(self._write, sender, accepted, message)
        return refused

    def _write(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            name = f"{now}-{re.sub(r'[^A-Za-z0-9@._-]', '_', recipients[0])[:80]}-{secrets.token_hex(4)}.eml"
            envelope = f"X-Envelope-From: {sender}\r\nX-Envelope-To: {', '.join(recipients)}\r\n".encode()
            # The point keeps a half-written file out of a listing of *.eml.
            draft = self.folder / f".{name}.part"
            try:
                with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(envelope + message)
                draft.replace(self.folder / name)
            finally:
                draft.unlink(missing_ok=True)
        except OSError as error:
            raise MailUnavailable(f"cannot write to the spool folder {self.folder}: {error.strerror}") from error

    async def close(self) -> None:
        """Nothing is open."""
