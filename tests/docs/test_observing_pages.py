"""The pages on events and statistics: programs and commands do what stands there, and every kind is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.broker import MAX_EVENTS
from daemon.events import KINDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text("utf-8") for name in ("events", "statistics")}
CLOCK = re.compile(r"\d\d:\d\d:\d\d\.\d{3}")


def shell(line: str, folder: Path, redis_url: str) -> str:
    """Run a line as a reader would, and give what it printed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
    environ = inherited | {"ARQD_REDIS_URL": redis_url, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    if (folder / "figures.py").exists():
        environ["ARQD_FAMILIES__IMAGES"] = "figures:WorkerSettings"
    script = f'arqd() {{ "{sys.executable}" -m daemon "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n{line}'
    done = subprocess.run(
        ["sh", "-c", script], cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, (line, done.stderr)
    return done.stdout


def programs(page: str, folder: Path) -> list[str]:
    found = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGES[page], re.DOTALL)
    for name, text in found:
        (folder / name).write_text(text)
    return [name for name, _ in found]


def test_the_program_on_events_prints_what_stands_below_it(redis_url: str, tmp_path: Path) -> None:
    (name,) = programs("events", tmp_path)
    (output,) = re.findall(r"```text\n(.*?)```", PAGES["events"], re.DOTALL)
    assert shell(f"python {name}", tmp_path, redis_url) == output


@pytest.mark.parametrize("page", PAGES)
def test_commands_do_what_stands_below_them(page: str, redis_url: str, tmp_path: Path) -> None:
    if page == "statistics":
        programs(page, tmp_path)
    (block,) = re.findall(r"```console\n(.*?)```", PAGES[page], re.DOTALL)
    commands = re.findall(r"^\$ (.*)\n((?:[^$\n].*\n)*)", block, re.MULTILINE)
    assert len(commands) > 3
    for line, output in commands:
        printed = shell(line, tmp_path, redis_url)
        if "arqd stats" in line or "arqd top" in line:
            assert "images" in printed
        else:
            assert CLOCK.sub("time", printed) == CLOCK.sub("time", output)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)", PAGES[page]) if "://" not in target]
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []


def test_every_kind_is_told_and_numbers_are_as_told() -> None:
    (table,) = re.findall(r"\| kind \| when \|\n(.*?)\n\n", PAGES["events"], re.DOTALL)
    first_cells = [row.split("|")[1] for row in table.splitlines()[1:]]
    assert sorted(re.findall(r"`(\w+)`", "".join(first_cells))) == sorted(KINDS)
    assert MAX_EVENTS == 2_000_000
    assert "2 MB by default" in PAGES["events"]
