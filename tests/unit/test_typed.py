"""Commands that are printed to be typed: as they stand, whatever PATH is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from daemon.typed import typed


def program(folder: Path) -> Path:
    folder.mkdir(parents=True)
    found = folder / "arqd"
    found.write_text("")
    found.chmod(0o755)
    return found


def test_a_command_on_path_is_typed_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = program(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(own.parent))
    assert typed(str(own)) == "arqd"


@pytest.mark.parametrize("another", [False, True])
def test_a_command_that_is_not_is_typed_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, another: bool
) -> None:
    program(tmp_path / ".venv/bin")
    program(tmp_path / "a b")
    monkeypatch.setenv("PATH", str(program(tmp_path / "usr").parent) if another else str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert typed(".venv/bin/arqd") == ".venv/bin/arqd"
    assert typed("a b/arqd") == "'a b/arqd'"


def test_a_module_is_typed_with_its_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/srv/daemon/__main__.py", "up"])
    assert typed() == f"{sys.executable} -m daemon"
