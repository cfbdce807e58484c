"""What the payloads of several families have in common. Pydantic only: producers import it."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

#: What OneSignal takes as a push's data, bytes of JSON.
LARGEST_PUSH_DATA = 2048
#: Where a link may lead that comes in a payload and that people click on.
LINKS = frozenset(("http", "https", "mailto"))

# Left out of a URL by whatever opens it, or by one of them.
_BLANKS = re.compile(r"[\x00-\x20\x7f-\xa0]")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("control characters are not allowed here")
    return text


def without_blanks(url: str) -> str:
    """Give a URL without what programs leave out of one before they read it: ``java\\nscript:`` runs, too."""
    return _BLANKS.sub("", url)


def scheme_of(url: str) -> str | None:
    """Give the scheme of a URL as a browser reads it, in lower case; None where it has none."""
    found = _SCHEME.match(without_blanks(url))
    return found[1].lower() if found else None


def no_nul(text: str) -> str:
    """Give a text back that a database can keep.

    Raises:
        ValueError: it has a character zero.
    """
    if "\x00" in text:
        raise ValueError("a character zero is not allowed here: no database keeps it")
    return text


def kept(text: str) -> str:
    """Give what a database keeps of a text of somebody else's: no character zero, no half of a pair of surrogates."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("it is blank")
    return no_nul(text)


#: What people are to read.
Words = Annotated[str, AfterValidator(_said)]
#: Id of a user, of the service's own making.
UserId = Annotated[str, AfterValidator(_printable), Field(min_length=1, max_length=200)]
