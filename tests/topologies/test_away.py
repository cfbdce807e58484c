"""Families on several servers of which one is gone and one hangs: everybody who looks sees the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from daemon.connecting.connections import connect
from daemon.errors import RedisUnavailable
from daemon.flows import node
from daemon.flows.courier import Courier
from daemon.inspector import Inspector
from daemon.keys import FamilyKeys
from daemon.producer import Producer
from daemon.schedules import Schedules
from daemon.scheduling import scheduler
from daemon.search.indexer import Indexer, publish
from daemon.servers import Servers
from tests.alerts.support import guarding
from tests.away import FAMILIES, near_gone_stuck
from tests.engine import eventually
from tests.searching import caught_up
from tests.servers import RedisServer, looking_at


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with near_gone_stuck(lambda: tmp_path_factory.mktemp("valkey")) as found:
        yield found


@pytest.fixture
def url(servers: Servers) -> Servers:
    with looking_at(servers.default) as client:
        client.flushall()
    return servers


async def test_what_answers_is_told_and_the_rest_is_named(url: Servers) -> None:
    async with Inspector.connect(url, FAMILIES) as inspector, Producer.connect(url) as producer:
        await producer.enqueue("double", [1], family="near")
        answers = await inspector.ask(Inspector.queues, within=3)
        assert [(queue.family, queue.waiting) for part in answers.some() for queue in part] == [
            ("near", 1),
            ("other", 0),
        ]
        assert {family: str(error).partition(" (")[0] for family, error in answers.away.items()} == {
            "gone": "Redis cannot be reached",
            "stuck": "Redis did not answer within 3 s",
        }
        # It is not waited for as long again and again.
        async with asyncio.timeout(300):
            again = await inspector.ask(Inspector.queues, within=600)
        assert str(again.away["stuck"]) == "Redis did not answer within 3 s"
        # Who takes no part of an answer hears of the error.
        with pytest.raises(RedisUnavailable):
            await inspector.queues()
        none = await inspector.only(["gone", "stuck"]).ask(Inspector.queues, within=3)
        with pytest.raises(RedisUnavailable):
            none.some()


async def test_servers_are_asked_side_by_side(url: Servers) -> None:
    together = asyncio.Barrier(3)

    async def meet(part: Inspector) -> list[str]:
        await together.wait()
        return list(part.families)

    async with Inspector.connect(url, FAMILIES) as inspector:
        assert sorted((await inspector.ask(meet)).some()) == [["gone"], ["near", "other"], ["stuck"]]


async def test_a_question_that_is_wrong_is_nobodys_absence(url: Servers) -> None:
    async with Inspector.connect(url, FAMILIES) as inspector:
        with pytest.raises(ZeroDivisionError):
            await inspector.ask(lambda part: _broken())


async def _broken() -> float:
    return 1 / 0


async def test_a_server_that_is_back_is_told_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    near, far = (RedisServer(tmp_path_factory.mktemp("valkey")).start() for _ in range(2))
    try:
        async with Inspector.connect(Servers(near.url, {"far": far.url}), ["far", "near"]) as inspector:
            far.pause()
            assert list((await inspector.ask(Inspector.queues, within=2)).away) == ["far"]
            far.resume()

            async def back() -> bool:
                return not (await inspector.ask(Inspector.queues, within=2)).away

            await eventually(back)
    finally:
        near.kill()
        far.kill()


async def test_alerts_and_reports_are_of_the_others(
    url: Servers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("daemon.alerts.watch.AWAY_SECONDS", 0.1)
    monkeypatch.setattr("daemon.alerts.watch.LOOK_SECONDS", 3.0)
    with looking_at(url.default) as client:
        client.config_set("maxmemory", "100mb")
        port = client.connection_pool.connection_kwargs["port"]
    async with guarding(url, *FAMILIES, memory=1) as guard, Producer.connect(url) as producer:
        await producer.enqueue("double", [1], family="near")
        assert sorted(await guard.look()) == [
            "no_worker near critical", "queue_error gone critical", "queue_error stuck critical",
            f"redis_memory redis 127.0.0.1{port} warning",
        ]  # fmt: skip
        with caplog.at_level("INFO", "arqd.queues"):
            await guard.watch.report()
        assert [(record.family, record.waiting) for record in caplog.records if record.name == "arqd.queues"] == [
            ("near", 1)
        ]  # type: ignore[attr-defined]


async def test_schedules_of_a_server_that_hangs_hold_up_no_others(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than most tests: as long as the lease, and a question to a server that hangs, can last."""
    monkeypatch.setattr(scheduler, "RENEW_SECONDS", 1.0)
    monkeypatch.setattr(scheduler, "LOOK_SECONDS", 1.0)
    main, far = (RedisServer(tmp_path_factory.mktemp("valkey")).start() for _ in range(2))
    stuck = [f"stuck{n}" for n in range(3)]
    url = Servers(main.url, dict.fromkeys(stuck, far.url))
    try:
        async with Schedules.connect(url) as schedules, asyncio.TaskGroup() as group:

            async def ticked(since: float, *families: str) -> bool:
                found = [await schedules.redis.zrange(FamilyKeys.of(family).queue, -1, -1) for family in families]
                return all(names and int(names[0].decode().rpartition(":")[2]) > since * 1000 for names in found)

            for family in (*stuck, "near"):
                await schedules.add("s", "double", [1], family=family, every=1)
            candidates = [group.create_task(scheduler.Scheduler(url).run()) for _ in range(2)]
            await eventually(lambda: ticked(0, *stuck, "near"))
            leader = await schedules.redis.get(scheduler.LEASE)
            far.pause()
            paused = time.time()

            async def ticked_under_the_same_leader() -> bool:
                assert await schedules.redis.get(scheduler.LEASE) == leader
                return await ticked(paused + 8, "near")

            await eventually(ticked_under_the_same_leader)
            far.resume()
            await eventually(lambda: ticked(paused + 8, *stuck))
            for candidate in candidates:
                candidate.cancel()
    finally:
        main.kill()
        far.kill()


async def test_outboxes_of_a_server_that_hangs_hold_up_no_others(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, far = (RedisServer(tmp_path_factory.mktemp("valkey")).start() for _ in range(2))
    url = Servers(main.url, {"stuck": far.url})
    redis = connect(url, timeout=120)
    try:
        async with Producer.connect(url) as producer:
            with monkeypatch.context() as patch:

                async def dies(*_: object) -> set[str]:
                    raise asyncio.CancelledError

                patch.setattr(Courier, "make", dies)
                flow = node("double", [1], family="near", children=[node("double", [1], family="other")])
                with pytest.raises(asyncio.CancelledError):
                    await producer.enqueue_flow(flow)
            far.pause()
            sweeping = asyncio.create_task(Courier(redis, ["stuck", "near", "other"]).sweep())

            async def delivered() -> bool:
                return bool(await producer.redis.exists(FamilyKeys.of("other").queue))

            await eventually(delivered)
            assert not sweeping.done()
            far.resume()
            await sweeping
    finally:
        await redis.aclose()
        main.kill()
        far.kill()


async def test_search_indexes_of_a_server_that_hangs_hold_up_no_others(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    main, far = (RedisServer(tmp_path_factory.mktemp("valkey")).start() for _ in range(2))
    url = Servers(main.url, {"stuck": far.url})
    redis = connect(url, timeout=120)
    try:
        async with Inspector.connect(url, ["near", "stuck"]) as inspector, Producer.connect(url) as producer:
            for family in ("stuck", "near"):
                await producer.enqueue("double", [1], family=family)
                await publish(redis, FamilyKeys.of(family), "errors", 10**6)
            far.pause()
            indexing = asyncio.create_task(Indexer(redis).catch_up())
            await eventually(lambda: caught_up(inspector.redis, inspector, "near"))
            assert not indexing.done()
            far.resume()
            await indexing
            assert await caught_up(redis, inspector, "stuck")
    finally:
        await redis.aclose()
        main.kill()
        far.kill()
