"""Size, docstrings and exports of every module."""

from __future__ import annotations

import ast
import importlib

import pytest

from tests.architecture.sources import MODULES, ROOT, tree

MAX_LINES = 400


def test_no_module_is_too_long() -> None:
    files = [*MODULES.values(), *(ROOT / "daemon" / "lua").glob("*.lua")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


@pytest.mark.parametrize("module", MODULES)
def test_module_tells_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(tree(module))


@pytest.mark.parametrize("module", [module for module in MODULES if not module.endswith("__main__")])
def test_module_imports_and_exports_what_it_says(module: str) -> None:
    loaded = importlib.import_module(module)
    missing = [name for name in getattr(loaded, "__all__", ()) if not hasattr(loaded, name)]
    assert missing == []
