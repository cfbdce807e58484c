"""Families on several servers: everything finds its own, flows and limits cross from one to the other."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from daemon.archive.archiver import Archiver
from daemon.archive.database import Archive
from daemon.connecting.connections import safe_url
from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import ConfigurationError, RedisUnavailable
from daemon.family import SharedLimit
from daemon.flows import node
from daemon.inspector import Inspector
from daemon.outbox import Outbox
from daemon.outbox.relay import Relay
from daemon.producer import Producer
from daemon.schedules import Schedules
from daemon.servers import Servers
from daemon.settings import load_settings
from daemon.supervisor import Supervisor
from handlers.integrations.database import Database
from tests.alerts.support import guarding
from tests.engine import eventually, make_family, run_burst, working
from tests.servers import RedisServer, looking_at


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, RedisServer]]:
    servers = [RedisServer(tmp_path_factory.mktemp("valkey")).start() for _ in range(2)]
    yield servers[0], servers[1]
    for server in servers:
        server.kill()


@pytest.fixture
def url(two: tuple[RedisServer, RedisServer]) -> Servers:
    for server in two:
        server.flush()
    return Servers(two[0].url, {"far": two[1].url})


async def fail(ctx: object, n: str) -> None:
    raise ValueError(n)


async def double(ctx: object, n: int) -> int:
    return 2 * n


async def test_jobs_are_where_their_family_is(url: Servers) -> None:
    async with Producer.connect(url) as producer, working(url, make_family("near", double), make_family("far", double)):
        jobs = [await producer.enqueue("double", [n], family=family) for n in range(3) for family in ("near", "far")]
        assert [await job.result(timeout=60) for job in jobs] == [0, 0, 2, 2, 4, 4]
        for place, own, other in ((url.default, "near", "far"), (url.families["far"], "far", "near")):
            with looking_at(place) as client:
                assert client.zcard(f"{{{own}}}:completed") == 3
                assert client.keys(f"*{{{other}}}*") == []
    async with Inspector.connect(url, ["near", "far"]) as inspector:
        assert {stats.family: stats.completed for stats in await inspector.queues()} == {"near": 3, "far": 3}
        assert (await inspector.job(jobs[1].id)).state == "completed"
    async with Control.connect(url, ["near", "far"]) as control:
        assert await control.clean("far") == 3


async def test_a_flow_crosses(url: Servers) -> None:
    async def add(ctx: JobContext) -> int:
        return sum([child.result for child in (await ctx.children()).values()])

    flow = node("add", family="near", children=[node("double", [n], family="far") for n in (1, 2)])
    async with Producer.connect(url) as producer, working(url, make_family("near", add), make_family("far", double)):
        job = await producer.enqueue_flow(flow)
        assert await job.result(timeout=60) == 6


async def test_a_shared_limit_counts_for_both(url: Servers) -> None:
    running = most = 0

    async def work(ctx: object) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    limit = (SharedLimit("api", concurrency=2),)
    families = [make_family(name, work, shared_limits=limit, max_jobs=5) for name in ("near", "far")]
    async with Producer.connect(url) as producer:
        for family in ("near", "far") * 8:
            await producer.enqueue("work", family=family)
        await run_burst(url, *families)
    assert most == 2


async def test_events_of_both(url: Servers) -> None:
    async with Producer.connect(url) as producer, aclosing(producer.events(["near", "far"], since="start")) as events:
        for family in ("far", "near", "far"):
            await producer.enqueue("double", [1], family=family)
            assert (await asyncio.wait_for(anext(events), 60)).family == family


def test_where_a_family_is_stands_in_its_variable() -> None:
    environ = {"ARQD_REDIS_URL": "redis://main", "ARQD_FAMILY__EMAIL__REDIS_URL": "redis://:hush@mail:6380/1"}
    settings = load_settings(environ)
    servers = settings.servers("redis://main")
    assert servers == Servers("redis://main", {"email": "redis://:hush@mail:6380/1"})
    assert safe_url(servers) == "redis://main, redis://mail:6380/1 (email)"
    assert "hush" not in repr(servers) + repr(settings)
    assert settings.overrides() == {"email": {}}
    assert load_settings({}).servers("redis://main") == "redis://main"


def test_a_plain_arq_class_stays_on_the_default_server(url: Servers, tmp_path: Path) -> None:
    family = make_family("far", double)
    object.__setattr__(family, "stock", {})
    with pytest.raises(ConfigurationError, match="plain arq class, stays on ARQD_REDIS_URL"):
        Supervisor([family], url, handle_signals=False)


# ---------------------------------------------------------------------- a server that is away


async def test_a_server_that_is_away_holds_up_its_own_families_only(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Ticks of the others are made, and what crosses from one to another arrives."""
    main, far = (RedisServer(tmp_path_factory.mktemp("valkey")).start() for _ in range(2))
    url = Servers(main.url, {"away": far.url})
    try:
        async with Schedules.connect(url) as schedules, Producer.connect(url) as producer:
            await schedules.add("s", "double", [1], family="away", every=1)
            await schedules.add("s", "double", [1], family="near", every=1)
            job = await producer.enqueue_flow(
                node("double", [1], family="near", children=[node("double", [2], family="other")])
            )
            dead = await producer.enqueue_flow(
                node("double", [1], family="away", children=[node("double", [2], family="other")])
            )
            assert await dead.status() == "blocked"
            far.kill()
            async with working(url, make_family("near", double), make_family("other", double)):
                assert await job.result(timeout=30) == 2

                async def ticked() -> bool:
                    async with Inspector.connect(url, ["near"]) as inspector:
                        return (await inspector.queue("near")).completed >= 3

                await eventually(ticked)
    finally:
        main.kill()
        far.kill()


async def test_a_server_that_is_away_is_told_and_hides_nothing_of_the_others(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.alerts.watch.AWAY_SECONDS", 0.1)
    main, far = (RedisServer(tmp_path_factory.mktemp("valkey")).start() for _ in range(2))
    try:
        async with (
            guarding(Servers(main.url, {"away": far.url}), "away", "near") as guard,
            Producer.connect(Servers(main.url, {"away": far.url})) as producer,
        ):
            await producer.enqueue("double", [1], family="away")
            assert await guard.look() == ["no_worker away critical"]
            far.kill()
            await producer.enqueue("double", [1], family="near")
            assert sorted(await guard.look()) == ["no_worker near critical", "queue_error away critical"]
            # What cannot be seen is not over.
            assert await guard.look(1200) == []
            far.start()
            assert await guard.look() == ["no_worker away over"]
            assert await guard.look(1200) == ["queue_error away over"]
    finally:
        main.kill()
        far.kill()


async def test_an_outbox_and_the_archive_pass_a_server_that_is_away(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path
) -> None:
    main, far = (RedisServer(tmp_path_factory.mktemp("valkey")).start() for _ in range(2))
    url = Servers(main.url, {"away": far.url})
    kept = tmp_path_factory.mktemp("database") / "arqd.db"
    database = Database(f"sqlite:///{shutil.copyfile(sqlite_template, kept)}")
    try:
        async with Producer.connect(url) as producer:
            await producer.enqueue("fail", ["x"], family="near")
            await run_burst(url, make_family("near", fail, max_tries=1))
        async with database.begin() as connection:
            outbox = Outbox(connection)
            for family in ("away", "near", "away"):
                await outbox.enqueue("double", [1], family=family)
        far.kill()
        async with Inspector.connect(url, ["near"]) as inspector:
            relay = Relay(database.engine, inspector.redis, poll=0.01)
            running = asyncio.create_task(relay.run())

            async def passed() -> bool:
                return [(each.family, each.jobs) for each in await relay.waiting()] == [("away", 2)]

            await eventually(passed)
            assert (await inspector.queue("near")).waiting == 1
            running.cancel()
            with pytest.raises(RedisConnectionError):
                await relay.drain()
            assert await passed()
            archiver = Archiver(inspector.redis, ["away", "near"], Archive(database))
            done = await archiver.run()
            assert (done.archived, done.away.keys()) == ({"near": 1}, {"away"})
            assert await archiver.archive.count() == 1
            with pytest.raises(RedisUnavailable):
                await archiver.run(["away"])
    finally:
        await database.close()
        main.kill()
        far.kill()
