"""The commands that stay, each as a process of its own: ``run``, ``probe``, ``up``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from asyncio.subprocess import Process
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from daemon.cli import processes
from daemon.cli.command import main
from daemon.process.heartbeat import read_heartbeat
from daemon.process.notify import Notifier
from daemon.producer import SyncProducer
from handlers import FAMILIES
from tests.conftest import RedisServerFactory
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
FAMILY = "tests.integration.cli_family:WorkerSettings"
PATIENCE = 60.0


def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Poll until a condition is true and give it."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)
    return found


class Arqd:
    """A running command; its output goes to a file, or with a terminal to `screen`."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], environ: dict[str, str], terminal: bool) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
        environ = {**inherited, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(folder), **environ}
        self.log = folder / f"{arguments[0]}-{time.monotonic_ns()}.log"
        self._terminal, side = pty.openpty() if terminal else (-1, -1)
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "daemon", *arguments],
                cwd=folder,
                env=environ,
                stdin=side if terminal else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # The terminal becomes the session's own, so that it turns Ctrl-C into a signal for the group.
                preexec_fn=(lambda: os.close(os.open(os.ttyname(0), os.O_RDWR))) if terminal else None,
            )
        if terminal:
            os.close(side)

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text("utf-8")

    def said(self, pattern: str) -> re.Match[str]:
        """Wait until it has printed something."""

        def found() -> re.Match[str] | None:
            # Looked at first: what it says last it may say before it ends, and after its text was read.
            ended = self.process.poll() is not None
            match = re.search(pattern, self.text)
            assert match or not ended, f"it has ended:\n{self.text}"
            return match

        found_it: re.Match[str] = until(found, f"{pattern}\n{self.text}")
        return found_it

    def press_ctrl_c(self) -> None:
        """Type Ctrl-C in its terminal."""
        os.write(self._terminal, b"\x03")

    def ended(self, number: int | None = None) -> int:
        """Send a signal, if one is given, and give the exit status."""
        if number is not None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end:\n{self.text}") from None

    def kill(self) -> None:
        """End it and what it has started, whatever the test has left."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._terminal >= 0:
            os.close(self._terminal)


Start = Callable[..., Arqd]


@pytest.fixture
def start(tmp_path: Path, redis_url: str) -> Iterator[Start]:
    """Start a command in an empty folder on a real Valkey; keywords are variables."""
    started: list[Arqd] = []

    def begin(*arguments: str, terminal: bool = False, **environ: str) -> Arqd:
        variables = {"ARQD_REDIS_URL": redis_url, "ARQD_CONSOLE__PORT": "0", **environ}
        started.append(Arqd(tmp_path, arguments, variables, terminal))
        return started[-1]

    yield begin
    for process in started:
        process.kill()


def get(url: str) -> tuple[int, Any]:
    """Give status and JSON of a page."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_waiting_for_a_result_can_be_interrupted(start: Start, redis_url: str) -> None:
    waiting = start("enqueue", "greet", "--json", '{"name": "Ada"}', "--wait", ARQD_FAMILIES__GREETINGS=FAMILY)
    job_id = waiting.said(r"greetings:\w+")[0]
    assert waiting.ended(signal.SIGINT) == 130
    assert "Traceback" not in waiting.text
    with SyncProducer.connect(redis_url) as producer:
        assert producer.job(job_id).status() == "waiting"


# ---------------------------------------------------------------------- run


def test_burst_runs_what_waits_and_ends(start: Start, redis_url: str) -> None:
    with SyncProducer.connect(redis_url) as producer:
        jobs = [producer.enqueue("greet", {"name": str(n)}, family="greetings") for n in range(3)]
        worker = start("run", FAMILY, "--burst")
        assert worker.ended() == 0, worker.text
        assert [job.result(timeout=PATIENCE)["text"] for job in jobs] == ["Hello, 0!", "Hello, 1!", "Hello, 2!"]


def test_a_signal_drains(start: Start, redis_url: str) -> None:
    worker = start("run", "greetings", ARQD_FAMILIES__GREETINGS=FAMILY, ARQD_FAMILY__GREETINGS__DRAIN_TIMEOUT="0.1")
    with SyncProducer.connect(redis_url) as producer:
        job = producer.enqueue("greet", {"name": "forever"}, family="greetings")
        until(lambda: job.progress() == 50)
        assert worker.ended(signal.SIGTERM) == 0, worker.text
        info = job.info()
        assert (info.state, info.tries) == ("waiting", 0)


def test_it_waits_for_a_redis_that_is_not_there(start: Start, redis_server: RedisServerFactory) -> None:
    server = redis_server()
    server.stop()
    worker = start("run", FAMILY, ARQD_REDIS_URL=server.url)
    worker.said("cannot be reached|is away|Connection refused|connecting to")
    server.start()
    with SyncProducer.connect(server.url) as producer:
        assert producer.enqueue("process_id", [], family="greetings").result(timeout=PATIENCE) == worker.process.pid
    assert worker.ended(signal.SIGTERM) == 0


def test_a_wrong_password_ends_it_with_one_line(start: Start, redis_server: RedisServerFactory) -> None:
    server = redis_server(password="right")
    worker = start("run", FAMILY, ARQD_REDIS_URL=server.url.replace("right", "wrong"))
    assert worker.ended() == 1
    assert "Redis refuses this user" in worker.text.splitlines()[-1]
    assert "Traceback" not in worker.text
    assert "wrong" not in worker.text


def test_processes_share_the_work_and_drain_together(start: Start, tmp_path: Path, redis_url: str) -> None:
    files = [tmp_path / "worker-1.json", tmp_path / "worker-2.json"]
    workers = start("run", FAMILY, "--processes", "2", ARQD_HEARTBEAT_FILE=str(tmp_path / "worker.json"))
    beats = [until(lambda file=file: read_heartbeat(file), str(file)) for file in files]  # type: ignore[misc]
    assert len({beat["pid"] for beat in beats} | {workers.process.pid}) == 3

    beside = start(
        "probe", ARQD_PROBE__PORT="0", ARQD_PROBE__WORKERS="2", ARQD_HEARTBEAT_FILE=str(tmp_path / "worker.json")
    )
    url = beside.said(r"http://127.0.0.1:\d+")[0]
    until(lambda: get(f"{url}/readyz")[0] == 200)
    pids = {check["componentId"] for check in get(f"{url}/livez")[1]["checks"]["worker:heartbeat"]}
    assert pids == {str(beat["pid"]) for beat in beats}

    with SyncProducer.connect(redis_url) as producer:
        assert producer.enqueue("process_id", [], family="greetings").result(timeout=60) in {
            beat["pid"] for beat in beats
        }
    assert workers.ended(signal.SIGTERM) == 0, workers.text
    assert not any(file.exists() for file in files)


def beats_of(tmp_path: Path, but: frozenset[int] = frozenset()) -> list[int]:
    """Wait until two processes run, neither of them one of some that should be gone, and give their ids."""

    def running() -> list[int] | None:
        beats = [read_heartbeat(tmp_path / f"worker-{n}.json") for n in (1, 2)]
        pids = [beat["pid"] for beat in beats if beat and beat["state"] == "running" and beat["pid"] not in but]
        return pids if len(pids) == 2 else None

    found: list[int] = until(running, "two processes run")
    return found


def test_a_killed_process_is_started_again_and_dead_parents_are_followed(start: Start, tmp_path: Path) -> None:
    workers = start("run", FAMILY, "--processes", "2", ARQD_HEARTBEAT_FILE=str(tmp_path / "worker.json"))
    victim, other = beats_of(tmp_path)
    os.kill(victim, signal.SIGKILL)
    workers.said("worker process 1 ended with status -9: starting another in 0.5 s")
    pids = beats_of(tmp_path, frozenset({victim}))
    assert other in pids
    workers.process.kill()
    workers.process.wait()
    until(lambda: not any((tmp_path / f"worker-{n}.json").exists() for n in (1, 2)), "they drained")


def test_processes_are_recycled_one_at_a_time_with_no_job_lost(start: Start, tmp_path: Path, redis_url: str) -> None:
    workers = start(
        "run", FAMILY, "--processes", "2", "--recycle-jobs", "5", ARQD_HEARTBEAT_FILE=str(tmp_path / "worker.json")
    )
    first = frozenset(beats_of(tmp_path))
    with SyncProducer.connect(redis_url) as producer:

        def replaced() -> bool:
            jobs = [producer.enqueue("process_id", [], family="greetings") for _ in range(10)]
            return first.isdisjoint([job.result(timeout=PATIENCE) for job in jobs])

        until(replaced, "both were replaced")
    assert re.search(r"worker process \d has ended \d+ jobs: draining it", workers.text)
    assert workers.ended(signal.SIGTERM) == 0, workers.text


def test_too_much_memory_recycles_a_process(start: Start, tmp_path: Path) -> None:
    workers = start(
        "run", FAMILY, "--processes", "2", "--recycle-memory", "1MB", ARQD_HEARTBEAT_FILE=str(tmp_path / "worker.json")
    )
    workers.said(r"worker process \d takes \d+ MB: draining it")
    workers.said("has to be replaced: starting another")
    assert workers.ended(signal.SIGTERM) == 0, workers.text


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_signal_that_comes_before_it_has_started_ends_it(start: Start, tmp_path: Path, processes: str) -> None:
    # The first process of a container does not get a signal that nobody has asked for, and would go on.
    (tmp_path / "early.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nraise RuntimeError('it was not ended')\n"
    )
    worker = start("run", "early:WorkerSettings", "--processes", processes)
    assert worker.ended() == 0, worker.text
    assert "SIGTERM before it has started: nothing to drain" in worker.text


def test_a_wrong_configuration_of_a_process_ends_all(start: Start, tmp_path: Path) -> None:
    (tmp_path / "worker-2.json").mkdir()
    workers = start("run", FAMILY, "--processes", "2", ARQD_HEARTBEAT_FILE=str(tmp_path / "worker.json"))
    assert workers.ended() == 78
    assert "ended with status 78: stopping the others" in workers.text


def test_watch_starts_anew_when_the_code_changes(start: Start, tmp_path: Path, redis_url: str) -> None:
    code = tmp_path / "own_family.py"
    text = (
        "from daemon.family import FamilySettings\n"
        "async def answer(ctx) -> int:\n    return 1\n"
        "class WorkerSettings(FamilySettings):\n    family = 'own'\n    functions = (answer,)\n"
    )
    code.write_text(text)
    watcher = start("run", "own_family:WorkerSettings", "--watch")
    with SyncProducer.connect(redis_url) as producer:
        assert producer.enqueue("answer", [], family="own").result(timeout=PATIENCE) == 1
        code.write_text("this is not Python")
        watcher.said("the code has changed: starting anew")
        watcher.said("ended with status 1; waiting for a change")
        code.write_text(text.replace("return 1", "return 22"))
        assert producer.enqueue("answer", [], family="own").result(timeout=PATIENCE) == 22
    assert watcher.ended(signal.SIGTERM) == 0, watcher.text


# ---------------------------------------------------------------------- scheduler


def test_a_scheduler_that_hangs_is_told_from_one_that_leads_or_waits(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What the kubelet calls, and what other engines do.
    [manifest, *_] = yaml.safe_load_all((ROOT / "deploy/k8s/base/scheduler.yaml").read_text())
    [container] = manifest["spec"]["template"]["spec"]["containers"]
    called = [word.replace("/run/arqd", "FOLDER") for word in container["livenessProbe"]["exec"]["command"]]

    def told(process: Arqd, folder: Path) -> set[bool]:
        """What both say; they may differ while a sign of life comes between the two."""
        monkeypatch.setenv("ARQD_HEARTBEAT_FILE", str(folder / "heartbeat.json"))
        return {
            subprocess.run([word.replace("FOLDER", str(folder)) for word in called]).returncode == 0,
            main(["healthcheck", "--pid", str(process.process.pid)]) == 0,
        }

    folders = [tmp_path / "leads", tmp_path / "waits"]
    leads, waits = (
        start("scheduler", ARQD_HEARTBEAT_FILE=str(folder / "heartbeat.json"), ARQD_LOG_LEVEL="debug")
        for folder in folders
    )
    both = ((leads, folders[0]), (waits, folders[1]))
    until(lambda: "this process leads" in leads.text + waits.text, "one leads")
    for process, folder in both:
        until(lambda folder=folder: (folder / "scheduler.json").exists(), "a sign of life")
        until(lambda process=process, folder=folder: told(process, folder) == {True}, "it turns")
    leads.process.send_signal(signal.SIGSTOP)
    for _, folder in both:
        # As if minutes had passed.
        (folder / "scheduler.json").write_text('{"time": 0}')
        os.utime(folder / "scheduler.json", (0, 0))
    until(lambda: told(waits, folders[1]) == {True}, "it turns")
    assert told(leads, folders[0]) == {False}
    assert "the last heartbeat in" in capsys.readouterr().out
    leads.process.send_signal(signal.SIGCONT)
    until(lambda: told(leads, folders[0]) == {True}, "it turns again")
    for process, folder in both:
        assert process.ended(signal.SIGTERM) == 0, process.text
        assert not (folder / "scheduler.json").exists()


# ---------------------------------------------------------------------- probe


def test_the_probe_tells_the_backlog_and_drains(start: Start, redis_url: str) -> None:
    beside = start("probe", ARQD_PROBE__PORT="0", ARQD_PROBE__WORKERS="0", ARQD_FAMILIES__GREETINGS=FAMILY)
    url = beside.said(r"http://127.0.0.1:\d+")[0]
    with SyncProducer.connect(redis_url) as producer:
        producer.enqueue("greet", {"name": "Ada"}, family="greetings")
    status, backlog = get(f"{url}/backlog/greetings")
    assert (status, backlog["backlog"], backlog["active"], backlog["workers"]) == (200, 1, 0, 0)
    assert get(f"{url}/livez")[0] == 200
    assert beside.ended(signal.SIGTERM) == 0, beside.text


def test_a_taken_port_is_a_wrong_configuration(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        beside = start("probe", ARQD_PROBE__PORT=port)
        assert beside.ended() == 78
        assert f"arqd: the probe cannot listen on 127.0.0.1 port {port}" in beside.text
        everything = start("up", ARQD_PROBE__PORT=port)
        assert everything.ended() == 78
        assert f"arqd: the probe cannot listen on 127.0.0.1 port {port}" in everything.text


# ---------------------------------------------------------------------- console


def test_the_console_until_a_signal(start: Start) -> None:
    console = start("console", ARQD_CONSOLE__BASE_PATH="/admin/queues", ARQD_LOG_FORMAT="text")
    home = console.said(r"it is at (http://127.0.0.1:\d+/admin/queues/)")[1]
    assert get(f"{home}api/v1/health") == (200, {"status": "ok"})
    assert get(f"{home}api/v1/queues")[0] == 401
    made = start("token", "add", "ci", "--role", "viewer")
    assert made.ended() == 0
    token = re.search(r"arqd_ci\.\S+", made.text)
    assert token
    request = urllib.request.Request(f"{home}api/v1/queues", headers={"authorization": f"Bearer {token[0]}"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert [queue["stats"]["family"] for queue in json.load(answer)] == sorted(FAMILIES)
    # It makes the ticks of schedules where no worker does.
    console.said("scheduler: this process leads")
    assert console.ended(signal.SIGTERM) == 0, console.text
    assert "Traceback" not in console.text


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("BULL_BOARD_ENABLED", "false", "the console is switched off (ARQD_CONSOLE__ENABLED)"),
        ("ARQD_CONSOLE__JWKS_FILE", "/nowhere/none", "ARQD_CONSOLE__JWKS_FILE: "),
        ("ARQD_CONSOLE__JWT_SECRET", "short", "ARQD_CONSOLE__JWT_SECRET: must be 32 bytes or more"),
        ("BULL_BOARD_PATH", "admin queues", "ARQD_CONSOLE__BASE_PATH (from BULL_BOARD_PATH): write a path"),
    ],
)
def test_a_console_that_cannot_be_is_a_wrong_configuration(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    variable: str, value: str, told: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("ARQD_REDIS_URL", redis_url)
    monkeypatch.setenv("ARQD_CONSOLE__PORT", "0")
    monkeypatch.setenv(variable, value)
    assert main(["console"]) == 78
    said = "".join(capsys.readouterr())
    assert told in said
    assert "short" not in said.replace("shorter", "")


def test_a_console_on_a_taken_port_is_a_wrong_configuration(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        console = start("console", ARQD_CONSOLE__PORT=str(port))
        assert console.ended() == 78, console.text
        assert f"the console cannot listen on 127.0.0.1 port {port}" in console.text


# ---------------------------------------------------------------------- up


def test_up_with_the_demonstration_until_ctrl_c(start: Start, tmp_path: Path) -> None:
    up = start("up", "--demo", terminal=True, ARQD_REDIS_URL="", ARQD_PROBE__PORT="0")
    probe = up.said(r"http://127.0.0.1:\d+")[0]
    up.said("More to see")
    for line in (r"completed  priority 1  password_reset", r"delayed    priority 3  security_alert", r"failed .*550"):
        assert re.search(line, up.text), up.text
    until(lambda: get(f"{probe}/readyz")[0] == 200)
    assert get(f"{probe}/backlog/email")[1]["backlog"] == 0
    link = up.said(r"log in    (http://127.0.0.1:\d+/login/\S+)")[1]
    jar = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with contextlib.suppress(urllib.error.HTTPError):
        # Logged in, and led to the dashboard, which is not part of this.
        jar.open(link, timeout=PATIENCE).close()
    with jar.open(link.partition("/login")[0] + "/api/v1/queues/email", timeout=PATIENCE) as answer:
        assert json.load(answer)["stats"]["completed"] == 5
    token = up.said(r"token     (arqd_first\.\S+)")[1]
    asked = urllib.request.Request(
        link.partition("/login")[0] + "/api/v1/tokens", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
        assert [(each["name"], each["role"]) for each in json.load(answer)] == [("first", "admin")]
    assert "no worker is there" not in up.text
    assert len(list((tmp_path / "var" / "spool" / "email").glob("*.eml"))) == 5

    # Another command in the same folder finds the embedded server, which asks for a password.
    dead = start("dead", "list", "email", ARQD_REDIS_URL="")
    assert dead.ended() == 0, dead.text
    refused = re.search(r"(\S+ -m daemon) job (email:\w+)", up.text)
    assert refused
    assert refused[1] == f"{sys.executable} -m daemon"
    assert refused[2] in dead.text

    url = (tmp_path / "var" / "valkey" / "url").read_text()
    up.press_ctrl_c()
    assert up.ended() == 0, up.text
    assert "draining" in up.text
    assert "Traceback" not in up.text.partition("draining")[2]
    with redis.Redis.from_url(url) as client, pytest.raises(redis.ConnectionError):
        client.ping()

    again = start("up", ARQD_REDIS_URL="", ARQD_PROBE__PORT="0")
    again.said("Ctrl-C drains")
    assert "arqd_first" not in again.text
    dead = start("dead", "list", "email", ARQD_REDIS_URL="")
    assert dead.ended() == 0
    assert refused[2] in dead.text
    assert again.ended(signal.SIGTERM) == 0, again.text


def test_up_ends_when_its_valkey_does(start: Start, tmp_path: Path) -> None:
    up = start("up", ARQD_REDIS_URL="", ARQD_PROBE__PORT="0", BULL_BOARD_ENABLED="false")
    up.said("console   switched off")
    up.said("Ctrl-C drains")
    with redis.Redis.from_url((tmp_path / "var" / "valkey" / "url").read_text()) as client:
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
    assert up.ended() == 1
    assert "arqd: the embedded Valkey has ended by itself" in up.text


def test_the_demonstration_sends_no_real_mail(start: Start) -> None:
    up = start("up", "--demo", ARQD_SMTP__HOST="127.0.0.1", ARQD_EMAIL__SENDER="a@example.com")
    assert up.ended() == 78
    assert "unset ARQD_SMTP__HOST" in up.text


def test_a_second_up_in_the_folder_is_refused(start: Start) -> None:
    start("up", ARQD_REDIS_URL="", ARQD_PROBE__PORT="0").said("Ctrl-C drains")
    second = start("up", ARQD_REDIS_URL="", ARQD_PROBE__PORT=str(free_port()))
    assert second.ended() == 78
    assert "another arqd uses" in second.text


async def spawned_when_stopped(stop: Callable[[int], None], made: list[Process]) -> Process:
    """Start a process, and have the signal come before it is known."""
    stop(signal.SIGTERM)
    made.append(await asyncio.create_subprocess_exec("sleep", "60"))
    return made[-1]


async def test_a_signal_that_comes_while_a_process_is_started_reaches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Process] = []
    handlers: list[Callable[[int], None]] = []
    monkeypatch.setattr(processes, "_on_signal", handlers.append)
    monkeypatch.setattr(processes, "_spawn", lambda *_: spawned_when_stopped(handlers[-1], made))
    group = processes.Processes(
        ["run"], 1, tmp_path / "worker.json", burst=False, recycling=processes.Recycling(), notifier=Notifier({})
    )
    try:
        async with asyncio.timeout(PATIENCE):
            assert await group.run() == 0
            assert await processes.run_watched(["run"], tmp_path) == 0
    finally:
        for child in made:
            if child.returncode is None:
                child.kill()
                await child.wait()


def test_a_watched_command_is_started_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["run", FAMILY, "--burst", "--processes=2", "--recycle-jobs=5", "--recycle-memory=1GB"]
    started: list[list[str]] = []

    async def watched(arguments: list[str], folder: Path) -> int:
        started.append(arguments)
        return 0

    monkeypatch.setattr(processes, "run_watched", watched)
    assert main([*given, "--watch"]) == 0
    assert started == [given]
