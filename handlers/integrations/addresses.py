"""Mail addresses: ``ada@example.com`` or ``Ada Lovelace <ada@example.com>``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

_WRITTEN = re.compile(r"(?:(?P<name>[^<>]*)<(?P<angle>[^<>]*)>|(?P<bare>[^<>]*))")
_ATOM = r"[\w!#$%&'*+/=?^`{|}~-]+"
_LOCAL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
# Control characters and what str.splitlines takes for the end of a line: each could start a header of its own.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

# Begins an encoded word (RFC 2047): it is decoded when the header is written, and nobody looks at what came out.
_ENCODED = re.compile(r"=\?[^?]*\?[bq]\?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One mail address.

    Attributes:
        name: the display name, ``""`` for none.
        local: the part before the ``@``; it may be non-ASCII.
        domain: in lower case, international names in their ASCII form.
    """

    name: str
    local: str
    domain: str

    @property
    def address(self) -> str:
        """The address without the display name."""
        return f"{self.local}@{self.domain}"

    @property
    def identity(self) -> str:
        """What two spellings of one mailbox have in common: hardly a server tells upper case from lower."""
        return self.address.casefold()


def parse_mailbox(text: str) -> Mailbox:
    """Read an address, with or without a display name.

    Raises:
        ValueError: telling what is wrong, without quoting the address.
    """
    written = _WRITTEN.fullmatch(one_line(text).strip())
    if written is None:
        raise ValueError("this is not one mail address: write ada@example.com or Ada <ada@example.com>")
    local, at, domain = (written["angle"] or written["bare"] or "").strip().rpartition("@")
    if not at or not _LOCAL.fullmatch(local) or len(local.encode()) > 64:
        raise ValueError("this is not one mail address: write ada@example.com or Ada <ada@example.com>")
    name = (written["name"] or "").strip()
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    return Mailbox(name, local, _ascii_domain(domain))


def _ascii_domain(domain: str) -> str:
    try:
        plain = domain if domain.isascii() else domain.encode("idna").decode()
    except UnicodeError:
        plain = ""
    if len(plain) > 253 or not all(_LABEL.fullmatch(label) for label in plain.split(".")):
        raise ValueError("the part after the @ is not a domain name")
    return plain.lower()


def one_line(text: str) -> str:
    """Give the text back when it may stand in a header.

    Raises:
        ValueError: for line breaks and other control characters, and for encoded words.
    """
    if _UNSAFE.search(text):
        raise ValueError("line breaks and control characters are not allowed here")
    if _ENCODED.search(text):
        raise ValueError("encoded words (=?utf-8?q?...?=) are not allowed here: write the text itself")
    return text


def _checked(text: str) -> str:
    parse_mailbox(text)
    return text.strip()


OneLine = Annotated[str, AfterValidator(one_line)]
Address = Annotated[str, AfterValidator(_checked)]
