"""Tables of the documentation, read for tests, and what its programs need to be there."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.servers import each_node

ROOT = Path(__file__).resolve().parents[2]


def wait_for_worker(url: str, process: subprocess.Popen[Any], families: int = 1) -> None:
    """Wait until a worker process takes jobs of so many families.

    The programs wait for their results as their readers' would, for seconds: in a busy machine's a worker just starts.
    """
    deadline = time.monotonic() + 60
    while sum(len(node.keys("*:workers")) for node in each_node(url)) < families:
        assert process.poll() is None, "the worker has ended"
        assert time.monotonic() < deadline, "no worker"
        time.sleep(0.02)


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
