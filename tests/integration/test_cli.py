"""The command in this process: what it prints, its statuses, its one-line errors."""

from __future__ import annotations

import asyncio
import io
import json
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from daemon.cli.command import main
from daemon.family import load_family
from daemon.job import JobState
from daemon.producer import SyncProducer
from daemon.supervisor import Supervisor
from handlers import COMMANDS as GROUPS
from tests.conftest import RedisServerFactory
from tests.integration.cli_family import WorkerSettings
from tests.marks import one_server
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
ACTIONS = ["retry", "remove", "promote", "priority", "abort", "pause", "resume", "drain", "clean", "clear", "limits"]
DAEMONS, OTHERS = (
    ["up", "run", "scheduler", "probe", "console", "bench", "outbox"],
    ["enqueue", "job", "jobs", "queues", "stats", "top", "tail", "flow", "explain", "workers", "profile", *ACTIONS],
)
COMMANDS = [
    *DAEMONS,
    *OTHERS,
    "check",
    "dead",
    "schedule",
    "alerts",
    "token",
    "audit",
    "keys",
    "search",
    "db",
    "new",
    *GROUPS,
]


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
def arqd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Arqd:
    """Run a command without a Redis of its own, in an empty folder; keywords are variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARQD_FAMILIES__GREETINGS", "tests.integration.cli_family:WorkerSettings")

    def run(*arguments: str, **environ: str) -> Ended:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        status = main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Ended(status, out, err)

    return run


@pytest.fixture
def queue(arqd: Arqd, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Arqd:
    """Run a command on a real, empty Valkey."""
    monkeypatch.setenv("ARQD_REDIS_URL", redis_url)
    return arqd


def work(redis_url: str) -> None:
    """Run what waits, and end."""
    family = load_family(WorkerSettings)
    asyncio.run(Supervisor([family], redis_url, burst=True, handle_signals=False).run())


@pytest.fixture
def worker(redis_url: str) -> Iterator[None]:
    """A worker beside the command."""
    started = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, Supervisor]] = []

    async def run() -> None:
        supervisor = Supervisor([load_family(WorkerSettings)], redis_url, handle_signals=False)
        running.append((asyncio.get_running_loop(), supervisor))
        started.set()
        await supervisor.run()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert started.wait(60)
    yield
    loop, supervisor = running[0]
    loop.call_soon_threadsafe(supervisor.drain)
    thread.join(60)
    assert not thread.is_alive()


def greet(queue: Arqd, name: str, *options: str) -> str:
    """Hand a job over and give its id."""
    ended = queue("enqueue", "greet", "--json", json.dumps({"name": name}), *options)
    assert ended.status == 0, ended.err
    return ended.out.strip()


# ---------------------------------------------------------------------- usage


def test_help_names_every_command(arqd: Arqd) -> None:
    for arguments in ((), ("--help",), ("-h",)):
        ended = arqd(*arguments)
        assert ended.status == 0
        assert re.findall(r"^  (\w+)  ", ended.out.partition("Commands:")[2], re.MULTILINE) == COMMANDS
    assert re.fullmatch(r"arqd \d+\.\d+\.\d+\S*\n", arqd("--version").out)


def test_help_imports_no_server_library() -> None:
    heavy = {"redis", "arq", "uvicorn", "starlette", "pydantic_settings", "rich", "uvloop", "aiosmtplib", "jinja2"}
    code = f"import sys, daemon.cli; print(sorted({heavy} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["queues", "--frob"], "No such option: --frob"),
        (["dead", "restore", "1", "--function", "greet"], "give numbers, or --family FAMILY --all and filters"),
        (["dead"], "Missing command"),
        (["jobs"], "Missing argument 'FAMILY'"),
        (["jobs", "email", "--state", "lost"], "'lost' is not one of 'waiting'"),
        (["jobs", "email", "--limit", "0"], "--limit"),
        (["run"], "name families, or give --all"),
        (["run", "--all", "email"], "name families, or give --all"),
        (["run", "email", "--processes", "0"], "--processes"),
        (["enqueue", "greet", "--json", "{"], "--json: this is not JSON"),
        (["enqueue", "greet", "--json", "3"], "give an object of the payload's fields"),
        (["enqueue", "greet", "--json", "@nowhere.json"], "nowhere.json cannot be read: No such file"),
        (["enqueue", "greet", "--at", "tomorrow"], "--at: write an ISO 8601 time"),
        (["enqueue", "greet", "--at", "2030-01-31T08:00:00"], "--at: say the time zone too"),
        (["dead", "retry"], "give ids, --group, or --family FAMILY --all"),
        (["dead", "retry", "--all"], "name the --family"),
        (["dead", "retry", "--family", "email"], "give ids, --group, or --family FAMILY --all"),
        (["dead", "retry", "email:1", "--family", "email", "--all"], "give ids, --group, or --family FAMILY --all"),
    ],
)
def test_wrong_usage_is_told_in_one_line(arqd: Arqd, arguments: list[str], said: str) -> None:
    ended = arqd(*arguments)
    assert ended.status == 2
    assert ended.out == ""
    assert said in ended.err
    assert ended.err.startswith("arqd: ")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["run", "email"], 78),
        (["up"], 78),
        (["scheduler"], 78),
        (["probe"], 78),
        (["console"], 78),
        (["queues"], 1),
        (["enqueue", "greet"], 1),
    ],
)
def test_a_wrong_setting_has_a_status_of_its_own_for_daemons(arqd: Arqd, arguments: list[str], status: int) -> None:
    ended = arqd(*arguments, ARQD_PROBE_PORT="9000")
    assert (ended.status, ended.out) == (status, "")
    assert ended.err == "arqd: ARQD_PROBE_PORT is not a setting: did you mean ARQD_PROBE__PORT?\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "there is no family 'nothing': known are "),
        ("no_such_module:WorkerSettings", "'no_such_module:WorkerSettings' cannot be imported"),
        ("json:nothing", "module 'json' has no 'nothing'"),
        ("tests.integration.cli_family:Stock", "pass --accept-pickle"),
    ],
)
def test_what_cannot_be_run_is_told(arqd: Arqd, name: str, said: str) -> None:
    ended = arqd("run", name)
    assert ended.status == 78
    assert said in ended.err


# ---------------------------------------------------------------------- Redis


@pytest.mark.parametrize(
    "arguments",
    [["queues"], ["stats"], ["jobs", "email"], ["job", "email:1"], ["retry", "email:1"], ["enqueue", "greet"]],
)
def test_no_redis_is_told_in_one_line(arqd: Arqd, arguments: list[str]) -> None:
    port = free_port()
    payload = ["--json", '{"name": "Ada"}'] if arguments[0] == "enqueue" else []
    ended = arqd(*arguments, *payload, ARQD_REDIS_URL=f"redis://127.0.0.1:{port}/0")
    assert (ended.status, ended.out) == (1, "")
    assert re.fullmatch(rf"arqd: Redis cannot be reached \(.*{port}.*\): check ARQD_REDIS_URL .*\n", ended.err)


@one_server
def test_a_wrong_password_is_told_but_not_shown(arqd: Arqd, redis_server: RedisServerFactory) -> None:
    server, wrong = redis_server(password=secrets.token_hex(8)), secrets.token_hex(8)
    ended = arqd("queues", ARQD_REDIS_URL=f"redis://:{wrong}@127.0.0.1:{server.port}/0")
    assert ended.status == 1
    assert "Redis refuses this user" in ended.err
    assert wrong not in ended.err
    assert arqd("queues", ARQD_REDIS_URL=server.url).status == 0


def test_a_wrong_url_is_told_without_its_password(arqd: Arqd) -> None:
    ended = arqd("queues", ARQD_REDIS_URL="http://user:hush@h/0")
    assert ended.status == 1
    assert "is not a Redis URL" in ended.err
    assert "hush" not in ended.err


# ---------------------------------------------------------------------- enqueue


def test_enqueue_prints_the_id_and_takes_the_priority_of_the_payload(queue: Arqd) -> None:
    job_id = greet(queue, "Ada")
    info = queue("job", job_id, "--json").json()
    assert info["id"] == job_id
    expected = {"family": "greetings", "function": "greet", "state": "waiting", "priority": 3}
    assert {name: info[name] for name in expected} == expected
    assert info["payload"] == {"name": "Ada", "loudness": 1}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--priority", "urgent"], {"priority": 1, "state": "waiting"}),
        (["--priority", "10"], {"priority": 10, "state": "waiting"}),
        (["--delay", "1h"], {"priority": 3, "state": "delayed"}),
        (["--at", "2999-01-31T08:00:00+01:00"], {"due_at": "2999-01-31T07:00:00Z", "state": "delayed"}),
        (["--at", "2001-01-31T08:00:00Z"], {"state": "waiting"}),
        (["--job-id", "mine"], {"id": "greetings:mine"}),
    ],
)
def test_enqueue_options(queue: Arqd, options: list[str], expected: dict[str, Any]) -> None:
    info = queue("job", greet(queue, "Ada", *options), "--json").json()
    assert {name: info[name] for name in expected} == expected


def test_a_payload_comes_from_a_file_or_standard_input(queue: Arqd, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("payload.json").write_text('{"name": "Ada"}')
    from_file = queue("enqueue", "greet", "--json", "@payload.json").out.strip()
    monkeypatch.setattr("sys.stdin", io.StringIO('{"name": "Grace"}'))
    from_input = queue("enqueue", "greet", "--json", "-").out.strip()
    payloads = [queue("job", job_id, "--json").json()["payload"]["name"] for job_id in (from_file, from_input)]
    assert payloads == ["Ada", "Grace"]


def test_an_id_that_exists_keeps_its_job(queue: Arqd) -> None:
    greet(queue, "Ada", "--job-id", "mine")
    again = queue("enqueue", "greet", "--json", '{"name": "Grace"}', "--job-id", "mine")
    assert (again.status, again.out) == (0, "greetings:mine\n")
    assert "exists already" in again.err
    assert queue("job", "greetings:mine", "--json").json()["payload"]["name"] == "Ada"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gret"], "no function 'gret' here; known are "),
        (["gret", "--family", "greetings"], "no function 'gret' here; known are greet, process_id"),
        (["greet"], "payload of greet: name: Field required"),
        (["greet", "--json", '{"name": "Ada", "age": 3}'], "payload of greet: age: Extra inputs are not permitted"),
        (["greet", "--json", '{"name": "Ada", "loudness": "very"}'], "payload of greet: loudness: Input should be"),
        (["process_id", "--json", '{"name": "Ada"}'], "payload of process_id: "),
        (["greet", "--json", '{"name": "Ada"}', "--priority", "11"], "priority '11' is not a level"),
        (["greet", "--json", '{"name": "Ada"}', "--priority", "soon"], "priority 'soon' is not a level"),
        (["greet", "--json", '{"name": "Ada"}', "--delay", "soon"], "'soon' is not a duration"),
        (["greet", "--json", '{"name": "Ada"}', "--delay", "1", "--at", "2030-01-01T00:00Z"], "not both"),
        (["there", "--family", "else where"], "family 'else where' must match"),
    ],
)
def test_a_wrong_job_is_refused_in_one_line_and_not_written(queue: Arqd, arguments: list[str], said: str) -> None:
    ended = queue("enqueue", *arguments)
    assert (ended.status, ended.out) == (1, "")
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert sum(found["waiting"] + found["delayed"] for found in queue("queues", "--json").json()) == 0


def test_families_whose_packages_are_missing_are_left_out(queue: Arqd, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("handlers.payments")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    assert queue("enqueue", "greet", "--json", '{"name": "Ada"}').status == 0
    found = levels(queue("check", "--json"))
    assert found["configuration"] == "OK"
    wrong = queue("enqueue", "pay_commission", "--family", "payments", "--json", "{}")
    assert "sqlalchemy" in wrong.err


def test_a_family_that_is_registered_elsewhere_is_taken_on_trust(queue: Arqd) -> None:
    job_id = queue("enqueue", "paint", "--family", "pictures", "--json", '{"of": "Ada"}').out.strip()
    assert job_id.startswith("pictures:")
    assert queue("job", job_id, "--json").json()["payload"] == {"of": "Ada"}
    assert queue("jobs", "pictures", "--json").json()["jobs"][0]["id"] == job_id


@pytest.mark.usefixtures("worker")
def test_wait_shows_progress_and_prints_the_result(queue: Arqd) -> None:
    ended = queue("enqueue", "greet", "--json", '{"name": "Ada", "loudness": 2}', "--wait")
    first, _, result = ended.out.partition("\n")
    assert first.startswith("greetings:")
    assert json.loads(result) == {"text": "Hello, Ada!!"}
    assert "completed" in ended.err
    assert "100 %" in ended.err


@pytest.mark.usefixtures("worker")
def test_wait_tells_an_abort(queue: Arqd, redis_url: str) -> None:
    ended: list[Ended] = []
    arguments = ["enqueue", "greet", "--json", '{"name": "forever"}', "--job-id", "mine", "--wait"]
    waiting = threading.Thread(target=lambda: ended.append(queue(*arguments)))
    waiting.start()
    with SyncProducer.connect(redis_url) as producer:
        job = producer.job("greetings:mine")
        deadline = time.monotonic() + 60
        while job.status() is not JobState.ACTIVE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert job.abort()
    waiting.join(60)
    assert ended[0].status == 1
    assert "arqd: greetings:mine was aborted" in ended[0].err


@pytest.mark.usefixtures("worker")
def test_wait_tells_a_failure(queue: Arqd) -> None:
    ended = queue("enqueue", "greet", "--json", '{"name": "nobody"}', "--wait")
    assert ended.status == 1
    assert re.search(r"arqd: greetings:\w+ failed: PermanentError: there is \S+nobody\n", ended.err)
    assert "\x1b[31m" not in ended.err


# ---------------------------------------------------------------------- look and act


def test_look_commands_print_for_people_and_for_programs(queue: Arqd, redis_url: str) -> None:
    done, dead = greet(queue, "Ada"), greet(queue, "nobody")
    work(redis_url)
    waiting = greet(queue, "Grace", "--priority", "low")
    queues = {found["family"]: found for found in queue("queues", "--json").json()}
    counts = {name: queues["greetings"][name] for name in ("waiting", "active", "completed", "failed", "paused")}
    assert counts == {"waiting": 1, "active": 0, "completed": 1, "failed": 1, "paused": False}
    stats = queue("stats", "--json").json()
    assert stats["totals"]["greetings"]["completed"] == 1
    assert stats["workers"] == []
    assert [job["id"] for job in queue("jobs", "greetings", "--state", "completed", "--json").json()["jobs"]] == [done]
    failed = queue("job", dead, "--json").json()
    assert (failed["state"], failed["error"]["type"], failed["tries"]) == ("failed", "PermanentError", 1)
    logs = queue("job", done, "--logs", "--json").json()["logs"]
    assert (logs["dropped"], [line["text"] for line in logs["lines"]]) == (0, ["greeting \x1b[31mAda\nloudly"])
    assert queue("job", waiting, "--logs", "--json").json()["logs"] == {"dropped": 0, "lines": []}

    for arguments, expected in (
        (["queues"], "greetings"),
        (["stats"], "no worker is running"),
        (["jobs", "greetings"], waiting),
        (["jobs", "greetings", "--state", "active"], "id "),
        (["jobs", "greetings", "--state", "parked"], "id "),
        (["queues"], "parked"),
        (["dead", "list", "greetings"], f"{dead}  greet"),
        (["job", done, "--logs"], "try 1  greeting �[31mAda\n    loudly\n"),
        (["job", done], 'result       {"text":"Hello, Ada!"}'),
        (["job", dead], "raise PermanentError"),
        (["job", waiting], "priority     7"),
    ):
        ended = queue(*arguments)
        assert ended.status == 0
        assert expected in ended.out
        assert "\x1b" not in ended.out, "terminal codes of a job must not reach the terminal"


def test_what_is_not_there_is_told(queue: Arqd) -> None:
    for arguments, said in (
        (["job", "greetings:none"], "there is no job greetings:none"),
        (["jobs", "greetigns"], "there is no family 'greetigns': known are "),
        (["dead", "list", "greetigns"], "there is no family 'greetigns'"),
        (["dead", "retry", "--family", "greetigns", "--all"], "there is no family 'greetigns'"),
        (["retry", "greetings:none"], "greetings:none not done: there is no such job"),
        (["remove", "greetings:none"], "greetings:none not done: there is no such job"),
        (["dead", "discard", "greetings:none"], "greetings:none not done: there is no such job"),
    ):
        ended = queue(*arguments)
        assert (ended.status, ended.out) == (1, "")
        assert said in ended.err


def test_dead_letters_are_retried_and_discarded(queue: Arqd, redis_url: str) -> None:
    first, second = greet(queue, "nobody"), greet(queue, "nobody")
    work(redis_url)
    assert [job["id"] for job in queue("dead", "list", "greetings", "--json").json()["jobs"]] == [second, first]

    retried = queue("dead", "retry", first)
    assert (retried.status, retried.out) == (0, f"{first} retried\n")
    again = queue("dead", "retry", first, second)
    assert (again.status, again.out) == (1, f"{second} retried\n")
    assert again.err == f"{first} not done: it is not a dead letter\n"
    assert queue("dead", "discard", first).status == 1

    work(redis_url)
    assert queue("dead", "discard", first).out == f"{first} discarded\n"
    assert queue("job", first).status == 1
    assert queue("retry", second, "--json").json() == {second: "retried"}


def test_all_dead_letters_of_a_family_are_retried(queue: Arqd, redis_url: str) -> None:
    for _ in range(5):
        greet(queue, "nobody")
    work(redis_url)
    ended = queue("retry", "--family", "greetings", "--all")
    assert (ended.status, ended.out) == (0, "greetings: 5 retried\n")
    assert queue("dead", "list", "greetings", "--json").json() == {"jobs": [], "cursor": None}
    assert queue("retry", "--family", "greetings", "--all").status == 0


def test_jobs_are_removed(queue: Arqd) -> None:
    job_id = greet(queue, "Ada")
    assert queue("remove", job_id).out == f"{job_id} removed\n"
    assert queue("job", job_id).status == 1


# ---------------------------------------------------------------------- check


def levels(ended: Ended) -> dict[str, str]:
    """Give the level of each finding."""
    return {finding["what"]: finding["level"] for finding in json.loads(ended.out)}


@one_server
def test_check_passes_where_all_is_well(arqd: Arqd, redis_server: RedisServerFactory) -> None:
    url = redis_server(appendonly="yes").url
    ended = arqd("check", ARQD_REDIS_URL=url)
    assert ended.status == 0, ended.out
    assert re.search(r"^OK +redis +redis://127.0.0.1:\d+/0, (Valkey|Redis) ", ended.out, re.MULTILINE)
    assert set(levels(arqd("check", "--json")).values()) == {"OK"}


@one_server
def test_check_warns_of_what_may_lose_jobs(arqd: Arqd, redis_server: RedisServerFactory) -> None:
    server = redis_server(maxmemory_policy="allkeys-lru")
    warned = arqd("check", "--json", ARQD_REDIS_URL=server.url)
    assert warned.status == 0
    assert {"memory": "WARN", "persistence": "WARN"}.items() <= levels(warned).items()
    with server.client() as client:
        client.config_set("maxmemory", "100mb")
    evicting = arqd("check", "--json")
    assert evicting.status == 1
    assert levels(evicting)["memory"] == "FAIL"


def test_check_tells_each_thing_that_fails(arqd: Arqd) -> None:
    port = free_port()
    environ = {
        "ARQD_REDIS_URL": f"redis://127.0.0.1:{port}/0",
        "ARQD_SMTP__HOST": "127.0.0.1",
        "ARQD_SMTP__PORT": str(port),
        "ARQD_SMTP__TLS": "none",
    }
    ended = arqd("check", "--json", **environ)
    assert ended.status == 1
    found = levels(ended)
    assert {name for name, level in found.items() if level == "FAIL"} == {"redis", "mail server"}
    assert {found[name] for name in found.keys() - {"redis", "mail server"}} == {"OK"}, "what is not set up is well"
    assert "ARQD_EMAIL__SENDER is not set" in ended.out
    (line,) = re.findall(".*mail server.*", arqd("check", ARQD_EMAIL__SENDER="a@example.com").out)
    assert f"127.0.0.1:{port}" in line
    wrong = arqd("check", ARQD_PROBE_PORT="9000")
    assert wrong.status == 1
    assert wrong.out.startswith("FAIL  configuration")
