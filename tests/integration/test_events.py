"""`Producer.events`: what a worker tells, and a reader that goes on whatever happens to its connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daemon.context import JobContext
from daemon.errors import InvalidJob, PermanentError, RedisRefused, RetryAfter
from daemon.events import Event
from daemon.family import Fixed
from daemon.producer import Producer, SyncProducer
from tests.conftest import RedisServerFactory
from tests.engine import eventually, make_family, run_burst, working
from tests.marks import one_server


async def work(ctx: JobContext, how: str) -> str:
    if how == "again" and ctx.job_try == 1:
        raise OSError("line\nbusy")
    if how == "never":
        raise PermanentError("no such address")
    if how == "later" and not await ctx.redis.set(ctx.key("asked"), 1, get=True):
        raise RetryAfter(0.01, scope="job")
    await ctx.progress(50, "half\nway")
    return how


async def collect(events: AsyncGenerator[Event, None], count: int) -> list[Event]:
    async with asyncio.timeout(60), aclosing(events):
        return [await anext(events) for _ in range(count)]


async def test_a_workers_life_is_told(redis_url: str, producer: Producer) -> None:
    jobs = {how: await producer.enqueue("work", [how], family="t") for how in ("again", "never", "later")}
    await producer.enqueue("nobody", family="t", delay=3600)
    await run_burst_until_done(redis_url, *jobs.values())
    kinds = ["enqueued", "started", "retrying", "started", "progress", "completed"]
    expected = {
        "again": [
            ("enqueued", None, ""), ("started", None, ""), ("retrying", 1, "again in 0.01 s: OSError: line busy"),
            ("started", 2, ""), ("progress", 2, "50 half way"), ("completed", 2, ""),
        ],
        "never": [("enqueued", None, ""), ("started", None, ""), ("failed", 1, "PermanentError: no such address")],
    }  # fmt: skip
    found = await collect(producer.events("t", "start"), 6 + 3 + 6 + 1)
    for how, steps in expected.items():
        own = [event for event in found if event.id == jobs[how].id]
        assert [(event.kind, event.job_try, event.detail) for event in own] == steps
        assert {event.function for event in own} == {"work"}
        ended = [event for event in own if event.kind in ("retrying", "failed", "completed")]
        assert all(event.duration is not None and 0 <= event.duration < 10 for event in ended)
        assert [event.at for event in own] == sorted(event.at for event in own)
    later = [event for event in found if event.id == jobs["later"].id]
    assert [event.kind for event in later] == [kind.replace("retrying", "released") for kind in kinds]
    assert later[2].detail.startswith("told to wait until 20")
    (alone,) = [event for event in found if event.function == "nobody"]
    assert (alone.kind, alone.detail, alone.family) == ("enqueued", "for 3600 s later", "t")


async def run_burst_until_done(redis_url: str, *jobs: Any) -> None:
    async with working(redis_url, make_family("t", work, backoff=Fixed(0.01))):
        await asyncio.gather(*(job.result(30) for job in jobs), return_exceptions=True)


async def test_events_come_as_they_happen_and_from_several_families(producer: Producer) -> None:
    await producer.enqueue("f", family="a", job_id="before")
    events = producer.events(["a", "b"])
    async with asyncio.timeout(60), aclosing(events):
        coming = asyncio.create_task(anext(events))
        await eventually(lambda: _blocked(producer))
        await producer.enqueue("f", family="b", job_id="1")
        assert (await coming).id == "b:1"
        await producer.enqueue("f", family="a", job_id="2")
        last = await anext(events)
        assert (last.id, last.family) == ("a:2", "a")
    await producer.enqueue("f", family="b", job_id="3")
    behind = await collect(producer.events(["a", "b"], {"a": last.position, "b": "0-0.0"}), 2)
    assert [event.id for event in behind] == ["b:1", "b:3"]


async def _blocked(producer: Producer) -> bool:
    return any(client["cmd"] == "xread" for client in await producer.redis.client_list())


async def test_where_to_begin(producer: Producer) -> None:
    for name in "abc":
        await producer.enqueue("f", family="t", job_id=name)
    found = await collect(producer.events("t", "start"), 3)
    assert [event.id for event in found] == ["t:a", "t:b", "t:c"]
    assert await collect(producer.events("t", found[0].position), 2) == found[1:]
    assert await collect(producer.events("t", datetime.now(UTC) - timedelta(minutes=1)), 3) == found


@pytest.mark.parametrize(
    ("families", "since", "told"),
    [
        ("T", "now", "must match"),
        ([], "now", "name a family"),
        ("t", "yesterday", "is no place in a stream"),
        ("t", "1-2", "is no place in a stream"),
        ("t", datetime.fromisoformat("2030-01-01"), "no time zone"),
        (["t", "u"], "1-2.3", "give a mapping"),
        (["t", "u"], {"t": "x"}, "is no place in a stream"),
    ],
)
async def test_a_wrong_place_is_refused_at_once(producer: Producer, families: Any, since: Any, told: str) -> None:
    with pytest.raises(InvalidJob, match=told):
        producer.events(families, since)


async def test_a_reader_survives_cut_connections_and_a_restart_and_tells_nothing_twice(
    redis_server: RedisServerFactory,
) -> None:
    server = redis_server(appendonly="yes", appendfsync="always")
    names = [str(n) for n in range(40)]
    seen: list[str] = []
    async with Producer.connect(server.url) as producer:

        async def read() -> None:
            async with aclosing(producer.events("t", "start")) as events:
                async for event in events:
                    seen.append(event.id.removeprefix("t:"))

        reading = asyncio.create_task(read())
        for number, name in enumerate(names):
            await producer.enqueue("f", family="t", job_id=name)
            if number % 10 == 5:
                with server.client() as client:
                    client.client_kill_filter(_type="normal", skipme=True)
            if number == 20:
                await asyncio.to_thread(server.restart)
        await eventually(lambda: _enough(seen, len(names)))
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        # The server sees a closed connection when it comes to it.
        await eventually(lambda: _nobody_reads(producer))
    assert seen == names


async def _nobody_reads(producer: Producer) -> bool:
    return all(client["cmd"] != "xread" for client in await producer.redis.client_list())


async def _enough(seen: list[str], count: int) -> bool:
    return len(seen) >= count


@one_server
async def test_a_refused_user_is_told(redis_server: RedisServerFactory) -> None:
    server = redis_server(password="right")
    async with Producer.connect(f"redis://:wrong@127.0.0.1:{server.port}") as producer:
        with pytest.raises(RedisRefused):
            await anext(producer.events("t"))


async def test_a_producer_on_a_given_client_reads_on_its_pool(producer: Producer) -> None:
    shared = Producer(producer.redis)
    await shared.enqueue("f", family="t", job_id="a")
    assert (await collect(shared.events("t", "start"), 1))[0].id == "t:a"


def test_without_an_event_loop_it_is_an_ordinary_iterator(redis_url: str) -> None:
    with SyncProducer.connect(redis_url) as producer:
        producer.enqueue("f", family="t", job_id="a")
        events = producer.events("t", "start")
        assert next(events).id == "t:a"
        timer = threading.Timer(0.05, lambda: producer.enqueue("f", family="t", job_id="b"))
        timer.start()
        assert next(events).id == "t:b"
        timer.join()
        events.close()  # type: ignore[attr-defined]
        for event in producer.events("t", "start"):
            assert event.id == "t:a"
            break
        with pytest.raises(InvalidJob):
            producer.events("t", "yesterday")


async def test_a_family_without_events_writes_none(redis_url: str, producer: Producer) -> None:
    await producer.enqueue("work", ["plain"], family="t")
    await run_burst(redis_url, make_family("t", work, max_events=0, statistics=False))
    await producer.enqueue("work", ["plain"], family="t")
    assert await producer.redis.exists("{t}:events") == 0
