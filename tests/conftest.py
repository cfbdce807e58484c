"""Fixtures for every test: a real Valkey, flushed before each test, or servers of a test's own.

``pytest --server redis|sentinel|cluster`` gives other servers in its place. What cannot apply to them says so by
``pytest.mark.only_on("valkey", reason=...)`` and is deselected there.
"""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon.claiming import prefetch, take
from daemon.producer import Producer
from tests.everywhere import ask_every_node
from tests.postgres import PostgresServer
from tests.servers import KINDS, Servers, make_servers

if TYPE_CHECKING:
    from handlers.integrations.database import Database
    from tests.anvil import Anvil

ROOT = Path(__file__).parents[1]
RedisServerFactory = Callable[..., Any]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--server", choices=KINDS, default="valkey", help="what the tests' Redis is")


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background jobs ignore it, and so would the commands that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--server") == "cluster":
        ask_every_node()
    config.addinivalue_line("markers", "only_on(*servers, reason): this cannot apply to other servers than these")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot apply to the servers of this run."""
    kind = config.getoption("--server")
    left_out = [item for item in items if any(kind not in mark.args for mark in item.iter_markers("only_on"))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Servers]:
    """The session's Valkey; tests take `redis_url`, or `redis_server` to change its settings or to stop it."""
    server = make_servers(request.config.getoption("--server"), tmp_path_factory.mktemp("valkey")).start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(shared_redis: Servers) -> str:
    """URL of a real, empty Valkey."""
    shared_redis.flush()
    return shared_redis.url


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Take back what a command run in this process has set up: its handlers write to a stream that is gone."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        # pytest's own come and go with each phase of a test.
        if handler not in before and type(handler).__module__ != "_pytest.logging":
            root.removeHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture(autouse=True)
def patient_workers() -> Iterator[None]:
    """Let workers in this process begin what they claimed though the process stood still for some seconds.

    On a busy machine it does, and would hand jobs back and claim them again: events and figures would tell of it.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in (prefetch, take):
            patch.setattr(module, "PATIENCE", 5.0)
        yield


@pytest.fixture
async def producer(redis_url: str) -> AsyncIterator[Producer]:
    """A producer on that Valkey."""
    async with Producer.connect(redis_url) as producer:
        yield producer


@pytest.fixture
def redis_server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[RedisServerFactory]:
    """Start a Valkey for this test alone: ``redis_server(password=..., maxmemory="5mb", appendonly="yes")``.

    Keyword arguments are Valkey's settings with ``_`` for ``-``; ``data_dir`` takes up data of an earlier one.
    """
    started: list[Servers] = []

    def start(*, data_dir: Path | None = None, password: str | None = None, **config: Any) -> Servers:
        kind = request.config.getoption("--server")
        server = make_servers(kind, data_dir or tmp_path_factory.mktemp("valkey"), password=password, **config)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The session's PostgreSQL; most tests take `database_url`."""
    server = PostgresServer()
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    """Name of a database of that server with the tables of this release."""
    name = postgres.create()
    _upgraded(postgres.url(name))
    return name


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the tables of this release."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    _upgraded(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database with the tables of this release and nothing in them; the test runs on each kind."""
    if request.param == "sqlite":
        path = tmp_path / "arqd.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url(server.create(request.getfixturevalue("postgres_template")))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """That database, opened."""
    from handlers.integrations.database import Database

    found = Database(database_url)
    yield found
    await found.close()


@pytest.fixture
def anvil(tmp_path: Path) -> Iterator[Anvil]:
    """A node of a chain of its own."""
    from tests.anvil import Anvil

    node = Anvil(tmp_path)
    try:
        yield node.start()
    finally:
        node.close()


def _upgraded(url: str) -> None:
    """Upgrade a database, in an interpreter of its own: a session's fixtures have no event loop."""
    code = (
        "import asyncio, sys\nfrom handlers.integrations.database import Database\n"
        "asyncio.run(Database(sys.argv[1]).upgrade())"
    )
    subprocess.run([sys.executable, "-c", code, url], check=True, cwd=ROOT, timeout=120)


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Fail what was skipped or expected to fail: a test that did not run proves nothing."""
    if report.skipped or hasattr(report, "wasxfail"):
        reason = getattr(report, "wasxfail", None) or report.longrepr
        vars(report).pop("wasxfail", None)
        report.outcome = "failed"
        report.longrepr = f"skipped and expected failures are not accepted here: {reason}"


def _make_sendable(report: pytest.TestReport) -> None:
    """Escape what is no Unicode in captured output: reports travel between processes as UTF-8."""
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]


# Outermost, so that pytest's own xfail handling has been applied before the report is judged.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    _make_sendable(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report
