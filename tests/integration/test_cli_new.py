"""``arqd new family``: what it writes works as it is, and it spoils nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.cli.command import main

ROOT = Path(__file__).parents[2]
NAMES = [("shop-two", "", "shop_two", "ShopTwo"), ("billing", "app.jobs", "app.jobs.billing", "Billing")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder one works in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python(*arguments: str, **environ: str) -> str:
    """Run Python here, as somebody who has arqd installed; give what it printed."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("ARQD_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, *arguments],
        env=variables | {"PYTHONPATH": str(ROOT)} | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("name", "package", "dotted", "camel"), NAMES)
def test_what_is_written_passes_its_test_and_the_checkers(
    name: str, package: str, dotted: str, camel: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "family", name, "--package", package]) == 0
    assert f"arqd run {dotted}.worker:WorkerSettings" in capsys.readouterr().out
    assert "1 passed" in python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    python("-m", "ruff", "check", "--isolated", "--no-cache", "--line-length=120", "--select=E,F,I,UP", ".")
    python("-m", "ruff", "format", "--isolated", "--no-cache", "--line-length=120", "--check", ".")
    assert f"class Handle{camel}(Payload" in (folder / Path(*dotted.split(".")) / "payloads.py").read_text()


def test_the_commands_it_names_run(redis_url: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "family", "shop"]) == 0
    steps = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert steps[0] == ["arqd", "run", "shop.worker:WorkerSettings"]
    assert steps[1][:5] == ["arqd", "enqueue", "handle_shop", "--family", "shop"]
    assert steps[3][1] == """ARQD_FAMILIES='{"shop":"""
    job = python("-m", "daemon", *steps[1][1:5], "--json", '{"name": "Ada"}', ARQD_REDIS_URL=redis_url).strip()
    python("-m", "daemon", *steps[0][1:], "--burst", ARQD_REDIS_URL=redis_url)
    assert "Hello, Ada!" in python("-m", "daemon", "job", job, ARQD_REDIS_URL=redis_url)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["Shop"], "family 'Shop' must match [a-z0-9_-]+"),
        (["email"], "there is a family 'email' already, which ships with arqd: take another name"),
        (["class"], "'class' cannot be the name of a Python package"),
        (["1st"], "'1st' cannot be the name of a Python package"),
        (["shop", "--package", "app..jobs"], "'app..jobs.shop' cannot be the name of a Python package"),
        (["asyncio"], "a package 'asyncio' would hide another one: take another name, or give --package"),
        (["handlers"], "a package 'handlers' would hide another one: take another name, or give --package"),
        (["taken"], "taken is there already: nothing was written"),
        (["tested"], "tests/test_tested.py is there already: nothing was written"),
    ],
)
def test_what_it_refuses(arguments: list[str], why: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "taken").mkdir()
    (folder / "tests").mkdir()
    (folder / "tests/test_tested.py").write_text("# mine\n")
    before = sorted(folder.rglob("*"))
    assert main(["new", "family", *arguments]) == 1
    assert capsys.readouterr().err == f"arqd: {why}\n"
    assert sorted(folder.rglob("*")) == before


def test_a_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new"]) == 2
    assert capsys.readouterr().err.startswith("Usage: arqd new [OPTIONS] COMMAND [ARGS]...\n\n  Files to begin with.\n")
