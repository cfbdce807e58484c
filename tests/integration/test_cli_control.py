"""The commands that operate queues and jobs, in this process, on a real Valkey."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from daemon.cli import bulk
from daemon.cli.command import main
from daemon.family import load_family
from daemon.producer import SyncProducer
from daemon.supervisor import Supervisor
from handlers import FAMILIES
from tests.integration.cli_family import WorkerSettings


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


Arqd = Callable[..., Ended]


@pytest.fixture
def arqd(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Arqd:  # fmt: skip
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARQD_FAMILIES__GREETINGS", "tests.integration.cli_family:WorkerSettings")
    monkeypatch.setenv("ARQD_REDIS_URL", redis_url)

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        status = main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Ended(status, out, err)

    return run


@pytest.fixture
def producer(redis_url: str) -> Iterator[SyncProducer]:
    with SyncProducer.connect(redis_url) as producer:
        yield producer


def greet(producer: SyncProducer, *names: str, **options: Any) -> list[str]:
    """Enqueue a job for each name and give their ids."""
    return [producer.enqueue("greet", {"name": name}, family="greetings", **options).id for name in names]


def work(redis_url: str) -> None:
    """Run what waits, and end."""
    asyncio.run(Supervisor([load_family(WorkerSettings)], redis_url, burst=True, handle_signals=False).run())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pause"], "name a family, or give --all"),
        (["drain", "email", "--all"], "name a family, or give --all"),
        (["clean", "email", "--state", "waiting"], "'waiting' is not one of 'completed'"),
        (["clean", "email", "--count", "0"], "--count"),
        (["promote"], "Missing argument 'ID...'"),
        (["priority", "email:1"], "Missing argument 'LEVEL'"),
        (["retry"], "give ids, or --family FAMILY --all"),
        (["retry", "--family", "email", "--tag", "x"], "give ids, or --family FAMILY --all"),
        (["jobs", "email", "--since", "yesterday"], "--since: write an ISO 8601 time"),
        (["jobs", "email", "--until", "2030-01-31T08:00:00"], "--until: say the time zone too"),
    ],
)
def test_wrong_usage_is_told_in_one_line(arqd: Arqd, arguments: list[str], said: str) -> None:
    ended = arqd(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pause", "greetigns"], "there is no family 'greetigns': known are "),
        (["drain", "greetigns"], "there is no family 'greetigns'"),
        (["retry", "--family", "greetigns", "--all"], "there is no family 'greetigns'"),
        (["clean", "greetings", "--older-than", "soon"], "'soon' is not a duration"),
        (["priority", "greetings:1", "soon"], "priority 'soon' is not a level"),
        (["jobs", "greetings", "--cursor", "x"], "cursor 'x' is not one of the waiting jobs"),
        (["jobs", "greetings", "--error", "ValueError"], "jobs that are waiting have no error"),
        (["promote", "greetings:none"], "greetings:none not done: there is no such job"),
        (["abort", "greetings:none"], "greetings:none not done: there is no such job"),
    ],
)
def test_what_cannot_be_done_is_told_and_nothing_is_written(
    arqd: Arqd, producer: SyncProducer, arguments: list[str], said: str
) -> None:
    ended = arqd(*arguments)
    assert (ended.status, ended.out) == (1, "")
    assert said in ended.err
    assert arqd("jobs", "greetings", "--json").json() == {"jobs": [], "cursor": None}


def test_pause_and_resume_one_queue_or_all(arqd: Arqd) -> None:
    def paused() -> dict[str, bool]:
        return {found["family"]: found["paused"] for found in arqd("queues", "--json").json()}

    assert arqd("pause", "greetings") == (0, "greetings paused\n", "")
    others = sorted(FAMILIES)
    status, told, error = arqd("pause", "--all")
    assert (status, error) == (0, "")
    assert sorted(told.splitlines()) == sorted([*(f"{name} paused" for name in others), "greetings was paused already"])
    assert set(paused().values()) == {True}
    assert arqd("resume", "email", "--json").json() == {"email": "resumed"}
    assert paused() == {**dict.fromkeys(others, True), "email": False, "greetings": True}
    told = arqd("resume", "--all").out.splitlines()
    assert ("email was not paused" in told, "greetings resumed" in told, len(told)) == (True, True, len(others) + 1)


def test_drain_clean_and_clear(
    arqd: Arqd, producer: SyncProducer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    greet(producer, "Ada", "Grace", "nobody")
    work(redis_url)
    greet(producer, "Ada", "Grace")
    greet(producer, "Ada", delay=600)
    assert arqd("drain", "greetings", "--dry-run").out == "greetings: would be 3 drained\n"
    assert arqd("clear", "--all", "--dry-run", "--json").json()["families"]["greetings"] == {
        "drained": 3, "completed": 2, "failed": 1, "aborted": 0, "expired": 0,
    }  # fmt: skip
    monkeypatch.setattr(bulk, "TOLD_SECONDS", 0)
    drained = arqd("drain", "greetings")
    assert (drained.status, drained.out) == (0, "greetings: 3 drained\n")
    assert drained.err == "greetings: 3 of 3\n"
    assert arqd("clean", "greetings", "--older-than", "1h").out == "greetings: 0 completed\n"
    assert arqd("clean", "greetings", "--count", "1").out == "greetings: 1 completed\n"
    cleaned = arqd("clean", "--all", "--state", "failed", "--json").json()
    assert cleaned["dry_run"] is False
    assert cleaned["families"] == {**{name: {"failed": 0} for name in FAMILIES}, "greetings": {"failed": 1}}
    cleared = arqd("clear", "greetings")
    assert cleared.out == "greetings: 0 drained, 1 completed, 0 failed, 0 aborted, 0 expired\n"


def test_one_job(arqd: Arqd, producer: SyncProducer) -> None:
    (delayed,) = greet(producer, "Ada", delay=600)
    waiting, other = greet(producer, "Ada", "Grace")
    assert arqd("priority", other, "urgent") == (0, f"{other} changed\n", "")
    assert arqd("promote", delayed) == (0, f"{delayed} promoted\n", "")
    again = arqd("promote", delayed, waiting)
    assert (again.status, again.err) == (
        1, f"{delayed} not done: it is not delayed\n{waiting} not done: it is not delayed\n",
    )  # fmt: skip
    order = [job["id"] for job in arqd("jobs", "greetings", "--json").json()["jobs"]]
    assert order == [other, waiting, delayed]
    assert arqd("abort", waiting, other, "--json").json() == {waiting: "aborted", other: "aborted"}
    ended = arqd("abort", waiting)
    assert (ended.status, ended.err) == (1, f"{waiting} not done: it has ended\n")
    assert arqd("job", waiting, "--json").json()["state"] == "aborted"


def test_dead_letters_are_retried_by_filters(arqd: Arqd, producer: SyncProducer, redis_url: str) -> None:
    greet(producer, "nobody", "nobody", tags=["blue"])
    greet(producer, "nobody")
    work(redis_url)
    every = ["retry", "--family", "greetings", "--all"]
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    for filters, expected in (
        (["--tag", "blue"], 2),
        (["--error", "PermanentError", "--function", "greet", "--since", "1h"], 3),
        (["--until", hour_ago], 0),
        (["--function", "other"], 0),
    ):
        assert arqd(*every, *filters, "--dry-run").out == f"greetings: would be {expected} retried\n"
        listed = arqd("jobs", "greetings", "--state", "failed", *filters, "--json").json()["jobs"]
        assert len(listed) == len(arqd("dead", "list", "greetings", *filters, "--json").json()["jobs"]) == expected
    assert arqd(*every, "--tag", "blue").out == "greetings: 2 retried\n"
    assert arqd(*every, "--json").json() == {"dry_run": False, "families": {"greetings": {"retried": 1}}}


def test_a_list_goes_on_at_its_cursor(arqd: Arqd, producer: SyncProducer, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = greet(producer, "Ada", "Grace", "Alan", "Emmy", "Ada")
    first = arqd("jobs", "greetings", "--limit", "2").out.splitlines()
    assert [line.split()[0] for line in first[1:3]] == ids[:2]
    cursor = first[3].removeprefix("more: --cursor ")
    rest = arqd("jobs", "greetings", "--cursor", cursor, "--json").json()
    assert ([job["id"] for job in rest["jobs"]], rest["cursor"]) == (ids[2:], None)
    # A filtered page is filled up however few jobs one call looks at.
    monkeypatch.setattr("daemon.pages.PAGE", 1)
    monkeypatch.setattr("daemon.pages.SCAN", 1)
    rare = producer.enqueue("process_id", [], family="greetings").id
    found = arqd("jobs", "greetings", "--function", "process_id", "--limit", "1", "--json").json()
    assert [job["id"] for job in found["jobs"]] == [rare]
