"""The examples of docs/schedules.md, with a worker of its family; the table of clock changes is in tests/dst.py."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from daemon.cli.command import app
from daemon.scheduling.schedule import Missed
from daemon.scheduling.scheduler import LEASE_SECONDS
from daemon.scheduling.ticks import GRACE_MS, RUN_ALL

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "schedules.md").read_text("utf-8")
PROGRAMS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))

Run = Callable[[str], str]


@pytest.fixture
def run(redis_url: str, tmp_path: Path) -> Iterator[Run]:
    """Run a line of a shell in a folder with the page's programs, while a worker of its family runs."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
    paths = f"{ROOT}{os.pathsep}{tmp_path}"
    environ = {**inherited, "ARQD_REDIS_URL": redis_url, "PYTHONPATH": paths, "XDG_RUNTIME_DIR": str(tmp_path)}

    def run(line: str) -> str:
        script = f'arqd() {{ "{sys.executable}" -m daemon "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n{line}'
        done = subprocess.run(
            ["sh", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout

    command = [sys.executable, "-m", "daemon", "run", "nightly:WorkerSettings"]
    worker = subprocess.Popen(command, cwd=tmp_path, env=environ)
    try:
        deadline = time.monotonic() + 60
        while len(json.loads(run("arqd schedule list --json"))) < 3:
            assert worker.poll() is None
            assert time.monotonic() < deadline
        yield run
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0


def test_the_examples(run: Run) -> None:
    ((block),) = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    lines = re.findall(r"^\$ (.*)$", block, re.MULTILINE)
    said = {line: run(line) for line in lines}
    names = [line.split()[0] for line in said["arqd schedule list"].splitlines()[1:]]
    assert names == ["nightly:clean_up", "nightly:monthly", "nightly:warm_cache"]
    assert said[lines[-1]] == "nightly:poll removed\n"
    changed, paused, *listed = run("python plan.py").splitlines()
    assert changed == "@every 1200s active ['2040-01-01 00:00', '2040-01-01 00:20', '2040-01-01 00:40']"
    assert paused == "True paused"
    assert "nightly:clean_up 0 2 * * * Europe/Berlin settings" in listed
    assert "nightly:trial @every 1200s UTC runtime" in listed


def test_what_the_page_tells_of_missed_ticks_is_so() -> None:
    assert re.findall(r"^\| `(\w+)` \| (?:one job|none;|one each)", PAGE, re.MULTILINE) == list(get_args(Missed))
    assert f"within {GRACE_MS // 1000} s of its time" in PAGE
    assert f"the newest {RUN_ALL} at most" in PAGE
    assert f"a lease of {LEASE_SECONDS:g} s" in PAGE


def test_every_option_of_add_is_told() -> None:
    told = CliRunner().invoke(app, ["schedule", "add", "--help"]).output
    options = set(re.findall(r"--[a-z-]+", told)) - {"--help"}
    assert options <= set(re.findall(r"--[a-z-]+", PAGE))


def test_links_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)", PAGE) if "://" not in target]
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
