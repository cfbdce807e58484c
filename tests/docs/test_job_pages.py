"""What the pages on options of jobs, limits and releases show is true: programs print it, commands run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.payload import Payload
from daemon.producer import SyncProducer

ROOT = Path(__file__).resolve().parents[2]
PAGES = {path.stem: path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md")}


def run(folder: Path, redis_url: str, *arguments: str, **environ: str) -> str:
    """Run Python in the folder as a reader would, and give what it printed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**inherited, "ARQD_REDIS_URL": redis_url, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", ["dedup", "templates"])
def test_programs_print_what_stands_below_them(page: str, redis_url: str, tmp_path: Path) -> None:
    programs = re.findall(r"```python\n# (\w+\.py)\n(.*?)```\n\n```text\n(.*?)```", PAGES[page], re.DOTALL)
    assert programs
    for name, text, output in programs:
        (tmp_path / name).write_text(text)
        assert run(tmp_path, redis_url, name) == output


def test_the_family_with_limits(redis_url: str, tmp_path: Path) -> None:
    programs = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGES["limits"], re.DOTALL))
    (tmp_path / "tenants.py").write_text(programs["tenants.py"])
    with SyncProducer.connect(redis_url) as producer:
        jobs = [producer.enqueue(function, ["acme"], family="tenants", group="acme") for function in ("sync", "report")]
        run(tmp_path, redis_url, "-m", "daemon", "run", "tenants:WorkerSettings", "--burst")
        assert [job.result(30) for job in jobs] == ["acme", "acme"]


def test_the_family_with_versions(redis_url: str, tmp_path: Path) -> None:
    ((name, text),) = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGES["releases"], re.DOTALL)
    (tmp_path / name).write_text(text)

    class SendInvoice(Payload, family="invoices"):
        customer: str

    with SyncProducer.connect(redis_url) as producer:
        job = producer.enqueue(SendInvoice(customer="acme"))
        run(tmp_path, redis_url, "-m", "daemon", "run", "versions:WorkerSettings", "--burst")
        assert job.result(30) == "acme (en)"


def test_the_family_with_a_budget(redis_url: str, tmp_path: Path) -> None:
    programs = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGES["retention"], re.DOTALL))
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
    work = ("-m", "daemon", "run", "pages:WorkerSettings", "--burst")
    run(tmp_path, redis_url, *work)
    (told,) = re.findall(r"```text\n(.*?)```", PAGES["retention"], re.DOTALL)
    assert run(tmp_path, redis_url, "full.py") == told
    run(tmp_path, redis_url, *work)
    listed = json.loads(run(tmp_path, redis_url, "-m", "daemon", "jobs", "pages", "--state", "completed", "--json"))
    assert 3 < len(listed["jobs"]) < 10, "a result stands beside its payload, so that not all of them fit"
    assert {job["result"] for job in listed["jobs"]} == {"X" * 10_000}


def test_families_that_share_a_limit(redis_url: str, tmp_path: Path) -> None:
    programs = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGES["limits"], re.DOTALL))
    (tmp_path / "assistants.py").write_text(programs["assistants.py"])
    families = ["assistants:Summaries", "assistants:Translations"]
    with SyncProducer.connect(redis_url) as producer:
        jobs = [
            producer.enqueue(function, ["good morning"], family=family)
            for family, function in (("summaries", "summarize"), ("translations", "translate"))
        ]
        run(tmp_path, redis_url, "-m", "daemon", "run", *families, "--burst")
        assert [job.result(30) for job in jobs] == ["good morni", "GOOD MORNING"]
    commands = re.findall(r"^\$ arqd (limits .*)$", PAGES["limits"], re.MULTILINE)
    assert len(commands) == 5
    told = [run(tmp_path, redis_url, "-m", "daemon", *shlex.split(command)) for command in commands]
    own = [tuple(output.splitlines()[1].split()[1:4]) for output in told[1:4]]
    assert own == [("-", "20/1s", "operator"), ("5", "20/1s", "operator"), ("-", "-", "settings")]


@pytest.mark.parametrize(
    ("page", "environ"),
    [
        ("templates", {}),
        ("limits", {"ARQD_FAMILIES__TENANTS": "tenants:WorkerSettings"}),
        ("retention", {"ARQD_FAMILIES__PAGES": "pages:WorkerSettings"}),
    ],
)
def test_commands_run(page: str, environ: dict[str, str], redis_url: str, tmp_path: Path) -> None:
    for name, text in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGES[page], re.DOTALL):
        (tmp_path / name).write_text(text)
    (block,) = re.findall(r"```\n((?:export|arqd) .*?)```", PAGES[page], re.DOTALL)
    ran = 0
    for line in block.splitlines():
        first, *words = shlex.split(line, comments=True)
        if first == "export":
            environ = environ | dict(word.split("=", 1) for word in words)
        else:
            run(tmp_path, redis_url, "-m", "daemon", *words, **environ)
            ran += 1
    assert ran


@pytest.mark.parametrize("page", ["dedup", "templates", "limits", "releases", "retention"])
def test_links_lead_somewhere(page: str) -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)", PAGES[page]) if "://" not in target]
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
