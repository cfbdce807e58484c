"""Tables of the documentation, read for tests."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def page(name: str) -> str:
    """Give the text of a page of docs/."""
    return (ROOT / "docs" / f"{name}.md").read_text("utf-8")


def table(text: str, mark: str) -> list[list[str]]:
    """Give the rows of the table behind ``<!-- mark -->``, without its head."""
    lines = text.partition(f"<!-- {mark} -->\n")[2].splitlines()
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    assert len(rows) > 2, mark
    return rows[2:]


def names(cell: str) -> list[str]:
    """Give what stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def name(cell: str) -> str:
    """Give the first name of a cell, "" for a dash."""
    return next(iter(names(cell)), "")
