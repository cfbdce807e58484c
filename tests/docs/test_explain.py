"""What docs/explain.md shows is true: its program and its command run, its table names every reason."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from daemon.inspecting.explain import Reason

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "explain.md").read_text(encoding="utf-8")


def run(redis_url: str, folder: Path, *arguments: str) -> str:
    """Run Python with arguments in a folder, and give what it printed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=inherited | {"ARQD_REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_program_and_command(redis_url: str, tmp_path: Path) -> None:
    ((name, program),) = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / name).write_text(program.replace("redis://localhost:6379", redis_url))
    shown = re.findall(r"^\$ arqd (.*)\n(.*)$", PAGE, re.MULTILINE)
    ((command, answer),) = shown
    first, message = run(redis_url, tmp_path, name).splitlines()
    assert re.fullmatch(r"delayed \d{4}-.*\+00:00", first)
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.sub(time, "T", f"delayed: {message}") == re.sub(time, "T", answer)
    told = run(redis_url, tmp_path, "-m", "daemon", *command.split())
    assert re.sub(time, "T", told.strip()) == re.sub(time, "T", answer)


def test_every_reason_is_in_the_table_in_their_order() -> None:
    rows = re.findall(r"^\| (`[^|]*) \|", PAGE.partition("## Reasons")[2], re.MULTILINE)
    assert [word for row in rows for word in re.findall(r"`(\w+)`", row)] == [str(reason) for reason in Reason]
