"""The page on dead letters: its story is told as it is printed, its other commands and its program run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import redrive
from daemon.causes import KEPT
from daemon.cli.command import main
from tests.docs.pages import wait_for_worker

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "dead-letters.md").read_text("utf-8")
STORY, LOOKING, SENDING, ARCHIVING = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
#: Times, and which of the jobs that ended in one millisecond is called the newest.
VARYING = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ|shop:(?:ship|bill)-\d+")


class Shell:
    """Runs lines of a shell in which ``arqd`` is the command; ``export`` and ``&`` last until the end."""

    def __init__(self, folder: Path, url: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
        self.environ = inherited | {"ARQD_REDIS_URL": url, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
        self.folder = folder
        self.background: list[subprocess.Popen[bytes]] = []

    def run(self, line: str) -> str:
        """Run a line, and give what it printed."""
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self.environ[name] = value
            return ""
        if line.endswith(" &"):
            words = line.removesuffix(" &").split()[1:]
            command = [sys.executable, "-m", "daemon", *words]
            self.background.append(
                subprocess.Popen(command, cwd=self.folder, env=self.environ, stderr=subprocess.DEVNULL)
            )
            wait_for_worker(self.environ["ARQD_REDIS_URL"], self.background[-1])
            return ""
        script = f'arqd() {{ "{sys.executable}" -m daemon "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n{line}'
        done = subprocess.run(
            ["sh", "-c", script], cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture
def shell(redis_url: str, tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path, redis_url)
    for name, text in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(text)
    yield made
    for process in made.background:
        process.terminate()
        process.wait(60)


def groups_in(text: str) -> list[str]:
    return re.findall(r"^([0-9a-f]{10}) ", text, re.MULTILINE)


def test_the_story_is_told_as_it_is_printed(shell: Shell) -> None:
    commands = re.findall(r"^\$ (.*)\n((?:[^$\n].*\n)*)", STORY, re.MULTILINE)
    assert len(commands) == STORY.count("$ ")
    for line, output in commands:
        printed = shell.run(re.sub(r" +#.*", "", line))
        assert VARYING.sub("~", printed) == VARYING.sub("~", output), line


def test_the_other_commands_and_the_program(shell: Shell) -> None:
    for line in ("export ARQD_FAMILIES__SHOP=shop:WorkerSettings", "python orders.py", "arqd run shop --burst"):
        shell.run(line)
    ids = groups_in(shell.run("arqd dead groups shop"))
    assert len(ids) == 2
    lines = [line for block in (LOOKING, SENDING) for line in re.findall(r"^\$ (.*)$", block, re.MULTILINE)]
    assert len(lines) == 8
    for line in lines:
        shell.run(line.replace("GROUP", ids[0]))
    printed = shell.run("python again.py").splitlines()
    assert [line for line in printed if " of " not in line] == [
        "20 LookupError shop:ship ('ship',)", "done 20 0", "9 ZeroDivisionError shop:bill ('bill',)", "done 9 0",
    ]  # fmt: skip


def test_the_commands_of_the_archive(
    shell: Shell, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.environ["ARQD_FAMILIES__SHOP"] = "shop:WorkerSettings"
    shell.run("python orders.py")
    shell.run("arqd run shop --burst")
    # From here on in this process, and with the tables made: it is one command after the other.
    for name, value in shell.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(shell.folder)
    monkeypatch.syspath_prepend(shell.folder)
    (shell.folder / "var").mkdir(exist_ok=True)
    shutil.copyfile(sqlite_template, shell.folder / "var" / "arqd.db")

    def arqd(line: str) -> str:
        assert main(shlex.split(line, comments=True)[1:]) == 0, line
        return capsys.readouterr().out

    printed = []
    for line in re.findall(r"^\$ (.*)$", ARCHIVING, re.MULTILINE):
        if "NUMBER" in line:
            (letter,) = json.loads(arqd("arqd dead archived --text ship-7 --json"))["letters"]
            line = line.replace("NUMBER", str(letter["id"]))
        printed.append(arqd(line))
    sys.modules.pop("shop")
    assert printed[1] == "shop: 30 archived\n"
    assert printed[2].count("no article 'salt'") == 20
    assert "raise LookupError" in printed[3]
    assert printed[4:] == ["20 would be retried\n", "1 retried\n"]


def test_numbers_words_and_links_are_as_told() -> None:
    assert f"first {KEPT} characters" in PAGE
    assert redrive.AT_ONCE == 8
    assert "eight of them at the same time" in PAGE
    assert all(f"`{state}`" in PAGE for state in redrive.RedriveState)
    targets = [target for target in re.findall(r"\]\(([^)#]+)", PAGE) if "://" not in target]
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
