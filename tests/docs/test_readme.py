"""The README's examples, run as a reader would: files in a folder, a worker from the command, a real Valkey."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.job import PRIORITIES
from daemon.producing.options import JobOptions
from tests.docs.pages import wait_for_worker

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README, re.DOTALL))
COMMANDS = [line.partition("#")[0].strip() for line in re.findall(r"^(?:\w+=\S+ )?arqd .*$", README, re.MULTILINE)]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environ(redis_url: str, tmp_path: Path) -> dict[str, str]:
    """Environment of a reader who has arqd installed and works in `tmp_path`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
    own = {"ARQD_REDIS_URL": redis_url, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(tmp_path)}
    return inherited | own


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the README's programs."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def run(folder: Path, environ: dict[str, str]) -> Run:
    """Run Python with arguments in the folder and give what it printed."""

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return python


def arqd(line: str) -> list[str]:
    """Turn a command line of the README into arguments for Python."""
    words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
    assert words[0] == "arqd"
    return ["-m", "daemon", *words[1:]]


@contextmanager
def worker(line: str, folder: Path, environ: dict[str, str]) -> Iterator[None]:
    """Run a worker with one of the README's commands, and drain it by SIGTERM."""
    log = folder / "worker.log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, *arqd(line)], cwd=folder, env=environ, stdout=output, stderr=output)
    try:
        wait_for_worker(environ["ARQD_REDIS_URL"], process)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()[-4000:]


def command(start: str) -> str:
    """Give the README's command that starts so."""
    (found,) = [line for line in COMMANDS if re.sub(r"^\w+=\S+ ", "", line).startswith(start)]
    return found


def test_first_job(run: Run, folder: Path, environ: dict[str, str]) -> None:
    with worker(command("arqd run email"), folder, environ):
        done = run("send.py")
    assert done.returncode == 0, done.stderr
    assert re.match(r"email:\S+ <\S+@\S+>$", done.stdout)
    (mail,) = folder.rglob("*.eml")
    assert b"ada@example.com" in mail.read_bytes()


def test_own_family(run: Run, folder: Path, environ: dict[str, str]) -> None:
    with worker(command("arqd run greetings:WorkerSettings"), folder, environ):
        by_program = run("greet.py")
        by_command = run(*arqd(command("arqd enqueue greet")))
    assert by_program.returncode == 0, by_program.stderr
    assert "Hello, Ada!" in by_program.stdout
    assert by_command.returncode == 0, by_command.stderr
    assert "Hello, Ada!" in by_command.stdout


@pytest.mark.parametrize("start", ["arqd stats", "arqd dead list email", "arqd check", "arqd --help"])
def test_look_commands(run: Run, start: str) -> None:
    done = run(*arqd(command(start) if start != "arqd --help" else start))
    assert done.returncode == 0, done.stderr


def test_options_named() -> None:
    (sentence,) = re.findall(r"`enqueue` also takes (.*?);", README, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", sentence)) == set(JobOptions.__annotations__) - {"priority"}


def test_priorities_table() -> None:
    rows = re.findall(r"^\| (\d+) \|([^|]*)\|", README, re.MULTILINE)
    assert {name: int(level) for level, names in rows for name in re.findall(r"`(\w+)`", names)} == PRIORITIES


def test_links_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)", README) if "://" not in target]
    assert [target for target in targets if not (ROOT / target).exists()] == []
