"""The pages on handlers and steps: their families run, and their commands print what stands below them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.family import HOOKS
from daemon.running.listeners import LIMIT
from daemon.running.receipts import LAST_CALL, LONGEST_NAME

ROOT = Path(__file__).resolve().parents[2]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text("utf-8") for name in ("once", "handlers")}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.mark.parametrize("page", PAGES)
def test_commands_print_what_stands_below_them(page: str, redis_url: str, tmp_path: Path) -> None:
    for name, text in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGES[page], re.DOTALL):
        (tmp_path / name).write_text(text)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
    environ = inherited | {"ARQD_REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}
    (block,) = re.findall(r"```console\n(.*?)```", PAGES[page], re.DOTALL)
    commands = re.findall(r"^\$ (.*)\n((?:[^$\n].*\n)*)", block, re.MULTILINE)
    assert len(commands) > 1
    for line, output in commands:
        script = f'arqd() {{ "{sys.executable}" -m daemon "$@"; }}\n{line}'
        done = subprocess.run(
            ["sh", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        assert TIME.sub("time", done.stdout) == TIME.sub("time", output)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)", PAGES[page]) if "://" not in target]
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []


def test_every_hook_is_told_and_numbers_are_as_told() -> None:
    assert all(f"`{hook}`" in PAGES["handlers"] for hook in HOOKS)
    assert LIMIT == 10
    assert f"at most {LONGEST_NAME} characters" in PAGES["once"]
    assert LAST_CALL == 5
