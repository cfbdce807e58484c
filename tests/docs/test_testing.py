"""What docs/testing.md shows is true: its tests pass, its trace is what is printed, its tables are complete."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

from daemon.testing import plugin
from daemon.testing.handlers import run_handler

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")


def test_its_tests_pass(tmp_path: Path) -> None:
    programs = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rP", "-p", "no:cacheprovider", "-p", "no:asyncio", "--rootdir", tmp_path],
        cwd=tmp_path,
        env=inherited | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count = sum(text.count("\ndef test_") for text in programs.values())
    assert f"{count} passed" in done.stdout
    (trace,) = re.findall(r"```\n(20.*?)```", PAGE, re.DOTALL)
    assert trace in done.stdout


def test_the_tables_are_complete() -> None:
    cells = re.findall(r"^\| (`[^|]*) \|", PAGE, re.MULTILINE)
    named = {word for cell in cells for word in re.findall(r"`(\w+)`", cell)}
    parameters = inspect.signature(run_handler).parameters
    assert {name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY} <= named
    assert {name for name in vars(plugin) if name.startswith("arqd_")} <= named
