"""The page on topologies: what is left out on which servers, and why."""

from __future__ import annotations

import ast
from collections import defaultdict

import pytest

from tests import marks
from tests.docs.pages import ROOT, names, page, table
from tests.servers import KINDS

WRITTEN = {"cluster": "cluster", "sentinel": "Sentinel"}


def test_what_is_left_out_stands_there_with_its_reason() -> None:
    found = {name: mark.mark for name, mark in vars(marks).items() if isinstance(mark, pytest.MarkDecorator)}
    used = defaultdict(set)
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "tests.marks":
                for name in node.names:
                    used[name.name].add(str(path.relative_to(ROOT / "tests").with_suffix("")))
            # Reasons stand in one place.
            assert not isinstance(node, ast.Attribute) or node.attr != "only_on", path
    assert used.keys() == found.keys()
    expected = {
        mark.kwargs["reason"]: ({WRITTEN[kind] for kind in KINDS if kind not in mark.args}, used[name])
        for name, mark in found.items()
    }
    told = {
        reason: (set(where.split(", ")), set(names(files)))
        for where, reason, files in table(page("topologies"), "left out")
    }
    assert told == expected
