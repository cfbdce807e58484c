"""Looks at real queues: told once, again after a while, and when it is over, whoever looks."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.alerts import watch as module
from daemon.alerts.book import Book
from daemon.alerts.watch import Watch
from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import RedisUnavailable
from daemon.inspector import Inspector
from daemon.producer import Producer
from daemon.scheduling.scheduler import Scheduler
from tests.alerts.support import Guard, guarding
from tests.conftest import RedisServerFactory
from tests.engine import eventually, make_family, run_burst, until, working
from tests.handlers.receiver import Answer


async def quick(ctx: JobContext, job: dict[str, Any]) -> None: ...


async def broken(ctx: JobContext, job: dict[str, Any]) -> None:
    raise ValueError


async def enqueue(producer: Producer, count: int, function: str = "quick", **options: object) -> None:
    for _ in range(count):
        await producer.enqueue(function, {}, family="t", **options)


async def test_work_that_waits_without_a_worker_is_told_at_the_first_look(producer: Producer, redis_url: str) -> None:
    async with guarding(redis_url, "t") as guard:
        async with working(redis_url, make_family("t", quick)):
            await enqueue(producer, 3)
            await eventually(lambda: drained(guard))
        assert await guard.look() == []
        await enqueue(producer, 2)
        assert await guard.look() == ["no_worker t critical"]
        assert await guard.look() == []


async def test_a_worker_that_starts_anew_is_no_alarm(producer: Producer, redis_url: str) -> None:
    await enqueue(producer, 3)
    async with guarding(redis_url, "t") as guard, AsyncExitStack() as stack:

        async def starts(seconds: float) -> None:
            await stack.enter_async_context(working(redis_url, make_family("t", quick)))
            await eventually(lambda: drained(guard))

        guard.sleep = starts
        assert await guard.look(watch=guard.successor()) == []


async def drained(guard: Guard) -> bool:
    return (await guard.inspector.queue("t")).completed == 3


async def test_a_healthy_burst_raises_nothing(producer: Producer, redis_url: str) -> None:
    await producer.enqueue_many("quick", [{}] * 900, family="t")
    async with guarding(redis_url, "t", waiting="1000", objectives="t 95% 30s") as guard:
        async with working(redis_url, make_family("t", quick)):
            assert await guard.look() == []
        await run_burst(redis_url, make_family("t", quick))
        assert await guard.look() == []


async def test_it_is_told_once_then_again_and_when_it_is_over(producer: Producer, redis_url: str) -> None:
    async with guarding(redis_url, "t", repeat="1h", calm="10m") as guard, Control.connect(redis_url, ["t"]) as control:
        await control.pause("t")
        assert await guard.look() == ["paused t critical"]
        assert [await guard.look() for _ in range(11)] == [[]] * 11
        assert await guard.look() == ["paused t still critical"]
        await control.resume("t")
        assert await guard.look() == []
        assert await guard.look() == ["paused t over"]
        assert await guard.look() == []
        assert await guard.book.firing(guard.now) == []


async def test_a_queue_that_comes_and_goes_raises_one_alert(producer: Producer, redis_url: str) -> None:
    async with guarding(redis_url, "t", repeat="1d") as guard, Control.connect(redis_url, ["t"]) as control:
        heard = []
        for _ in range(20):
            await control.pause("t")
            heard += await guard.look()
            await control.resume("t")
            heard += await guard.look()
        assert heard == ["paused t critical"]
        assert [await guard.look() for _ in range(3)] == [[], ["paused t over"], []]


async def test_another_leader_goes_on_where_the_last_one_was(producer: Producer, redis_url: str) -> None:
    await enqueue(producer, 1)
    async with guarding(redis_url, "t") as guard:
        assert await guard.look() == ["no_worker t critical"]
        assert await guard.look(watch=guard.successor()) == []
        await run_burst(redis_url, make_family("t", quick))
        assert [await guard.look(watch=guard.successor()) for _ in range(3)] == [[], [], ["no_worker t over"]]


async def test_dead_letters_are_told_since_the_last_look(producer: Producer, redis_url: str) -> None:
    async with guarding(redis_url, "t", calm="0s") as guard:
        assert await guard.look() == []
        await enqueue(producer, 2, "broken", max_tries=1)
        await run_burst(redis_url, make_family("t", quick, broken))
        assert await guard.look() == ["dead_letter t warning"]
        assert "2 jobs became dead letters" in guard.receiver.taken[-1].json()["text"]
        assert await guard.look() == ["dead_letter t over"]


async def test_a_worker_that_died_is_told_though_another_took_its_jobs(producer: Producer, redis_url: str) -> None:
    async with guarding(redis_url, "t", off="no_worker") as guard:
        await guard.look()
        # Its lease has ended; the tick of the next one reaps it.
        redis: Redis = producer.redis
        await redis.zadd("{t}:workers", {"0123456789abcdef": 1})
        await redis.hset("{t}:session:0123456789abcdef", "n", 1)
        assert await guard.look() == ["worker_lost t critical"]
        await run_burst(redis_url, make_family("t", quick))
        async with working(redis_url, make_family("t", quick)):
            await eventually(lambda: gone(redis))
        await guard.look()
        (alert,) = await guard.book.firing(guard.now)
        assert (alert.alert, alert.seen) == ("worker_lost", guard.now)


async def gone(redis: Redis) -> bool:
    return await redis.zscore("{t}:workers", "0123456789abcdef") is None


async def test_a_silence_holds_back_what_it_covers_and_no_more(producer: Producer, redis_url: str) -> None:
    async with guarding(redis_url, "t", "u") as guard, Control.connect(redis_url, ["t", "u"]) as control:
        made = await guard.book.silence(guard.now, 1200, alert="paused", subject="t", by="ada", reason="new disks")
        await control.pause("t")
        await control.pause("u")
        assert await guard.look() == ["paused u critical"]
        first, second = await guard.book.firing(guard.now)
        assert (first.subject, first.silenced, second.subject, second.silenced) == ("t", True, "u", False)
        assert [each.id for each in await guard.book.silences(guard.now)] == [made.id]
        assert [await guard.look() for _ in range(2)] == [[], []]
        # What still lasts when it ends is told then.
        assert await guard.look() == ["paused t critical"]
        assert await guard.book.silences(guard.now) == []


async def test_a_silence_may_begin_later_and_be_ended(producer: Producer, redis_url: str) -> None:
    async with guarding(redis_url, "t", repeat="5m") as guard, Control.connect(redis_url, ["t"]) as control:
        await control.pause("t")
        made = await guard.book.silence(guard.now, 3600, starts=guard.now + 600)
        assert await guard.look() == ["paused t critical"]
        assert [await guard.look() for _ in range(3)] == [[], [], []]
        await guard.book.unsilence(made.id)
        assert await guard.look() == ["paused t still critical"]


async def test_a_failover_while_it_writes_is_no_error_of_redis(
    producer: Producer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is lost for a moment is told when it lasts, at whichever command it was lost."""

    async def lost(*_: Any) -> None:
        raise RedisUnavailable("the connection was lost")

    await enqueue(producer, 1)
    async with guarding(redis_url, "t") as guard:
        with monkeypatch.context() as patch:
            patch.setattr(Book, "save", lost)
            assert await guard.look() == ["no_worker t critical"]
        assert await guard.look() == []
        assert [alert.times for alert in await guard.book.firing(guard.now)] == [1]


async def test_channels_are_chosen_by_severity(producer: Producer, redis_url: str) -> None:
    async with guarding(redis_url, "t", delayed="1", critical="") as guard:
        await enqueue(producer, 2, delay=60)
        await enqueue(producer, 1)
        assert await guard.look() == ["many_delayed t warning"]
        assert {alert.alert for alert in await guard.book.firing(guard.now)} == {"many_delayed", "no_worker"}


async def test_what_a_channel_did_not_take_is_sent_again(producer: Producer, redis_url: str) -> None:
    await enqueue(producer, 1)
    async with guarding(redis_url, "t") as guard:
        guard.receiver.answers = [Answer(500), Answer(503)]
        assert [await guard.look() for _ in range(4)] == [[], [], ["no_worker t critical"], []]


async def test_a_channel_that_cannot_be_opened_keeps_no_other_from_being_told(
    producer: Producer, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await enqueue(producer, 1)
    async with guarding(redis_url, "t") as guard:
        channels = {"wrong": "nosuchservice://secret-word", **guard.settings.channels}
        guard.settings = type(guard.settings)(channels=channels)
        assert await guard.look(watch=guard.successor()) == ["no_worker t critical"]
    assert "ARQD_ALERTS__CHANNELS__WRONG: Apprise does not understand this URL" in caplog.text
    assert "secret-word" not in caplog.text


async def test_the_log_is_always_told(producer: Producer, redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    await enqueue(producer, 1)
    async with guarding(redis_url, "t", channels={}) as guard:
        with caplog.at_level(logging.INFO, "arqd.alerts"):
            await guard.look()
    (record,) = [each for each in caplog.records if each.name == "arqd.alerts"]
    assert (record.levelname, record.alert, record.subject, record.kind) == ("ERROR", "no_worker", "t", "firing")


@pytest.mark.only_on("valkey", "redis", reason="fills one server's memory")
async def test_a_full_server_is_told_though_nothing_can_be_written(redis_server: RedisServerFactory) -> None:
    server = redis_server(maxmemory="4mb")
    async with guarding(server.url, "t") as guard:
        async with Producer.connect(server.url) as producer:
            while not await full(guard):
                await producer.redis.rpush("ballast", *[b"x" * 1000] * 100)
        assert set(await guard.look()) == {"queue_error redis critical", "redis_memory redis warning"}
        assert await guard.look() == []


async def full(guard: Guard) -> bool:
    (server,) = await guard.inspector.servers()
    if server.limit - server.used < 200_000:
        # By more than connections that come and go take.
        await guard.inspector.redis.config_set("maxmemory", server.used - 200_000)
    return (await guard.inspector.servers())[0].full


@pytest.mark.only_on("valkey", "redis", reason="an ACL user of one server")
async def test_a_user_that_may_not_look_is_told(redis_server: RedisServerFactory) -> None:
    server = redis_server()
    admin = Redis.from_url(server.url)
    await admin.acl_setuser("blind", enabled=True, passwords=["+pw"], keys=["~arqd:*"], commands=["+@all"])
    async with guarding(server.url.replace("redis://", "redis://blind:pw@"), "t") as guard:
        assert await guard.look() == ["queue_error redis critical"]
        await admin.acl_setuser("blind", enabled=True, passwords=["+pw"], keys=["~*"], commands=["+@all"])
        assert [await guard.look() for _ in range(3)] == [[], [], ["queue_error redis over"]]
    await admin.aclose()


@pytest.mark.only_on("valkey", "redis", reason="stops one server")
async def test_redis_away_is_told_by_the_last_leader_alone(
    redis_server: RedisServerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AWAY_SECONDS", 0.1)
    server = redis_server(appendonly="yes")
    async with guarding(server.url, "t") as guard:
        leader, other = Scheduler(server.url), Scheduler(server.url)
        tasks = []
        for scheduler in (leader, other):
            Watch(guard.inspector, guard.settings).attach(scheduler)
            tasks.append(asyncio.create_task(scheduler.run()))
            await until(lambda: leader.leading)
        server.kill()
        await until(lambda: guard.receiver.taken)
        server.start()
        await until(lambda: leader.leading or other.leading)
        await eventually(lambda: written(guard))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [event.json()["title"] for event in guard.receiver.taken] == ["arqd queue_error: redis"]


async def written(guard: Guard) -> bool:
    return [alert.alert for alert in await guard.book.firing(guard.now)] == ["queue_error"]


async def test_the_scheduler_looks_when_every_worker_is_gone(producer: Producer, redis_url: str) -> None:
    await enqueue(producer, 1)
    async with guarding(redis_url, "t") as guard:
        scheduler = Scheduler(redis_url)
        guard.watch.attach(scheduler)
        task = asyncio.create_task(scheduler.run())
        await until(lambda: guard.receiver.taken)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert guard.receiver.taken[0].json()["title"] == "arqd no_worker: t"


async def test_an_objective_of_a_group_is_judged_by_its_oldest_job(producer: Producer, redis_url: str) -> None:
    async with Inspector.connect(redis_url, ["t"]) as inspector:
        for group in ("acme", "globex", "acme"):
            await producer.enqueue("quick", {}, family="t", group=group)
        await producer.enqueue("quick", {}, family="t")
        age = await inspector.oldest_of_group("t", "acme")
        assert age is not None
        assert 0 <= age < 60
        assert await inspector.oldest_of_group("t", "initech") is None
    async with guarding(redis_url, "t", objectives="t/acme 99% 1ms, t/initech 99% 1ms", off="no_worker") as guard:
        await guard.look()
        assert guard.receiver.taken == []


async def test_what_queues_hold_is_logged(producer: Producer, redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    await enqueue(producer, 2)
    await enqueue(producer, 1, delay=60)
    async with guarding(redis_url, "t", "u") as guard:
        with caplog.at_level(logging.INFO, "arqd.queues"):
            await guard.watch.report()
    (record,) = [each for each in caplog.records if each.name == "arqd.queues"]
    assert (record.family, record.waiting, record.delayed, record.workers) == ("t", 2, 1, 0)
