"""pytest fixtures for the tests of those who use arqd: a fresh, real Valkey for each test, without Docker.

    # conftest.py
    pytest_plugins = ["daemon.testing.plugin"]

It needs ``arqd[embedded]``. Nothing is started before a test asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from daemon.producer import SyncProducer
    from daemon.testing.simulation import Simulation


@pytest.fixture(scope="session")
def arqd_server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the Valkey of this test run; take `arqd_redis_url` to get it empty."""
    from redis import Redis

    from daemon.embedded import EmbeddedServer

    with EmbeddedServer(tmp_path_factory.mktemp("arqd") / "valkey") as server:
        with Redis.from_url(server.url) as client:
            # Nobody will read it, and writing takes time.
            client.config_set("appendonly", "no")
        yield server.url


@pytest.fixture
def arqd_redis_url(arqd_server_url: str) -> str:
    """URL of a real, empty Valkey."""
    from redis import Redis

    with Redis.from_url(arqd_server_url) as client:
        client.flushall()
    return arqd_server_url


@pytest.fixture
def arqd_producer(arqd_redis_url: str) -> Iterator[SyncProducer]:
    """A `SyncProducer` on that Valkey; in asynchronous tests use ``Producer.connect(arqd_redis_url)``."""
    from daemon.producer import SyncProducer

    with SyncProducer.connect(arqd_redis_url) as producer:
        yield producer


@pytest.fixture
def arqd_simulation(arqd_redis_url: str) -> Iterator[Callable[..., Simulation]]:
    """Begin a `Simulation` on that Valkey, which ends with the test: ``arqd_simulation(WorkerSettings, seed=7)``."""
    from daemon.testing.simulation import Simulation

    with ExitStack() as open_ones:

        def begin(*settings: Any, **options: Any) -> Simulation:
            return open_ones.enter_context(Simulation(*settings, url=arqd_redis_url, **options))

        yield begin
