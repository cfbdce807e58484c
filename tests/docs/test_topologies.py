"""The page on topologies: what tests leave out on which servers, and why."""

from __future__ import annotations

import ast

import pytest

from tests import marks
from tests.docs.pages import ROOT, page, table
from tests.servers import KINDS

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
