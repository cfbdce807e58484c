"""Texts in the tables we write: none is a formula to a spreadsheet. No libraries."""

from __future__ import annotations

#: A text that begins so is taken for a formula by a spreadsheet, also in the widths of Japanese keyboards.
FORMULA = frozenset("=+-@\t\r\n＝＋－＠")


def neutral(text: str) -> str:
    """Give a text that no spreadsheet takes for a formula: one that begins like one gets an apostrophe before it."""
    return "'" + text if text[:1] in FORMULA else text
