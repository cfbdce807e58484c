"""``arqd dead``, in this process, on a real Valkey."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from daemon.cli import bulk
from daemon.cli.command import main
from daemon.family import load_family
from daemon.producer import SyncProducer
from daemon.supervisor import Supervisor
from handlers import FAMILIES
from tests.integration.dead_family import FIXED, WorkerSettings

ROOT = Path(__file__).parents[2]
FAMILY = "tests.integration.dead_family:WorkerSettings"


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Arqd = Callable[..., Ended]


@pytest.fixture
def arqd(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Arqd]:
    """Run a command in an empty folder; nothing is fixed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARQD_FAMILIES__SHOP", FAMILY)
    monkeypatch.setenv("ARQD_REDIS_URL", redis_url)

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        status = main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Ended(status, out, err)

    FIXED.clear()
    yield run
    FIXED.clear()


@pytest.fixture
def dead(redis_url: str) -> None:
    """Six dead letters of one bug, four of another."""
    with SyncProducer.connect(redis_url) as producer:
        for function, count in (("ship", 6), ("bill", 4)):
            for n in range(count):
                producer.enqueue(function, [n], family="shop", job_id=f"{function}-{n}", tags=[f"n{n}"])
    asyncio.run(Supervisor([load_family(WorkerSettings)], redis_url, burst=True, handle_signals=False).run())


@contextmanager
def worker(redis_url: str) -> Iterator[None]:
    """A worker beside the command."""
    running: list[tuple[asyncio.AbstractEventLoop, Supervisor]] = []

    async def run() -> None:
        supervisor = Supervisor([load_family(WorkerSettings)], redis_url, handle_signals=False)
        running.append((asyncio.get_running_loop(), supervisor))
        await supervisor.run()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    deadline = time.monotonic() + 60
    while not running or running[0][1].state == "starting":
        assert time.monotonic() < deadline, "no worker"
        time.sleep(0.01)
    yield
    loop, supervisor = running[0]
    loop.call_soon_threadsafe(supervisor.drain)
    thread.join(60)
    assert not thread.is_alive()


def groups(arqd: Arqd) -> dict[str, dict[str, Any]]:
    """Give the groups by the function whose jobs they hold."""
    return {group["functions"][0]: group for group in arqd("dead", "groups", "--json").json()}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list"], "name a family, or give --group"),
        (["list", "--group", "xyz"], "cause 'xyz' is none: it is ten hexadecimal digits"),
        (["list", "--group", "0123456789"], "there is no group 0123456789: arqd dead groups lists those there are"),
        (["groups", "shpo"], f"no family 'shpo': known are {', '.join(sorted([*FAMILIES, 'shop']))}"),
        (["retry"], "give ids, --group, or --family FAMILY --all"),
        (["retry", "--family", "shop"], "give ids, --group, or --family FAMILY --all"),
        (["retry", "--all"], "name the --family"),
        (["retry", "shop:1", "--all"], "give ids, --group, or --family FAMILY --all"),
        (["retry", "--group", "0123456789", "--all"], "give ids, --group, or --family FAMILY --all"),
        (["retry", "shop:1", "--tag", "x"], "filters go with --group or --all"),
        (["discard", "shop:1", "--family", "shop"], "filters go with --group or --all"),
        (["retry", "--group", "0123456789"], "there is no group 0123456789"),
        (["retry", "--group", "0123456789", "--family", "shop"], "there is no group 0123456789"),
        (["discard", "--group", "0123456789"], "there is no group 0123456789"),
        (["retry", "--family", "shpo", "--all"], "there is no family 'shpo'"),
        (["retry", "--family", "shop", "--all", "--rate", "soon"], "rate 'soon': write starts per period"),
        (["retry", "--family", "shop", "--all", "--canaries", "501"], "--canaries"),
        (["retry", "--family", "shop", "--all", "--tolerance", "0"], "--tolerance"),
        (["retry", "--family", "shop", "--all", "--patience", "soon"], "'soon' is not a duration"),
        (["retry", "--family", "shop", "--all"], "shop has no worker, so canaries would not run"),
    ],
)
@pytest.mark.usefixtures("dead")
def test_what_cannot_be_done_is_told_in_one_line(arqd: Arqd, arguments: list[str], said: str) -> None:
    ended = arqd("dead", *arguments)
    assert ended.status in (1, 2)
    assert ended.out == ""
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_without_dead_letters(arqd: Arqd) -> None:
    assert arqd("dead", "groups") == (0, "no dead letters\n", "")
    assert arqd("dead", "groups", "--json").json() == []
    assert arqd("dead", "retry", "--family", "shop", "--all", "--dry-run") == (0, "no dead letters\n", "")
    assert arqd("dead", "retry", "--family", "shop", "--all", "--canaries", "0", "--json").json() == {
        "dry_run": False, "groups": [],
    }  # fmt: skip


@pytest.mark.usefixtures("dead")
def test_groups_and_their_jobs(arqd: Arqd) -> None:
    ship, bill = groups(arqd)["ship"], groups(arqd)["bill"]
    assert (ship["count"], ship["type"], ship["family"]) == (6, "LookupError", "shop")
    assert ship["place"] == "tests.integration.dead_family:ship"
    assert bill["message"] == "order # costs nothing"
    header, *rows = arqd("dead", "groups", "shop").out.splitlines()
    assert header.split()[:3] == ["group", "family", "count"]
    assert [row.split()[:3] for row in rows] == [[ship["id"], "shop", "6"], [bill["id"], "shop", "4"]]
    assert "\x1b" not in "".join(rows)
    listed = arqd("dead", "list", "--group", bill["id"], "--json").json()["jobs"]
    assert sorted(job["id"] for job in listed) == [f"shop:bill-{n}" for n in range(4)]
    assert {job["cause"] for job in listed} == {bill["id"]}
    assert len(arqd("dead", "list", "shop", "--group", ship["id"], "--tag", "n1", "--json").json()["jobs"]) == 1
    assert f"cause        {ship['id']}" in arqd("job", "shop:ship-1").out


@pytest.mark.usefixtures("dead")
def test_a_dry_run_counts(arqd: Arqd) -> None:
    bill = groups(arqd)["bill"]["id"]
    ended = arqd("dead", "retry", "--group", bill, "--dry-run")
    assert (ended.status, ended.out.splitlines()[1].split()[:2]) == (0, [bill, "4"])
    found = arqd("dead", "retry", "--family", "shop", "--all", "--tag", "n1", "--dry-run", "--json").json()
    assert found["dry_run"]
    assert [(one["found"], one["retried"], one["left"], one["state"]) for one in found["groups"]] == [
        (1, 0, 1, "found"), (1, 0, 1, "found"),
    ]  # fmt: skip
    assert arqd("dead", "discard", "--group", bill, "--dry-run").out == "shop: would be 4 discarded\n"
    assert sum(group["count"] for group in groups(arqd).values()) == 10


@pytest.mark.usefixtures("dead")
def test_the_fixed_group_goes_back_and_the_other_is_stopped(
    arqd: Arqd, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FIXED.add("ship")
    monkeypatch.setattr(bulk, "TOLD_SECONDS", 0)
    with worker(redis_url):
        ended = arqd("dead", "retry", "--family", "shop", "--all", "--canaries", "1", "--rate", "600/m")
        header, *rows = ended.out.splitlines()
        assert header.split() == ["group", "found", "retried", "left", "came", "back", "place", "outcome"]
        assert [row.split(maxsplit=6)[1:5] + row.split(maxsplit=6)[6:] for row in rows] == [
            ["6", "6", "0", "0", "done"], ["4", "1", "3", "1", "stopped: the same cause came back"],
        ]  # fmt: skip
        assert ended.status == 1
        assert ended.err.splitlines()[-1] == "shop: 7 of 10"
        FIXED.add("bill")
        bill = groups(arqd)["bill"]["id"]
        again = arqd("dead", "retry", "--group", bill, "--rate", "none", "--json")
        assert again.status == 0
        (one,) = again.json()["groups"]
        assert (one["group"]["id"], one["found"], one["retried"], one["state"]) == (bill, 4, 4, "done")


@pytest.mark.usefixtures("dead")
def test_discard(arqd: Arqd) -> None:
    found = groups(arqd)
    assert arqd("dead", "discard", "--group", found["bill"]["id"], "--tag", "n1").out == "shop: 1 discarded\n"
    for command in (("retry",), ("dead", "retry"), ("dead", "discard")):
        done = "discarded" if "discard" in command else "retried"
        counted = arqd(*command, "shop:bill-2", "shop:none", "--dry-run")
        assert (counted.status, counted.out) == (1, f"shop:bill-2 would be {done}\n")
        assert counted.err == "shop:none not done: there is no such job\n"
        assert arqd(*command, "shop:bill-2", "--dry-run", "--json").json() == {"shop:bill-2": done}
    assert arqd("dead", "discard", "shop:bill-2", "--json").json() == {"shop:bill-2": "discarded"}
    assert arqd("dead", "discard", "shop:bill-2").err == "shop:bill-2 not done: there is no such job\n"
    assert arqd("dead", "discard", "--family", "shop", "--all", "--function", "ship", "--json").json() == {
        "dry_run": False, "families": {"shop": {"discarded": 6}},
    }  # fmt: skip
    assert groups(arqd)["bill"]["count"] == 2


@pytest.mark.usefixtures("dead")
def test_ctrl_c_prints_what_was_done(arqd: Arqd) -> None:
    command = [sys.executable, "-m", "daemon", "dead", "retry", "--family", "shop", "--all"]
    process = subprocess.Popen(
        [*command, "--canaries", "0", "--rate", "1/m"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while sum(group["count"] for group in groups(arqd).values()) == 10:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert [line.split(maxsplit=6)[1:4] for line in out.splitlines()[1:]] == [["6", "1", "5"], ["4", "0", "4"]]
    assert out.count("interrupted") == 2
