"""Fixtures for every test: a real Valkey, flushed before each test, or servers of a test's own."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.producer import Producer
from tests.servers import RedisServer

RedisServerFactory = Callable[..., RedisServer]


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The session's Valkey; tests take `redis_url`, or `redis_server` to change its settings or to stop it."""
    server = RedisServer(tmp_path_factory.mktemp("valkey")).start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(shared_redis: RedisServer) -> str:
    """URL of a real, empty Valkey."""
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis.url


@pytest.fixture
async def producer(redis_url: str) -> AsyncIterator[Producer]:
    """A producer on that Valkey."""
    async with Producer.connect(redis_url) as producer:
        yield producer


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServerFactory]:
    """Start a Valkey for this test alone: ``redis_server(password=..., maxmemory="5mb", appendonly="yes")``.

    Keyword arguments are Valkey's settings with ``_`` for ``-``; ``data_dir`` takes up data of an earlier one.
    """
    started: list[RedisServer] = []

    def start(*, data_dir: Path | None = None, password: str | None = None, **config: Any) -> RedisServer:
        server = RedisServer(data_dir or tmp_path_factory.mktemp("valkey"), password=password, **config)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.kill()


def pytest_configure() -> None:
    # A shell's background jobs ignore it, and so would the commands that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
