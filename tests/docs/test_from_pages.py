"""docs/from-arq.md and docs/from-bullmq.md: every row of every table holds, and the programs run as the steps say."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_type_hints

import click
import pytest
import typer
from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.jobs import Job, JobStatus
from arq.worker import Worker as StockWorker
from arq.worker import func as stock_func

from daemon import codec, flows, registry
from daemon.cli.command import app
from daemon.context import JobContext
from daemon.control import Control
from daemon.dotted import shipped_families
from daemon.environment import FALLBACKS
from daemon.errors import PermanentError, RetryAfter
from daemon.events import KINDS
from daemon.family import _EXTRAS, HOOKS, FamilySettings, FamilyValues, func
from daemon.inspector import Inspector
from daemon.job import PRIORITIES, JobState, priority_level
from daemon.probe.app import create_app
from daemon.probe.health import Limits
from daemon.producer import Producer
from daemon.producing.handle import JobHandle
from daemon.producing.options import JobOptions
from daemon.schedules import Schedules
from daemon.scheduling.cron_jobs import crontab
from tests.docs.pages import ROOT, name, names, page, table, wait_for_worker

ARQ, BULLMQ = page("from-arq"), page("from-bullmq")
PROGRAMS = {
    found: inspect.cleandoc("\n" + text)
    for found, text in re.findall(r"```python\n *# (\w+\.py)\n(.*?)```", ARQ, re.DOTALL)
}


def parameters(call: Callable[..., Any]) -> list[str]:
    return [found for found in inspect.signature(call).parameters if found != "self"]


def is_of_a_family(named: str) -> bool:
    """Whether a settings class may set it."""
    return named in {*FamilyValues.model_fields, *HOOKS, *FamilySettings.__annotations__, *_EXTRAS}


def arqd(words: Iterable[str]) -> None:
    """Parse a command line without running it; raises for an unknown command, option or a missing argument."""
    found: Any = typer.main.get_command(app)
    left = list(words)
    context = None
    while hasattr(found, "commands"):
        context = click.Context(found, parent=context)  # type: ignore[arg-type]
        found = found.commands[left.pop(0)]
    found.make_context("arqd", left)


# ---------------------------------------------------------------- from arq


def test_every_setting_of_arq() -> None:
    rows = table(ARQ, "from-arq:settings")
    assert sorted(name(row[0]) for row in rows) == sorted(parameters(StockWorker.__init__))
    source = inspect.getsource(registry)
    for row in rows:
        stock, (kept, *_) = name(row[0]), row[1].split(",")
        told, mentioned = stock in registry._INSTEAD, stock in HOOKS or f'"{stock}"' in source
        assert {"kept": mentioned and not told, "told": told, "not used": not mentioned}[kept], row
        ours = "" if row[2].startswith("–") else name(row[2])
        if ours.startswith("ARQD_"):
            assert ours == "ARQD_REDIS_URL"
        elif ours.startswith("arqd "):
            arqd(["run", "email", *ours.split()[2:]])
        elif ours.startswith("crontab("):
            assert "timezone" in parameters(crontab)
        elif ours:
            assert is_of_a_family(ours), row


def test_arguments_of_func() -> None:
    rows = table(ARQ, "from-arq:func")
    assert [name(row[0]) for row in rows] == parameters(stock_func)
    assert {name(row[1]) for row in rows} <= set(parameters(func))
    (more,) = re.findall(r"arqd's also takes (.*?)\.\n", ARQ)
    assert {name(row[1]) for row in rows} | set(names(more)) == set(parameters(func))


def test_arguments_of_enqueue_job() -> None:
    rows = table(ARQ, "from-arq:enqueue")
    assert {name(row[0]) for row in rows} == set(parameters(ArqRedis.enqueue_job))
    ours = {name(row[1]) for row in rows} - {""}
    assert ours <= {*parameters(Producer.enqueue), *JobOptions.__annotations__}


def test_methods_of_a_job() -> None:
    rows = table(ARQ, "from-arq:job")
    stock = {found for found, _ in inspect.getmembers(Job, inspect.isfunction) if not found.startswith("_")}
    assert {name(row[0]) for row in rows} == stock
    assert all(hasattr(JobHandle, name(row[1])) for row in rows)


def test_states_a_stock_client_sees() -> None:
    rows = table(ARQ, "from-arq:status")
    assert {name(row[0]) for row in rows} == {status.value for status in JobStatus}
    stood_for = {state for row in rows for state in names(row[1])}
    assert stood_for == {state.value for state in JobState}


def test_arguments_of_cron() -> None:
    rows = table(ARQ, "from-arq:cron")
    assert [name(row[0]) for row in rows] == parameters(importlib.import_module("arq.cron").cron)
    ours = {name(row[1]) for row in rows} - {""}
    assert ours <= {*parameters(crontab), *JobOptions.__annotations__}


@pytest.fixture
def run(redis_url: str, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a folder with the page's programs."""
    for program, text in PROGRAMS.items():
        (tmp_path / program).write_text(text)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("ARQD_")}
    environ = {**inherited, "ARQD_REDIS_URL": redis_url, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}

    def python(*arguments: str, **more: Any) -> Any:
        call = subprocess.Popen if more else subprocess.run
        return call(
            [sys.executable, *arguments], cwd=tmp_path, env=environ, text=True, **(more or {"capture_output": True})
        )

    return python


def command(start: str) -> list[str]:
    """Give the page's command that starts so, as arguments for Python."""
    (line,) = [line for line in re.findall(r"^\$ (arqd .*)$", ARQ, re.MULTILINE) if line.startswith(start)]
    return ["-m", "daemon", *shlex.split(line)[1:]]


def test_step_1_and_3_run(run: Callable[..., Any], redis_url: str, tmp_path: Path) -> None:
    """The settings as they are with their stock producer; then beside a family."""
    for step, programs in (
        ("arqd run tasks:WorkerSettings", {"produce.py": "Later to ada@example.com JobStatus.complete\n"}),
        (
            "arqd run mail:WorkerSettings",
            {
                "letters.py": "Welcome to ada@example.com\n",
                "produce.py": "Later to ada@example.com JobStatus.complete\n",
            },
        ),
    ):
        with (tmp_path / "worker.log").open("w") as log:
            worker = run(*command(step), stdout=log, stderr=log)
            try:
                wait_for_worker(redis_url, worker)
                for program, said in programs.items():
                    done = run(program)
                    assert done.stdout == said, done.stderr
            finally:
                worker.terminate()
                assert worker.wait(60) == 0
        assert "PICKLE IS ACCEPTED" in (tmp_path / "worker.log").read_text()


async def test_step_2_reads_both(run: Callable[..., Any], redis_url: str, tmp_path: Path) -> None:
    """Jobs of old and new producers, results in either form: each read by those who have changed over to both."""
    scope: dict[str, Any] = {}
    exec((tmp_path / "both.py").read_text(), scope)
    both, settings = scope["loads"], RedisSettings.from_dsn(redis_url)
    class_ = "\n\nclass Both(WorkerSettings):\n    functions = [send]\n    job_deserializer = loads\n"
    for serializer in ("pickle.dumps", "codec.dumps"):
        text = (
            "import pickle\nfrom daemon import codec\nfrom both import loads\nfrom tasks import WorkerSettings, send\n"
        )
        (tmp_path / "step.py").write_text(f"{text}{class_}    job_serializer = {serializer}\n")
        jobs = []
        for writes in (pickle.dumps, codec.dumps):
            pool = await create_pool(settings, job_serializer=writes, job_deserializer=both)
            jobs.append((pool, await pool.enqueue_job("send", "a@example.com", subject="Hi")))
        done = run("-m", "daemon", "run", "step:Both", "--burst")
        assert done.returncode == 0, done.stderr
        for pool, job in jobs:
            assert job is not None
            assert await job.result(30) == "Hi to a@example.com"
            await pool.aclose()


# ---------------------------------------------------------------- from BullMQ


def test_environment() -> None:
    rows = table(BULLMQ, "from-bullmq:environment")
    assert [(tuple(names(row[0])), tuple(names(row[1]))) for row in rows] == [
        (row.names, row.sets) for row in FALLBACKS
    ]


def test_environment_that_is_not_read() -> None:
    read = {variable for row in FALLBACKS for variable in row.names}
    fields = {f"ARQD_FAMILY__<FAMILY>__{value.upper()}" for value in FamilyValues.model_fields}
    for row in table(BULLMQ, "from-bullmq:unread"):
        assert name(row[0]) not in read, row
        instead = name(row[1])
        assert not instead.startswith("ARQD_FAMILY__") or instead in fields, row
        assert not instead.startswith("ARQD_SMTP__") or instead in {s for r in FALLBACKS for s in r.sets}, row


def test_priorities() -> None:
    # The two scales that count the other way round, by the words their systems have for the numbers.
    scales = {
        3: {20: "urgent", 10: "high", 5: "normal", 1: "low"},
        4: {10: "critical", 5: "high", 0: "normal", -5: "low", -10: "deferred"},
    }
    seen: dict[int, set[int]] = {3: set(), 4: set()}
    named: dict[str, int] = {}
    for row in table(BULLMQ, "from-bullmq:priorities"):
        level = int(row[0])
        assert priority_level(int(row[2])) == level
        for word in (*names(row[1]), *names(row[5])):
            assert priority_level(word) == level
            named[word] = level
        for column, words in scales.items():
            if row[column]:
                number = int(row[column].replace("−", "-"))
                assert priority_level(words[number]) == level, row
                seen[column].add(number)
    assert named == PRIORITIES
    assert seen == {column: set(words) for column, words in scales.items()}


@pytest.mark.parametrize("mark", ["options", "worker"])
def test_options(mark: str) -> None:
    known = {
        "option": set(JobOptions.__annotations__),
        "family": set(FamilyValues.model_fields),
        "settings class": set(FamilySettings.__annotations__),
        "context": set(dir(JobContext)),
        "flow": {"node", "chain", "batch"} & set(vars(flows)),
        "node": set(parameters(flows.node)),
        "–": {""},
    }
    rows = table(BULLMQ, f"from-bullmq:{mark}")
    for row in rows:
        ours = name(row[1]).partition(" ")[0]
        assert ours in known[row[2]], row
    for row in rows:
        if row[2] in ("option", "flow"):
            assert set(names(row[1])) <= known[row[2]], row
        elif row[2] == "node":
            flows.node("function", family="f", rule=names(row[1])[1])  # type: ignore[arg-type]
    if mark == "options":
        described = {row[1].partition("`")[2].partition("`")[0] for row in rows}
        assert described >= set(JobOptions.__annotations__) - {"run_at", "dedup_mode", "expires", "tags"}


def test_an_example_of_attempts_and_backoff() -> None:
    from daemon.family import Exponential, Fixed

    assert "max_tries=3, backoff=Exponential(2)" in BULLMQ
    assert [Exponential(2).wait(ended) for ended in (1, 2)] == [2, 4]
    assert [Fixed(5).wait(ended) for ended in (1, 2)] == [5, 5]


def test_calls() -> None:
    classes = {found.__name__: found for found in (Producer, Inspector, Control, Schedules, JobHandle, JobContext)}
    errors = {found.__name__: found for found in (PermanentError, RetryAfter)}
    for row in table(BULLMQ, "from-bullmq:calls"):
        for ours in names(row[1]):
            owner, _, member = ours.partition(".")
            if member:
                known = {*dir(classes[owner]), *get_type_hints(classes[owner])}
                assert member in known, row
            else:
                assert ours in errors, row


def test_states() -> None:
    rows = table(BULLMQ, "from-bullmq:states")
    states = {name(row[1]) for row in rows} - {""}
    (more,) = re.findall(r"arqd knows three more: (.*?)\. ", BULLMQ, re.DOTALL)
    assert states | set(names(more)) == {state.value for state in JobState if state is not JobState.NOT_FOUND}


def test_events() -> None:
    for row in table(BULLMQ, "from-bullmq:events"):
        assert name(row[1]) in {"", *HOOKS}, row
        assert name(row[2]) in {"", *KINDS}, row


def test_endpoints() -> None:
    limits = Limits(10, 60)
    probe = create_app(Inspector(None, ["email"]), families=["email"], heartbeats=[], limits=limits)
    paths = {getattr(route, "path", "") for route in probe.routes}
    for row in table(BULLMQ, "from-bullmq:endpoints"):
        ours = name(row[1])
        if ours.startswith("GET "):
            assert ours.removeprefix("GET ") in paths, row
        else:
            assert ours.startswith("arqd "), row
            arqd(shlex.split(ours)[1:])


def test_a_command_that_is_not_there_would_be_noticed() -> None:
    with pytest.raises(KeyError):
        arqd(["nothing"])
    with pytest.raises(Exception, match="No such option"):
        arqd(["clean", "email", "--nothing"])


def test_queues() -> None:
    families = shipped_families()
    for row in table(BULLMQ, "from-bullmq:queues"):
        settings = registry.resolve(families[name(row[1])])
        assert name(row[2]) in {func(function).name for function in settings.functions}, row


@pytest.mark.parametrize("text", [ARQ, BULLMQ], ids=["arq", "bullmq"])
def test_links_lead_somewhere(text: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)", text)
    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
