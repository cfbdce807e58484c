"""Looking in: counts, pages, one job, workers and backlog."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from arq import create_pool
from arq.connections import RedisSettings

from daemon import codec
from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import InvalidJob, JobNotFound, PermanentError, RedisRefused, RedisUnavailable
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.keys import FamilyKeys
from daemon.pages import JobFilter
from daemon.producer import Producer
from tests.conftest import RedisServerFactory
from tests.engine import in_state, make_family, run_burst, until, working
from tests.marks import one_server, one_url
from tests.servers import free_port


async def number(ctx: JobContext, n: int = 0) -> int:
    return n


async def fail(ctx: JobContext, n: int = 0) -> None:
    raise PermanentError(f"no {n}")


async def endless(ctx: JobContext) -> None:
    await asyncio.Event().wait()


def family(name: str = "t", **values: Any) -> Any:
    return make_family(name, number, fail, endless, **values)


async def pages(inspector: Inspector, family_name: str, state: str, limit: int) -> list[list[Any]]:
    """Give the payloads of a whole list, page by page."""
    found, cursor = [], None
    while True:
        page = await inspector.jobs(family_name, state, limit=limit, cursor=cursor)
        found.append([info.payload for info in page])
        cursor = page.cursor
        if cursor is None:
            return found


@pytest.fixture
def inspector(producer: Producer) -> Inspector:
    return Inspector(producer.redis, ["t", "u"])


async def test_counts_of_every_state(redis_url: str, producer: Producer, inspector: Inspector) -> None:
    for name, n in (("number", 3), ("fail", 2)):
        for _ in range(n):
            await producer.enqueue(name, [1], family="t")
    late = await producer.enqueue("number", [1], family="t", expires="1ms")
    await asyncio.sleep(0.003)
    await run_burst(redis_url, family())
    assert await late.status() is JobState.EXPIRED
    assert await (await producer.enqueue("number", [1], family="t")).abort()
    await producer.enqueue("number", [1], family="t", delay=600)
    await producer.enqueue("endless", [], family="t")
    async with working(redis_url, family(max_jobs=1)) as supervisor:
        await until(lambda: supervisor.workers[0].running)
        for _ in range(4):
            await producer.enqueue("number", [1], family="t")
        stats = await inspector.queue("t")
        assert (stats.waiting, stats.active, stats.delayed) == (4, 1, 1)
        assert (stats.completed, stats.failed, stats.aborted, stats.expired) == (3, 2, 1, 1)
        assert (stats.workers, stats.slots, stats.paused) == (1, 1, False)
        assert stats.totals == {"completed": 3, "failed": 2, "aborted": 1, "expired": 1}
        other, same = (await inspector.queues())[::-1]
        assert (other.family, other.waiting, other.oldest_age_seconds) == ("u", 0, None)
        assert same.family == "t"


async def test_the_backlog_is_flat_json(redis_url: str, producer: Producer, inspector: Inspector) -> None:
    keys = ["family", "backlog", "active", "delayed", "load", "oldest_age_seconds", "drain_seconds", "workers", "slots"]
    assert list(await inspector.backlog("t")) == keys
    assert (await inspector.backlog("t"))["drain_seconds"] == 0
    await producer.enqueue("endless", [], family="t")
    async with working(redis_url, family(max_jobs=1)) as supervisor:
        await until(lambda: supervisor.workers[0].running)
        await producer.enqueue("number", [1], family="t")
        found = json.loads(json.dumps(await inspector.backlog("t")))
        assert [found[key] for key in ("backlog", "active", "delayed", "load", "workers", "slots")] == [
            1,
            1,
            0,
            2,
            1,
            1,
        ]
        assert 0 <= found["oldest_age_seconds"] < 60
        assert found["drain_seconds"] is None


async def test_the_oldest_is_found_in_every_level_and_among_what_came_due(
    producer: Producer, inspector: Inspector
) -> None:
    now = datetime.now(UTC)
    await producer.enqueue("number", [1], family="t", priority=9)
    await producer.enqueue("number", [1], family="t", priority=1)
    delayed = await producer.enqueue("number", [1], family="t", delay=600)
    assert (await inspector.queue("t")).oldest_age_seconds < 5  # type: ignore[operator]
    # An hour ago by the clock: what waiting would do, done by hand.
    await producer.redis.zadd("arq:{t}", {delayed.job_id: (now - timedelta(hours=1)).timestamp() * 1000})
    stats = await inspector.queue("t")
    assert (stats.waiting, stats.delayed) == (3, 0)
    assert 3590 < (stats.oldest_age_seconds or 0) < 3660


async def test_pages_are_in_order_and_complete(redis_url: str, producer: Producer, inspector: Inspector) -> None:
    failing = []
    for n in range(7):
        await producer.enqueue("number", [n], family="t", priority=1 + n % 2)
        failing.append(await producer.enqueue("fail", [n], family="u"))
    waiting = [info.payload for info in await inspector.jobs("t", JobState.WAITING)]
    assert waiting == [0, 2, 4, 6, 1, 3, 5]
    assert await pages(inspector, "t", "waiting", 3) == [[0, 2, 4], [6, 1, 3], [5]]
    await run_burst(redis_url, family("u", max_jobs=1))
    # Jobs that end in the same millisecond have no order.
    await producer.redis.zadd("{u}:dead", {job.job_id: 1000 + n for n, job in enumerate(failing)})
    failed = await inspector.jobs("u", JobState.FAILED, limit=2)
    assert [info.error["message"] for info in failed if info.error] == ["no 6", "no 5"]
    assert [len(page) for page in await pages(inspector, "u", "failed", 7)] == [7]


async def test_a_page_of_waiting_jobs_goes_on_over_the_suspects(producer: Producer, inspector: Inspector) -> None:
    jobs = [await producer.enqueue("number", [n], family="t") for n in range(5)]
    for n in (3, 4):
        await producer.redis.zadd("arq:{t}", {jobs[n].job_id: 2**46 + 1000 + n})
    assert await pages(inspector, "t", "waiting", 2) == [[0, 1], [2, 3], [4]]
    assert await pages(inspector, "t", "waiting", 3) == [[0, 1, 2], [3, 4]]
    assert (await inspector.queue("t")).waiting == 5


@pytest.mark.parametrize(
    ("args", "options", "said"),
    [
        (("nowhere", "waiting"), {}, "no family 'nowhere': known are t, u"),
        (("t", "broken"), {}, "'broken' is not a state: use one of waiting"),
        (("t", "waiting"), {"limit": 0}, "limit is 1 to 500"),
        (("t", "waiting"), {"limit": 501}, "limit is 1 to 500"),
        (("t", "waiting"), {"cursor": "broken"}, "cursor 'broken' is not one of the waiting jobs: leave it out"),
        (("t", "waiting"), {"cursor": "é"}, "is not one of the waiting jobs"),
        (("t", "waiting"), {"where": JobFilter(error="ValueError")}, "jobs that are waiting have no error"),
    ],
)
async def test_a_wrong_question_is_told(inspector: Inspector, args: Any, options: Any, said: str) -> None:
    with pytest.raises(InvalidJob, match=said):
        await inspector.jobs(*args, **options)


async def test_everything_known_of_a_dead_letter(redis_url: str, producer: Producer, inspector: Inspector) -> None:
    await producer.enqueue("fail", [4], family="t", job_id="one", priority=2, max_tries=3, tags=["x"], expires=600)
    await run_burst(redis_url, family())
    info = await inspector.job("t:one")
    assert (info.id, info.family, info.state, info.function, info.payload) == ("t:one", "t", "failed", "fail", 4)
    assert (info.priority, info.max_tries, info.tags, info.tries, info.crashes) == (2, 3, ["x"], 1, 0)
    assert info.error is not None
    assert (info.error["type"], info.error["message"], info.error["reason"]) == ("PermanentError", "no 4", "permanent")
    assert "in fail" in info.error["traceback"]
    assert [line["message"] for line in info.history] == ["no 4"]
    assert info.enqueued_at is not None
    assert info.started_at is not None
    assert info.finished_at is not None
    assert info.enqueued_at - timedelta(seconds=1) <= info.started_at <= info.finished_at
    assert info.expires_at is not None
    assert info.result is None


async def test_a_running_job_tells_its_worker(redis_url: str, producer: Producer, inspector: Inspector) -> None:
    job = await producer.enqueue("endless", [], family="t")
    async with working(redis_url, family()) as supervisor:
        await until(lambda: supervisor.workers[0].running)
        info = await inspector.job(job.id)
        assert (info.state, info.worker) == (JobState.ACTIVE, supervisor.session)
        assert info.started_at is not None
        assert abs(info.started_at - datetime.now(UTC)) < timedelta(minutes=1)
        (listed,) = await inspector.jobs("t", JobState.ACTIVE)
        assert listed == info


async def test_an_id_is_found_however_it_is_written(producer: Producer, inspector: Inspector) -> None:
    await producer.enqueue("number", [1], family="t", job_id="one")
    await producer.enqueue("number", [1], family="u", job_id="a:b")
    for written in ("t:one", "{t}:one"):
        assert (await inspector.job(written)).id == "t:one"
    assert (await inspector.job("u:a:b")).id == "u:a:b"
    assert (await Inspector(producer.redis, ["t"]).job("one")).id == "t:one"
    for wrong in ("one", "x:one"):
        with pytest.raises(InvalidJob, match=r"names no known family: write it as family:id \(families: t, u\)"):
            await inspector.job(wrong)
    with pytest.raises(JobNotFound, match="there is no job t:two"):
        await inspector.job("t:two")


@one_url
async def test_a_stock_producers_bare_id_is_found_by_its_family(
    redis_url: str, producer: Producer, inspector: Inspector
) -> None:
    pool = await create_pool(
        RedisSettings.from_dsn(redis_url), job_serializer=codec.dumps, job_deserializer=codec.loads,
        default_queue_name="arq:{t}",
    )  # fmt: skip
    await pool.enqueue_job("fail", 1, _job_id="bare")
    assert (await inspector.job("t:bare")).state is JobState.WAITING
    await run_burst(redis_url, family())
    assert (await inspector.job("t:bare")).state is JobState.FAILED
    control = Control(producer.redis, ["t", "u"])
    assert await control.retry(["t:bare"]) == {"t:bare": "retried"}
    assert await control.remove(["t:bare"]) == {"t:bare": "removed"}
    assert await pool.keys("arq:*:bare") == []
    await pool.aclose()


async def test_workers_of_every_family(redis_url: str, inspector: Inspector) -> None:
    async with working(redis_url, family(max_jobs=3), family("u", max_jobs=4)) as first, working(redis_url, family()):
        assert [(w.family, w.slots) for w in await inspector.workers()][-1] == ("u", 4)
        assert len(await inspector.workers("t")) == 2
        assert (await inspector.queue("t")).slots == 13
        assert first.session in {worker.session for worker in await inspector.workers()}
        assert [stats.family for stats in await inspector.queues()] == ["t", "u"]
        assert [stats.slots for stats in await inspector.queues()] == [13, 4]
        assert all((worker.memory or 0) > 10_000_000 for worker in await inspector.workers())


async def test_a_worker_of_a_later_release_may_publish_more(redis_url: str, inspector: Inspector) -> None:
    async with working(redis_url, family()) as supervisor:
        key = FamilyKeys.of("t").key("session", supervisor.session)
        info = json.loads(await inspector.redis.hget(key, "info"))
        await inspector.redis.hset(key, "info", json.dumps({**info, "mood": "good"}))
        assert [worker.pid for worker in await inspector.workers("t")] == [os.getpid()]


@one_server
async def test_redis_away_is_an_error_and_never_zeros(redis_server: RedisServerFactory) -> None:
    async with Inspector.connect(f"redis://127.0.0.1:{free_port()}", ["t"]) as inspector:
        for call in (inspector.queue("t"), inspector.backlog("t"), inspector.job("t:x"), inspector.workers()):
            with pytest.raises(RedisUnavailable):
                await call  # type: ignore[misc]
    server = redis_server(password="right")
    async with Inspector.connect(f"redis://:wrong@127.0.0.1:{server.port}", ["t"]) as inspector:
        with pytest.raises(RedisRefused):
            await inspector.queues()


async def test_tags_of_ended_jobs(redis_url: str) -> None:
    async def work(ctx: JobContext, ends: str) -> None:
        if ends == "failed":
            raise PermanentError("no")

    async with Producer.connect(redis_url) as producer, working(redis_url, make_family("t", work)):
        for state in ("completed", "failed"):
            job = await producer.enqueue("work", [state], family="t", tags=["red", "blue"], max_tries=4)
            info = await in_state(job, JobState(state))
            assert (info.tags, info.max_tries, info.payload) == (["red", "blue"], 4, state)
