"""What systemd is told, and files of variables."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.environment import collect
from daemon.errors import ConfigurationError
from daemon.family import FamilySettings, FamilyValues, load_family
from daemon.process.notify import Notifier
from daemon.process.service import Service
from daemon.producer import Producer
from daemon.supervisor import Supervisor


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's end: a datagram socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        yield listener


def heard(manager: socket.socket) -> list[str]:
    lines = []
    while True:
        try:
            lines += manager.recv(4096).decode().splitlines()
        except BlockingIOError:
            return lines


def notifier(manager: socket.socket, **environ: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": manager.getsockname(), **environ})


def test_nothing_is_sent_where_nobody_listens(tmp_path: Path) -> None:
    Notifier({}).ready("up")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("up")


def test_the_watchdog_is_fed_only_by_the_process_it_watches(manager: socket.socket) -> None:
    watched = notifier(manager, WATCHDOG_USEC="900000", WATCHDOG_PID=str(os.getpid()))
    assert watched.interval == pytest.approx(0.3)
    watched.alive()
    notifier(manager, WATCHDOG_USEC="900000", WATCHDOG_PID="1").alive()
    assert heard(manager) == ["WATCHDOG=1"]


async def test_a_server_tells_that_its_loop_turns_and_that_it_ends(manager: socket.socket) -> None:
    with notifier(manager, WATCHDOG_USEC="30000").keeping_alive():
        async with asyncio.timeout(60):
            while heard(manager).count("WATCHDOG=1") == 0:
                await asyncio.sleep(0.01)
    assert heard(manager)[-1] == "STOPPING=1"


def test_files_of_variables_stand_in_for_those_that_are_not_set(tmp_path: Path) -> None:
    first, second = tmp_path / "one.env", tmp_path / "two.env"
    first.write_text("# a comment\n\nARQD_LOG_LEVEL = debug\nARQD_VAR_DIR='one'\nOTHER=x\n")
    second.write_text('; another\nARQD_VAR_DIR="two"\nARQD_LOG_FORMAT=text\n')
    named = f"{first}:-{tmp_path}/missing.env:{second}"
    found, _ = collect({"ARQD_ENV_FILE": named, "ARQD_LOG_FORMAT": "json"})
    assert {name: found.values[name] for name in ("ARQD_LOG_LEVEL", "ARQD_VAR_DIR", "ARQD_LOG_FORMAT")} == {
        "ARQD_LOG_LEVEL": "debug",
        "ARQD_VAR_DIR": "two",
        "ARQD_LOG_FORMAT": "json",
    }
    with pytest.raises(ConfigurationError, match="there is no file"):
        collect({"ARQD_ENV_FILE": f"{tmp_path}/missing.env"})
    # What is empty counts as unset.
    found, _ = collect({"ARQD_ENV_FILE": str(first), "ARQD_LOG_LEVEL": ""})
    assert found.values["ARQD_LOG_LEVEL"] == "debug"
    for wrong in ("ARQD_LOG_LEVEL\n", "export ARQD_LOG_LEVEL=debug\n"):
        first.write_text(wrong)
        with pytest.raises(ConfigurationError, match="is not NAME=value"):
            collect({"ARQD_ENV_FILE": str(first)})


async def task(ctx: object) -> None:
    """Do nothing."""


class WorkerSettings(FamilySettings):
    family = "served"
    functions = (task,)


async def test_a_worker_tells_how_it_does_and_takes_up_limits(
    manager: socket.socket, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    answers: list[dict[str, FamilyValues] | Exception] = [
        {"served": FamilyValues(max_jobs=3, rate_limit="7/1s", group_limits={"trial:*": 1}, lease=99)},
        ConfigurationError("ARQD_X is not a setting"),
        ValueError("secret"),
        {"another": FamilyValues()},
    ]

    def reload() -> dict[str, FamilyValues]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    service = Service(notifier(manager), reload)
    supervisor = Supervisor([load_family(WorkerSettings)], redis_url, handle_signals=False, beside=[service.run])
    running = asyncio.create_task(supervisor.run())
    lines: list[str] = []

    async def told(line: str) -> None:
        async with asyncio.timeout(60):
            while line not in lines:
                lines.extend(heard(manager))
                await asyncio.sleep(0.01)

    await told("READY=1")
    assert "STATUS=running 0 of 10 jobs: served" in lines
    os.kill(os.getpid(), signal.SIGHUP)
    await told("STATUS=running 0 of 3 jobs: served")
    assert "RELOADING=1" in lines
    assert "served: lease cannot change while it runs: restart it" in caplog.text
    async with Producer.connect(redis_url) as producer:
        async with asyncio.timeout(60):
            while await producer.redis.hget("{served}:conf", "rate") != b"7":
                await asyncio.sleep(0.01)
        assert await producer.redis.hgetall("{served}:limits") == {b"s:g:trial:*": b"1||"}
    os.kill(os.getpid(), signal.SIGHUP)
    await told("STATUS=not reloaded: ARQD_X is not a setting")
    # systemd waits for an answer, whatever happens.
    os.kill(os.getpid(), signal.SIGHUP)
    await told("STATUS=not reloaded: ValueError")
    lines.clear()
    os.kill(os.getpid(), signal.SIGHUP)
    await told("READY=1")
    assert "served: the settings have no such family any more: restart it" in caplog.text
    assert supervisor.workers[0].max_jobs == 3
    supervisor.drain()
    await told("STOPPING=1")
    await running
