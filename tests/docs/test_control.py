"""The examples of docs/control.md, run in their order against a queue with something in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.cli import act
from daemon.control import Control
from daemon.pages import SCAN
from daemon.producer import Producer

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "control.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
PROGRAMS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(redis_url: str, tmp_path: Path) -> Run:
    """Run a line of a shell, in which ``arqd`` is the command, in an empty folder."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
    environ = inherited | {"ARQD_REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}

    def run(line: str) -> subprocess.CompletedProcess[str]:
        script = f'arqd() {{ "{sys.executable}" -m daemon "$@"; }}\n{line}'
        return subprocess.run(
            ["sh", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
        )

    return run


@pytest.fixture
async def filled(redis_url: str) -> None:
    """The jobs the examples speak of."""
    async with Producer.connect(redis_url) as producer:
        for name, delay in (("reminder", 600), ("newsletter", 0), ("welcome", 0)):
            await producer.enqueue("send_email", {"to": "ada@example.com"}, family="email", job_id=name, delay=delay)


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("block", [block for block in BLOCKS if "arqd" in block], ids=lambda block: block.split()[2])
def test_commands(run: Run, block: str) -> None:
    lines = re.findall(r"^\$ (.*)$", block, re.MULTILINE)
    assert lines
    for line in lines:
        done = run(line)
        assert done.returncode == 0, (line, done.stdout, done.stderr)


@pytest.mark.usefixtures("filled")
def test_program(run: Run, tmp_path: Path) -> None:
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
        done = run(f'"{sys.executable}" {name}')
        assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "0 dead letters would run again",
        "email:newsletter send_email 5",
        "email:welcome send_email 5",
        "3 of 3",
        "3 drained",
    ]


async def test_words_of_the_table(redis_url: str) -> None:
    """Every outcome the table names is one, and the command has words for it."""
    rows = re.findall(r"^\| `(promote|priority|abort|remove|retry)` \|(.*)\|$", PAGE, re.MULTILINE)
    async with Producer.connect(redis_url) as producer:
        control = Control(producer.redis, ["t"])
        calls = {name: getattr(control, name) for name in ("promote", "abort", "remove", "retry")}
        calls["priority"] = lambda ids: control.set_priority(ids, 3)
        assert {name for name, _ in rows} == set(calls)
        for name, cells in rows:
            words = re.findall(r"`(\w+)`", cells)
            assert set(words) <= act.DONE.keys() | act.REASONS.keys()
            waiting, delayed, unknown = words[0], words[1], words[-1]
            await producer.enqueue("f", [], family="t", job_id="waits")
            await producer.enqueue("f", [], family="t", job_id="later", delay=600)
            found = await calls[name](["t:waits", "t:later", "t:never"])
            assert list(found.values()) == [waiting, delayed, unknown]
            await control.clear("t")


def test_the_bound_of_a_filtered_page_is_as_told() -> None:
    assert f"looks at {SCAN:,} jobs at most" in PAGE
