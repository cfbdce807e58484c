"""What docs/flows.md shows is true: its program prints what it says, its commands run, every rule has its row."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.flows import RULES, node
from daemon.flows.courier import COPIED_RESULT, LEASE_MS, SWEEP_SECONDS
from daemon.flows.plan import MAX_CHILDREN
from daemon.producer import SyncProducer
from tests.docs.pages import wait_for_worker

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "flows.md").read_text("utf-8")


@pytest.fixture
def environ(redis_url: str, tmp_path: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
    for name, text in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(text)
    path = f"{ROOT}{os.pathsep}{tmp_path}"
    return inherited | {"ARQD_REDIS_URL": redis_url, "PYTHONPATH": path, "ARQD_FAMILIES__SHOP": "shop:WorkerSettings"}


def run(folder: Path, environ: dict[str, str], *arguments: str) -> str:
    """Run Python in the folder, and give what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program(environ: dict[str, str], tmp_path: Path) -> None:
    (line,) = re.findall(r"With `arqd (run [^`]*)`", PAGE)
    (output,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "daemon", *line.split()], cwd=tmp_path, env=environ, stdout=log, stderr=log
        )
    try:
        wait_for_worker(environ["ARQD_REDIS_URL"], worker)
        assert run(tmp_path, environ, "order.py") == output
    finally:
        worker.terminate()
        assert worker.wait(60) == 0


def test_the_commands(environ: dict[str, str], tmp_path: Path) -> None:
    with SyncProducer.connect(environ["ARQD_REDIS_URL"]) as producer:
        child = node("price", {"item": "tea"}, family="shop")
        producer.enqueue_flow(node("total", {"customer": "Ada"}, family="shop", job_id="order-7", children=[child]))
    commands = re.findall(r"^\$ arqd (.*)$", PAGE, re.MULTILINE)
    assert commands
    for command in commands:
        assert "order-7" in run(tmp_path, environ, "-m", "daemon", *command.split()) or "explain" in command


def test_rules_and_figures_are_as_told() -> None:
    rules = PAGE.partition("## What a child's failure does")[2].partition("##")[0]
    assert tuple(re.findall(r"^\| `(\w+)`(?: \(default\))? \|", rules, re.MULTILINE)) == RULES
    assert f"at most {MAX_CHILDREN:,} children" in PAGE
    assert f"over {COPIED_RESULT // 1024} KiB" in PAGE
    assert f"looks every {SWEEP_SECONDS:g} s" in PAGE
    assert f"for {LEASE_MS // 1000} s at a time" in PAGE


def test_links_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)", PAGE) if "://" not in target]
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
