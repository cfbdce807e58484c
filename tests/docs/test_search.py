"""The page on search: its program and its commands do what stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from daemon.search.postings import DOCS
from daemon.search.words import LONGEST_WORD, MOST_ASKED, MOST_WORDS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "search.md").read_text("utf-8")


def shell(line: str, folder: Path, redis_url: str) -> str:
    """Run a line as a reader would, and give what it printed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
    environ = inherited | {
        "ARQD_REDIS_URL": redis_url,
        "ARQD_FAMILIES__SHOP": "shop:WorkerSettings",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
    }
    script = f'arqd() {{ "{sys.executable}" -m daemon "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n{line}'
    done = subprocess.run(
        ["sh", "-c", script], cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, (line, done.stderr)
    return done.stdout


def shortened(line: str, printed: str) -> str:
    """What the page shows of it: of a list the ids, of the index not its bytes."""
    if " jobs " in line or "dead list" in line:
        return "".join(row.split()[0] + "\n" for row in printed.splitlines()[1:])
    return "".join(row + "\n" for row in printed.splitlines() if not row.startswith(("bytes", "max_bytes")))


def test_commands_do_what_stands_below_them(redis_url: str, tmp_path: Path) -> None:
    for name, text in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(text)
    (block,) = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    commands = re.findall(r"^\$ (.*)\n((?:[^$\n].*\n)*)", block, re.MULTILINE)
    assert len(commands) == 8
    for line, output in commands:
        assert shortened(line, shell(line, tmp_path, redis_url)) == output, line


def test_numbers_and_links_are_right() -> None:
    assert f"at most {MOST_ASKED}" in PAGE
    assert f"At most {MOST_WORDS} words" in PAGE
    assert f"first {LONGEST_WORD}\n" in PAGE
    assert f"A segment holds {DOCS:,} jobs" in PAGE
    targets = [target for target in re.findall(r"\]\(([^)#]+)", PAGE) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
