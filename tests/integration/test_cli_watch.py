"""``arqd stats``, ``top`` and ``tail``: what they show, for people and for programs."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.cli.command import main
from daemon.context import JobContext
from daemon.errors import PermanentError
from daemon.producer import SyncProducer
from tests.engine import make_family, run_burst

ROOT = Path(__file__).parents[2]
Arqd = Callable[..., tuple[int, str, str]]


async def send(ctx: JobContext, to: str) -> None:
    if to == "nobody":
        raise PermanentError("no such\x1b[31m address")


@pytest.fixture
def arqd(redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Arqd:
    monkeypatch.setenv("ARQD_REDIS_URL", redis_url)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
async def worked(redis_url: str) -> None:
    """Two mails sent, one failed, one waiting."""
    with SyncProducer.connect(redis_url) as producer:
        for name in ("ada", "grace", "nobody"):
            producer.enqueue("send", [name], family="email", job_id=name)
        await run_burst(redis_url, make_family("email", send))
        producer.enqueue("send", ["later"], family="email", job_id="later")


@pytest.mark.usefixtures("worked")
class TestStats:
    def test_all_families(self, arqd: Arqd) -> None:
        status, out, err = arqd("stats")
        assert (status, err) == (0, "")
        lines = [line.split() for line in out.splitlines()]
        assert lines[1][:4] == ["family", "enqueued", "completed", "failed"]
        assert ["email", "4", "2", "1"] in [line[:4] for line in lines]
        assert ["email", "2", "1"] in lines
        assert "no worker is running" in out
        found = json.loads(arqd("stats", "--json")[1])
        assert found["totals"]["email"] == {"completed": 2, "failed": 1}
        assert found["workers"] == []
        assert found["statistics"]["email"]["total"]["completed"] == 2

    def test_one_family_by_function(self, arqd: Arqd) -> None:
        status, out, err = arqd("stats", "email", "--last", "2h")
        assert (status, err) == (0, "")
        lines = [line.split() for line in out.splitlines()]
        assert [line[:4] for line in lines[2:]] == [["send", "-", "2", "1"], ["all", "4", "2", "1"]]
        found = json.loads(arqd("stats", "email", "--last", "2h", "--json")[1])
        assert found["functions"]["send"]["failed"] == 1
        assert found["step"] == "minute"
        assert 120 <= len(found["series"]) <= 122
        assert sum(point["figures"]["completed"] for point in found["series"]) == 2
        assert found["total"]["p95_run"] > 0

    def test_one_function(self, arqd: Arqd) -> None:
        _, out, _ = arqd("stats", "email", "--function", "send")
        assert [line.split()[0] for line in out.splitlines()[1:]] == ["function", "send"]
        assert json.loads(arqd("stats", "email", "--function", "none", "--json")[1])["functions"] == {}

    @pytest.mark.parametrize(
        ("words", "status", "told"),
        [
            (["emial"], 1, "there is no family 'emial'"),
            (["email", "--last", "soon"], 1, "is not a duration"),
            (["--function", "send"], 2, "name its family"),
        ],
    )
    def test_what_makes_no_sense(self, arqd: Arqd, words: list[str], status: int, told: str) -> None:
        found = arqd("stats", *words)
        assert found[:2] == (status, "")
        assert told in found[2]
        assert len(found[2].splitlines()) == 1


@pytest.mark.usefixtures("worked")
class TestTop:
    def test_a_frame(self, arqd: Arqd) -> None:
        status, out, err = arqd("top", "--once")
        assert (status, err) == (0, "")
        header, *rows = (line.split() for line in out.splitlines())
        row = next(row for row in rows if row[0] == "email")
        assert dict(zip(header, row, strict=False)) | {"waiting": "1", "dead": "1"} == dict(
            zip(header, row, strict=False)
        )

    def test_a_frame_for_programs(self, arqd: Arqd) -> None:
        status, out, err = arqd("top", "email", "--json")
        assert (status, err) == (0, "")
        (told,) = json.loads(out)["queues"]
        assert (told["stats"]["family"], told["stats"]["waiting"], told["stats"]["failed"]) == ("email", 1, 1)
        assert "throughput" in told["minute"]
        assert json.loads(out)["workers"] == []

    def test_an_unknown_family(self, arqd: Arqd) -> None:
        status, _, err = arqd("top", "emial", "--once")
        assert status == 1
        assert "there is no family 'emial'" in err

    def test_on_a_terminal_it_goes_on_until_it_is_interrupted(self, redis_url: str) -> None:
        mine, theirs = pty.openpty()
        with _running(redis_url, "top", stdout=theirs) as process:
            os.close(theirs)
            _shown(mine, b"email")
            _shown(mine, b"email")
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        os.close(mine)
        assert process.returncode == 130
        assert b"Traceback" not in err


def _shown(terminal: int, expected: bytes) -> None:
    """Wait until a terminal shows this."""
    found, deadline = b"", time.monotonic() + 60
    while expected not in found:
        assert time.monotonic() < deadline, found
        if select.select([terminal], [], [], 1)[0]:
            found += os.read(terminal, 65536)


class _running:
    def __init__(self, redis_url: str, *arguments: str, stdout: int = subprocess.PIPE) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "daemon", *arguments],
            cwd=ROOT,
            env={**environ, "ARQD_REDIS_URL": redis_url, "COLUMNS": "200"},
            stdout=stdout,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.usefixtures("worked")
class TestTail:
    def test_what_is_there(self, arqd: Arqd) -> None:
        status, out, err = arqd("tail", "email", "--since", "start", "--once")
        assert (status, err) == (0, "")
        lines = [line.split(None, 3) for line in out.splitlines()]
        assert [line[1:3] for line in lines[:4]] == [
            ["enqueued", "email:ada"], ["enqueued", "email:grace"], ["enqueued", "email:nobody"],
            ["started", "email:ada"],
        ]  # fmt: skip
        (failed,) = [line for line in lines if line[1] == "failed"]
        assert re.match(r"send  try 1  \d", failed[3])
        assert failed[3].endswith("PermanentError: no such\N{REPLACEMENT CHARACTER}[31m address")
        assert arqd("tail", "--since", "1h", "--once")[1] == out

    def test_for_programs_and_from_a_position(self, arqd: Arqd) -> None:
        _, out, _ = arqd("tail", "--since", "2020-01-01T00:00:00.5Z", "--once", "--json")
        found = [json.loads(line) for line in out.splitlines()]
        assert [event["kind"] for event in found[:3]] == ["enqueued"] * 3
        (failed,) = [event for event in found if event["kind"] == "failed"]
        assert (failed["id"], failed["function"], failed["job_try"], failed["family"]) == (
            "email:nobody", "send", 1, "email",
        )  # fmt: skip
        _, out, _ = arqd("tail", "email", "--since", found[-2]["position"], "--once", "--json")
        assert [json.loads(line) for line in out.splitlines()] == found[-1:]

    def test_one_function(self, arqd: Arqd) -> None:
        assert arqd("tail", "--since", "start", "--once", "--function", "other") == (0, "", "")
        everything = arqd("tail", "--since", "start", "--once")
        assert arqd("tail", "--since", "start", "--once", "--function", "send") == everything
        arqd("pause", "email")
        assert "paused" in arqd("tail", "--since", "start", "--once")[1]
        assert arqd("tail", "--since", "start", "--once", "--function", "send") == everything

    @pytest.mark.parametrize(
        ("words", "status", "told"),
        [
            (["emial"], 1, "there is no family 'emial'"),
            (["email", "--since", "once"], 2, "write an ISO 8601 time"),
            (["email", "reprots", "--since", "1-2.3"], 1, "there is no family 'reprots'"),
        ],
    )
    def test_what_makes_no_sense(self, arqd: Arqd, words: list[str], status: int, told: str) -> None:
        found = arqd("tail", *words)
        assert found[:2] == (status, "")
        assert told in found[2]
        assert len(found[2].splitlines()) == 1

    def test_it_goes_on_until_it_is_interrupted(self, redis_url: str) -> None:
        with _running(redis_url, "tail", "email", "--since", "start") as process:
            lines = _lines(process)
            assert "email:ada" in next(lines)
            with SyncProducer.connect(redis_url) as producer:
                producer.enqueue("send", ["new"], family="email", job_id="new")
            assert any("email:new" in line for line in lines)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert b"Traceback" not in out + err

    def test_a_reader_that_has_seen_enough_ends_it_quietly(self, redis_url: str) -> None:
        with _running(redis_url, "tail", "email", "--since", "start") as process:
            next(_lines(process))
            assert process.stdout
            process.stdout.close()
            with SyncProducer.connect(redis_url) as producer:
                producer.enqueue("send", ["new"], family="email")
                producer.enqueue("send", ["new"], family="email")
            process.wait(60)
            assert process.stderr
            assert process.stderr.read() == b""
        assert process.returncode == 0


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    assert process.stdout
    for line in process.stdout:
        yield line.decode()
