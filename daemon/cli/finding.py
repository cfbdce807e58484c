"""A line of what ``arqd check`` reports."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """A line of the report; ``level`` is OK, WARN (works, until something else fails) or FAIL (loses or refuses)."""

    level: str
    what: str
    text: str
