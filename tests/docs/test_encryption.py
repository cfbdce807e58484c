"""The examples of docs/encryption.md: programs print what stands below them, commands run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docs.pages import wait_for_worker

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "encryption.md").read_text(encoding="utf-8")
MODULES = dict(re.findall(r"```python\n# (clinic\.py|till\.py)\n(.*?)```", PAGE, re.DOTALL))
PROGRAMS = re.findall(r"```python\n# (\w+\.py)\n((?:(?!```).)*)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    re.findall(r"^\$ (.*)$", block, re.MULTILINE) for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
]


@pytest.fixture
def environ(redis_url: str, tmp_path: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
    return inherited | {
        "ARQD_REDIS_URL": redis_url,
        "ARQD_FAMILIES__CLINIC": "clinic:WorkerSettings",
        "ARQD_FAMILIES__TILL": "till:WorkerSettings",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
    }


def shell(folder: Path, environ: dict[str, str], line: str) -> str:
    script = f'arqd() {{ "{sys.executable}" -m daemon "$@"; }}\n{line}'
    done = subprocess.run(
        ["sh", "-c", script], cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, (line, done.stderr)
    return done.stdout


@contextmanager
def workers(folder: Path, environ: dict[str, str]) -> Iterator[None]:
    command = [sys.executable, "-m", "daemon", "run", "clinic", "till"]
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environ | {"ARQD_SECRETS_DIR": "."}, stderr=log)
        try:
            wait_for_worker(environ["ARQD_REDIS_URL"], process, families=2)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, (folder / "worker.log").read_text()


def test_the_page(environ: dict[str, str], tmp_path: Path) -> None:
    assert (len(MODULES), len(PROGRAMS), len(COMMANDS)) == (2, 2, 3)
    for name, text in MODULES.items():
        (tmp_path / name).write_text(text)
    for line in COMMANDS[0]:
        shown = shell(tmp_path, environ, line)
    assert "2026a" in shown
    # A worker tells the queue of what must be encrypted when it starts; the programs then run beside it.
    with workers(tmp_path, environ):
        for name, text, output in PROGRAMS:
            (tmp_path / name).write_text(text)
            assert shell(tmp_path, environ, f'"{sys.executable}" {name}') == output
    masked, revealed, _ = (shell(tmp_path, environ, line) for line in COMMANDS[1])
    assert "Ada" not in masked
    assert "reading the file of Ada" in revealed
    for line in COMMANDS[2]:
        shown = shell(tmp_path, environ, line)
    assert re.fullmatch(r"clinic: \d+ values under the first key now\n", shown)
