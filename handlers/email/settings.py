"""What an operator can set about mail. Pydantic only: the settings of the daemon are built from it."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from handlers.integrations.addresses import Address, one_line, parse_mailbox
from handlers.integrations.folders import Folders

UNSUBSCRIBE_PLACEHOLDER = "{recipient}"


def https_url(url: str) -> str:
    """Give an address of the web back when it may stand in ``List-Unsubscribe``.

    Raises:
        ValueError: for anything but a plain https address; one-click unsubscribing needs one (RFC 8058).
    """
    if not url.startswith("https://") or not url.isascii() or not url.isprintable() or set(url) & set(' <>",'):
        raise ValueError("an unsubscribe URL starts with https:// and has no spaces, commas, quotes or brackets")
    return one_line(url)


class DkimSettings(BaseModel):
    """DKIM signing; without a key, messages are not signed."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    selector: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]+$", description="selector of the DNS record")
    domain: str | None = Field(None, pattern=r"^[A-Za-z0-9.-]+$", description="domain that signs; default the sender's")
    key: SecretStr | None = Field(None, description="RSA private key, PEM")
    key_file: Path | None = Field(None, description="file with the RSA private key, PEM")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.key is not None and self.key_file is not None:
            raise ValueError("give the key or the file it is in, not both")
        if self.is_on != (self.selector is not None):
            raise ValueError("a key and its selector belong together: set both or neither")
        return self

    @property
    def is_on(self) -> bool:
        """Whether messages are signed."""
        return self.key is not None or self.key_file is not None


class EmailSettings(BaseModel):
    """Mail: who sends, from which templates, with which limits."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    sender: Address | None = Field(
        None, description="address in From, e.g. `Shop <no-reply@example.com>`; required when a mail server is set"
    )
    reply_to: Address | None = Field(None, description="address for answers where a job names none")
    template_dirs: Folders = Field((), description="folders with templates of your own, `:` between them; first wins")
    attachment_dirs: Folders = Field(
        (), description="folders from which attachments may be read by path, `:` between them; none: by content only"
    )
    max_message: ByteSize = Field(
        ByteSize(10_000_000), ge=10_000, description="largest message with its attachments, encoded; bytes or `25MB`"
    )
    spool_dir: Path = Field(Path("var/spool/email"), description="where messages land when no mail server is set")
    unsubscribe_url: str | None = Field(
        None, description="https address for List-Unsubscribe; `{recipient}` becomes the recipient's address"
    )
    unsubscribe_mailto: Address | None = Field(None, description="address that takes unsubscribe mails as well")
    dkim: DkimSettings = Field(default_factory=DkimSettings, description="DKIM signing")

    @field_validator("unsubscribe_url")
    @classmethod
    def _is_https(cls, url: str | None) -> str | None:
        return url if url is None else https_url(url)

    @field_validator("sender", "unsubscribe_mailto")
    @classmethod
    def _is_ascii(cls, address: str | None) -> str | None:
        if address is not None and not parse_mailbox(address).local.isascii():
            raise ValueError("use an address whose part before the @ is ASCII: every mail server must take it")
        return address
