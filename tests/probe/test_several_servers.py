"""The probe where families are on several servers and some of them are away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette

from daemon.inspector import Inspector
from daemon.probe.app import create_app
from daemon.producer import Producer
from daemon.servers import Servers
from tests.probe.support import NOW, document, facts, get, samples, write
from tests.servers import RedisServer

FAMILIES = ("gone", "near", "other", "stuck")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    found = [RedisServer(tmp_path_factory.mktemp("valkey")).start() for _ in range(3)]
    yield found
    for server in found:
        server.kill()


@asynccontextmanager
async def probe(servers: list[RedisServer], *heartbeats: Path) -> AsyncIterator[Starlette]:
    near, gone, stuck = servers
    url = Servers(near.url, {"gone": gone.url, "stuck": stuck.url})
    async with Inspector.connect(url, FAMILIES) as source, Producer.connect(url) as producer:
        await producer.enqueue("double", [1], family="near", job_id="one")
        yield create_app(source, families=FAMILIES, heartbeats=heartbeats, redis_timeout=3, clock=lambda: NOW)


async def figures(app: Starlette) -> tuple[set[str], dict[str, float], set[str]]:
    """Give the families that have figures, which server is up, and of which something is told."""
    found = samples((await get(app, "/metrics")).text)
    families = {labels[0] for name, *labels in found if name.startswith("arqd_queue")}
    up = {":".join(labels): value for (name, *labels), value in found.items() if name == "arqd_redis_up"}
    return families, up, {labels[0] for name, *labels in found if name == "arqd_redis_memory_bytes"}


async def test_metrics_of_those_that_answer(servers: list[RedisServer], tmp_path: Path) -> None:
    near, gone, stuck = (f"127.0.0.1:{server.port}" for server in servers)
    async with probe(servers) as app:
        assert await figures(app) == (set(FAMILIES), {near: 1, gone: 1, stuck: 1}, {near, gone, stuck})
        servers[1].kill()
        servers[2].pause()
        try:
            assert await figures(app) == ({"near", "other"}, {near: 1, gone: 0, stuck: 0}, {near})
            assert (await get(app, "/backlog/near")).json()["backlog"] == 1
            for path in ("/backlog", "/backlog/gone", "/backlog/stuck"):
                assert (await get(app, path)).status_code == 503, path
        finally:
            servers[1].start()
            servers[2].resume()


async def test_a_worker_beside_it_that_does_not_reach_redis(servers: list[RedisServer], tmp_path: Path) -> None:
    near, gone, stuck = (f"127.0.0.1:{server.port}" for server in servers)
    lost = document(families={"gone": facts(), "near": facts()}, redis_up=False)
    async with probe(servers, write(tmp_path / "lost", lost)) as app:
        # Which one it does not reach it does not say.
        assert (await figures(app))[1] == {near: 0, gone: 0, stuck: 1}
        servers[1].kill()
        try:
            assert (await figures(app))[1] == {near: 1, gone: 0, stuck: 1}
        finally:
            servers[1].start()


async def test_families_on_one_of_several_servers_have_one_sample(servers: list[RedisServer]) -> None:
    near, gone, _ = servers
    async with Inspector.connect(Servers(near.url, {"gone": gone.url}), ["near", "other"]) as source:
        found = samples((await get(create_app(source, families=["near", "other"]), "/metrics")).text)
    assert [key for key in found if key[0] == "arqd_redis_up"] == [("arqd_redis_up",)]
