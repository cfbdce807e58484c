"""What the payloads of several families have in common. Pydantic only: producers import it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

#: What OneSignal takes as a push's data, bytes of JSON.
LARGEST_PUSH_DATA = 2048


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("control characters are not allowed here")
    return text


def no_nul(text: str) -> str:
    """Give a text back that a database can keep.

    Raises:
        ValueError: it has a character zero.
    """
    if "\x00" in text:
        raise ValueError("a character zero is not allowed here: no database keeps it")
    return text


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("it is blank")
    return no_nul(text)


#: What people are to read.
Words = Annotated[str, AfterValidator(_said)]
#: Id of a user, of the service's own making.
UserId = Annotated[str, AfterValidator(_printable), Field(min_length=1, max_length=200)]
