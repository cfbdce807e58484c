"""Size, docstrings and exports of every module."""

from __future__ import annotations

import ast
import importlib
import re

from tests.architecture.sources import MODULES, ROOT, tree

MAX_LINES = 400


def test_no_module_is_too_long() -> None:
    files = [*MODULES.values(), *(ROOT / "daemon" / "lua").glob("*.lua")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_every_module_tells_what_it_is_for() -> None:
    assert [module for module in MODULES if not ast.get_docstring(tree(module))] == []


def test_the_reading_order_names_every_module() -> None:
    ways = ("claiming", "connecting", "inspecting", "limits", "process", "producing", "running", "scheduling")
    unnamed = {
        module
        for package in ("daemon", *(f"daemon.{way}" for way in ways))
        for module in MODULES
        if module.rpartition(".")[0] == package and not module.endswith("__main__")
        if not re.search(rf"`{module.rpartition('.')[2]}/?`", ast.get_docstring(tree(package)) or "")
    }
    assert unnamed == set()


def test_every_module_exports_what_it_says() -> None:
    loaded = [importlib.import_module(module) for module in MODULES if not module.endswith("__main__")]
    missing = {
        f"{module.__name__}.{name}"
        for module in loaded
        for name in getattr(module, "__all__", ())
        if not hasattr(module, name)
    }
    assert missing == set()
