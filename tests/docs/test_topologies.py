"""The page on topologies: what tests leave out on which servers, and why; its example of a server that is away."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from tests import marks
from tests.docs.pages import ROOT, page, table
from tests.servers import KINDS, free_port

WRITTEN = {"cluster": "cluster", "sentinel": "Sentinel"}


def test_what_is_left_out_stands_there_with_its_reason() -> None:
    found = {name: mark.mark for name, mark in vars(marks).items() if isinstance(mark, pytest.MarkDecorator)}
    used = set()
    for path in [*(ROOT / "tests" / "lua").glob("*.py"), *(ROOT / "tests" / "integration").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "tests.marks":
                used |= {name.name for name in node.names}
            # Reasons stand in one place.
            assert not isinstance(node, ast.Attribute) or node.attr != "only_on", path
    assert used == found.keys()
    expected = {
        (frozenset(WRITTEN[kind] for kind in KINDS if kind not in mark.args), mark.kwargs["reason"])
        for mark in found.values()
    }
    assert {
        (frozenset(where.split(", ")), reason) for where, reason in table(page("topologies"), "left out")
    } == expected


def test_the_example_of_a_server_that_is_away_runs(redis_url: str) -> None:
    ((program, printed),) = re.findall(
        r"```python\n# glance.py\n(.*?)```\n\n```text\n(.*?)```", page("topologies"), re.DOTALL
    )
    program = program.replace("redis://main:6379", redis_url)
    program = program.replace("redis://mail:6379", f"redis://127.0.0.1:{free_port()}")
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert ran.stdout == printed
