"""The command where families are on several servers of which one is gone and one hangs: the others are shown."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.cli.command import main
from daemon.job import JobState
from daemon.producer import Producer, SyncProducer
from daemon.servers import Servers
from tests.away import near_gone_stuck
from tests.engine import make_family, working
from tests.marks import one_server
from tests.servers import looking_at

#: They are on servers of their own, whatever the others run on.
pytestmark = one_server

Arqd = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with near_gone_stuck(lambda: tmp_path_factory.mktemp("valkey")) as found:
        yield found


@pytest.fixture
def url(servers: Servers) -> Servers:
    """Those servers with one job, whatever the test before has left."""
    with looking_at(servers.default) as client:
        client.flushall()
    with SyncProducer.connect(servers.default) as producer:
        producer.enqueue("process_image", {}, family="media")
    return servers


@pytest.fixture
def arqd(url: Servers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Arqd:
    monkeypatch.setattr("daemon.inspector.ANSWER_SECONDS", 3.0)
    monkeypatch.setenv("ARQD_REDIS_URL", url.default)
    monkeypatch.setenv("ARQD_FAMILY__EMAIL__REDIS_URL", url.families["gone"])
    monkeypatch.setenv("ARQD_FAMILY__PUSH__REDIS_URL", url.families["stuck"])

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return run


def row(out: str, family: str) -> list[str]:
    """Give the cells of the first line that begins with a family."""
    return next(line.split() for line in out.splitlines() if line.startswith(f"{family} "))


def told(err: str) -> None:
    """It says on one line which families there is nothing of, and why."""
    assert err.startswith("arqd: email cannot be asked: Redis cannot be reached (")
    assert err.endswith("; push cannot be asked: Redis did not answer within 3 s\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", [("queues",), ("top", "--once"), ("stats",)], ids=lambda command: command[0])
def test_a_table_has_no_zeros_of_what_is_not_known(arqd: Arqd, command: tuple[str, ...]) -> None:
    status, out, err = arqd(*command)
    assert status == 1
    told(err)
    assert "1" in row(out, "media")
    assert set(row(out, "email")[1:]) == set(row(out, "push")[1:]) == {"-"}
    # In their place, not behind the others.
    families = [line.split()[0] for line in out.split("\n\n")[0].splitlines() if line and line[0].islower()]
    assert [name for name in families if name in ("ai", "email", "media", "push")] == ["ai", "email", "media", "push"]


@pytest.mark.parametrize("command", ["queues", "workers"])
def test_json_names_them(arqd: Arqd, command: str) -> None:
    status, out, err = arqd(command, "--json")
    assert status == 1
    told(err)
    found: list[dict[str, Any]] = json.loads(out)
    away = [each for each in found if "error" in each]
    assert [each["family"] for each in away] == ["email", "push"]
    assert all(each.keys() == {"family", "error"} for each in away)
    if command == "queues":
        assert {each["family"]: each["waiting"] for each in found if "error" not in each}["media"] == 1


def test_workers_of_the_others(arqd: Arqd) -> None:
    status, out, err = arqd("workers")
    assert (status, out.split()[0]) == (1, "family")
    told(err)


def test_dead_letters_of_the_others(arqd: Arqd, url: Servers) -> None:
    async def fail(ctx: object) -> None:
        raise ValueError("no such size")

    async def dead() -> None:
        async with working(url.default, make_family("media", fail)), Producer.connect(url.default) as producer:
            job = await producer.enqueue("fail", [], family="media", max_tries=1)
            while await job.status() != JobState.FAILED:
                await asyncio.sleep(0.05)

    asyncio.run(dead())
    status, out, err = arqd("dead", "groups")
    assert (status, out.split("\n")[1].split()[1]) == (1, "media")
    told(err)
    status, out, err = arqd("dead", "groups", "--json")
    group, *away = json.loads(out)
    assert (status, group["family"], [each["family"] for each in away]) == (1, "media", ["email", "push"])
    told(err)
    # A group of those that answer is found while others are away; an unknown one may be of these.
    assert arqd("dead", "list", "--group", group["id"])[0] == 0
    assert arqd("dead", "list", "--group", "0123456789")[0] == 1
    assert arqd("dead", "discard", "--group", group["id"])[0] == 0


def test_the_archive_of_the_others(
    arqd: Arqd, monkeypatch: pytest.MonkeyPatch, sqlite_template: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("ARQD_DATABASE_URL", f"sqlite:///{shutil.copyfile(sqlite_template, tmp_path / 'arqd.db')}")
    for options in ((), ("--dry-run",), ("--json",)):
        status, out, err = arqd("dead", "archive", *options)
        assert (status, out.startswith("{" if "--json" in options else "nothing new")) == (1, True), err
        told(err)
    assert json.loads(out)["archived"]["media"] == 0
    assert not json.loads(out)["archived"].keys() & {"email", "push"}


def test_events_of_the_others(arqd: Arqd, url: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, err = arqd("tail", "--once", "--since", "start")
    assert (status, "process_image" in out) == (1, True)
    assert "email cannot be asked: Redis cannot be reached (" in err
    assert "push cannot be asked: Redis cannot be reached (Timeout" in err
    printed: list[str] = []

    def line(event: Any) -> str:
        printed.append(event.family)
        raise BrokenPipeError

    monkeypatch.setattr("daemon.cli.watch._line", line)
    saw = threading.Event()
    monkeypatch.setattr("daemon.cli.watch._Away.__call__", lambda _, away: saw.set() if "email" in away else None)
    stop = threading.Event()

    def produce() -> None:
        saw.wait(60)
        with SyncProducer.connect(url.default) as producer:
            while not stop.wait(0.1):
                producer.enqueue("process_image", {}, family="media")

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        arqd("tail")
    finally:
        stop.set()
        thread.join()
    assert printed == ["media"]


def test_where_no_server_answers_there_is_nothing_to_show(
    arqd: Arqd, url: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARQD_REDIS_URL", url.families["gone"])
    status, out, err = arqd("queues")
    assert (status, out) == (1, "")
    assert err.startswith("arqd: Redis cannot be reached (")


def test_every_queue_that_can_be_asked_is_paused_and_drained(arqd: Arqd, url: Servers) -> None:
    arqd("drain", "media")
    with SyncProducer.connect(url.default) as producer:
        producer.enqueue("process_image", {}, family="media", delay=3600)
    for words, done in (
        (["pause"], "media paused"), (["resume"], "media resumed"),
        (["drain"], "media: 1 drained"),
    ):  # fmt: skip
        status, out, err = arqd(*words, "--all")
        assert status == 1
        told(err)
        assert done in out.splitlines()
        assert "email" not in out
    status, out, err = arqd("drain", "--all", "--dry-run", "--json")
    assert (status, json.loads(out)["families"]["media"]) == (1, {"drained": 0})
    told(err)
    # Of one of them there is nothing else to tell.
    status, out, err = arqd("pause", "email")
    assert (status, out) == (1, "")
    assert "cannot be reached" in err
