"""A worker's limits, its burst, what it keeps and publishes, and how it starts and ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import arq.worker
import pytest

from daemon.broker import Broker
from daemon.context import JobContext
from daemon.errors import ConfigurationError, JobFailed, RedisRefused
from daemon.family import RateLimit, func
from daemon.inspecting.job_info import HELD
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.keys import FamilyKeys
from daemon.lua import SCRIPTS
from daemon.producer import Producer
from daemon.retry import Fixed
from daemon.supervisor import Supervisor
from tests.conftest import RedisServerFactory
from tests.engine import calls, eventually, make_family, run_burst, until, working
from tests.marks import one_server


class Meter:
    """A handler that stays until it is let go, and counts how many stay at once by family."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.seen: list[str] = []

    async def stay(self, ctx: JobContext) -> None:
        self.seen.append(ctx.job_id)
        self.now[ctx.family] += 1
        self.most[ctx.family] = max(self.most[ctx.family], self.now[ctx.family])
        try:
            await self.release.wait()
        finally:
            self.now[ctx.family] -= 1


async def number(ctx: JobContext, n: int = 0) -> int:
    return n


# ---------------------------------------------------------------- limits


async def test_families_of_one_process_keep_their_own_limits(redis_url: str, producer: Producer) -> None:
    meter = Meter()
    families = [make_family(name, meter.stay, max_jobs=limit) for name, limit in (("a", 1), ("b", 3))]
    async with working(redis_url, *families):
        jobs = [await producer.enqueue("stay", [], family=name) for name in "ab" for _ in range(5)]
        await until(lambda: meter.now == {"a": 1, "b": 3})
        meter.release.set()
        for job in jobs:
            await job.result(30)
    assert meter.most == {"a": 1, "b": 3}


async def test_a_slot_is_filled_again_at_once(redis_url: str, producer: Producer) -> None:
    async with working(redis_url, make_family("t", number, max_jobs=2)):
        many = [await producer.enqueue("number", [n], family="t") for n in range(300)]
        assert [await job.result(30) for job in many] == list(range(300))


async def test_a_global_limit_holds_over_processes(redis_url: str, producer: Producer) -> None:
    meter = Meter()

    def family() -> Any:
        return make_family("t", meter.stay, max_jobs=5, global_limit=2)

    jobs = [await producer.enqueue("stay", [], family="t") for _ in range(6)]
    async with working(redis_url, family()), working(redis_url, family()):
        await until(lambda: meter.now["t"] == 2)
        assert (await Inspector(producer.redis, ["t"]).queue("t")).waiting == 4
        meter.release.set()
        for job in jobs:
            await job.result(30)
    assert meter.most["t"] == 2


async def test_a_rate_limit_holds_over_processes(redis_url: str, producer: Producer) -> None:
    async def started(ctx: JobContext) -> None: ...

    def family() -> Any:
        return make_family("t", started, rate_limit=RateLimit(3, per=3600))

    jobs = [await producer.enqueue("started", [], family="t") for _ in range(5)]
    async with working(redis_url, family()), working(redis_url, family()):
        for job in jobs[:3]:
            await job.result(30)
        before = calls(redis_url, "eval", "evalsha")
        await producer.enqueue("started", [], family="t")
        await asyncio.sleep(0.1)
        stats = await Inspector(producer.redis, ["t"]).queue("t")
        assert (stats.completed, stats.waiting, stats.active) == (3, 3, 0)
        assert calls(redis_url, "eval", "evalsha") - before < 10, "a closed rate window is no reason to spin"


async def test_a_rate_limit_lets_the_next_in_when_its_time_comes(redis_url: str, producer: Producer) -> None:
    times: list[float] = []

    async def note(ctx: JobContext) -> None:
        # When the script claimed it, ms: a busy process may begin it later.
        times.append(await producer.redis.zscore(FamilyKeys.of("t").queue, ctx.job_id) - HELD)

    jobs = [await producer.enqueue("note", [], family="t") for _ in range(6)]
    async with working(redis_url, make_family("t", note, rate_limit=RateLimit(2, per=0.2))):
        for job in jobs:
            await job.result(30)
    assert max(times) - min(times) > 350


# ---------------------------------------------------------------- waking


async def test_an_idle_worker_starts_a_new_job_and_one_that_came_due(redis_url: str, producer: Producer) -> None:
    async with working(redis_url, make_family("t", number), make_family("u", number)) as supervisor:
        far = await producer.enqueue("number", [9], family="t", delay=3600)
        due = await producer.enqueue("number", [1], family="t", delay=0.2)
        for n in range(20):
            family = "tu"[n % 2]
            assert await (await producer.enqueue("number", [n], family=family)).result(30) == n
        assert await due.result(30) == 1
        assert await far.status() is JobState.DELAYED
        await until(lambda: not any(worker.busy for worker in supervisor.workers))

        async def nothing_is_asked() -> bool:
            before = calls(redis_url, "eval", "evalsha")
            await asyncio.sleep(0.2)
            return calls(redis_url, "eval", "evalsha") == before

        # The call after the last job may still be under way.
        await eventually(nothing_is_asked)


async def test_leases_are_renewed_though_the_server_never_keeps_the_script(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("renew", "rest"):
        monkeypatch.setitem(SCRIPTS._loaded, name, replace(SCRIPTS[name], sha="0" * 40))  # type: ignore[attr-defined]
    async with working(redis_url, make_family("t", number, lease=1), make_family("u", number)) as supervisor:
        # Of the one without jobs it takes another script.
        await producer.enqueue("number", [1], family="t", delay=3600)
        first = [await producer.redis.zscore(f"{{{name}}}:workers", supervisor.session) for name in "tu"]

        async def renewed() -> bool:
            ends = [await producer.redis.zscore(f"{{{name}}}:workers", supervisor.session) for name in "tu"]
            return all(end > before for end, before in zip(ends, first, strict=True))

        await eventually(renewed)


async def test_a_paused_queue_starts_nothing(redis_url: str, producer: Producer) -> None:
    async with working(redis_url, make_family("t", number, lease=1)):
        await producer.redis.hset("{t}:conf", "paused", "1")
        job = await producer.enqueue("number", [1], family="t")
        await producer.redis.zadd("{t}:mark", {"1": 0})

        async def mark_taken() -> bool:
            return not await producer.redis.exists("{t}:mark")

        await eventually(mark_taken)
        assert await job.status() is JobState.WAITING
        await producer.redis.hdel("{t}:conf", "paused")
        assert await job.result(30) == 1


# ---------------------------------------------------------------- burst


async def test_a_burst_ends_when_nothing_waits_retries_and_delayed_jobs_included(
    redis_url: str, producer: Producer
) -> None:
    async def second_time(ctx: JobContext) -> int:
        if ctx.job_try == 1:
            raise ValueError
        return ctx.job_try

    retried = await producer.enqueue("second_time", [], family="t")
    delayed = await producer.enqueue("number", [5], family="t", delay=0.1)
    supervisor = await run_burst(redis_url, make_family("t", second_time, number, backoff=Fixed(0.1)))
    assert (await retried.result(30), await delayed.result(60)) == (2, 5)
    worker = supervisor.workers[0]
    assert (worker.jobs_complete, worker.jobs_retried, worker.jobs_failed) == (2, 1, 0)
    assert await Inspector(producer.redis, ["t"]).workers("t") == []


async def test_a_burst_of_so_many_jobs(redis_url: str, producer: Producer) -> None:
    jobs = [await producer.enqueue("number", [n], family="t") for n in range(5)]
    await run_burst(redis_url, make_family("t", number, max_jobs=2), max_burst_jobs=3)
    assert [await job.status() for job in jobs] == [JobState.COMPLETED] * 3 + [JobState.WAITING] * 2


async def test_a_burst_with_nothing_to_do_ends(redis_url: str) -> None:
    await run_burst(redis_url, make_family("t", number), make_family("u", number))


# ---------------------------------------------------------------- what is kept


@pytest.mark.parametrize(
    ("values", "seconds"), [({}, 3600), ({"keep_result": "2h"}, 7200), ({"keep_result_forever": True}, None)]
)
async def test_a_result_is_kept_as_long_as_the_family_says(
    redis_url: str, producer: Producer, values: Any, seconds: int | None
) -> None:
    job = await producer.enqueue("number", [1], family="t")
    await run_burst(redis_url, make_family("t", number, **values))
    left = await producer.redis.pttl("arq:result:" + job.job_id) / 1000
    assert left == -0.001 if seconds is None else seconds - 5 < left < seconds + 65


async def test_keeping_nothing_leaves_nothing(redis_url: str, producer: Producer) -> None:
    job = await producer.enqueue("number", [1], family="t")
    await run_burst(redis_url, make_family("t", number, keep_result=0))
    assert await job.status() is JobState.NOT_FOUND
    stats = await Inspector(producer.redis, ["t"]).queue("t")
    assert (stats.completed, stats.totals["completed"]) == (0, 1)
    assert [key async for key in producer.redis.scan_iter("arq:*:" + job.job_id)] == []


@pytest.mark.parametrize("keep", [{"keep_result": "3h"}, {"keep_result_forever": True}])
async def test_a_functions_own_time_outlasts_the_familys(redis_url: str, producer: Producer, keep: Any) -> None:
    family = make_family("t", func(number, name="number", **keep), keep_result=60)
    async with working(redis_url, family) as supervisor:
        job = await producer.enqueue("number", [1], family="t")
        await job.result(30)
        worker = supervisor.workers[0]
        later = Broker(producer.redis, FamilyKeys.of("t"), now=round(time.time() * 1000) + 3_600_000)
        ages = (worker.keep_ms, worker.keep_failed_ms)
        assert (await later.run("renew", supervisor.session, worker.lease_ms, worker.published, *ages))[0] == 1
        assert await job.result(30) == 1


async def test_the_oldest_go_when_more_than_so_many_are_there(redis_url: str, producer: Producer) -> None:
    jobs = [await producer.enqueue("number", [n], family="t") for n in range(5)]
    await run_burst(redis_url, make_family("t", number, keep_completed=2, max_jobs=1))
    await producer.enqueue("number", [6], family="t")
    await run_burst(redis_url, make_family("t", number, keep_completed=2, max_jobs=1))
    assert await jobs[0].status() is JobState.NOT_FOUND
    assert (await Inspector(producer.redis, ["t"]).queue("t")).completed == 2


# ---------------------------------------------------------------- health check, start and end


async def test_arqs_health_check_reads_it(redis_url: str, producer: Producer) -> None:
    family = make_family("t", number, health_check_key="mine:health", health_check_interval=30)
    async with working(redis_url, family) as supervisor:

        async def written() -> bytes | None:
            return await producer.redis.get("mine:health")

        text = await eventually(written)
        assert text is not None
        assert b"j_complete=0 j_failed=0 j_retried=0 j_ongoing=0 queued=0" in text
        assert 20_000 < await producer.redis.pttl("mine:health") <= 31_000
        assert isinstance(supervisor.workers[0], arq.worker.Worker)
    async with working(redis_url, make_family("u", number)):

        async def default_key() -> bytes | None:
            return await producer.redis.get("arq:{u}:health-check")

        await eventually(default_key)


async def test_an_error_in_on_startup_ends_the_start_with_that_error(redis_url: str, producer: Producer) -> None:
    ended: list[str] = []

    async def broken(ctx: dict[str, Any]) -> None:
        raise RuntimeError("no database at db.example")

    async def shutdown(ctx: dict[str, Any]) -> None:
        ended.append("shutdown")

    job = await producer.enqueue("number", [1], family="good")
    bad = make_family("bad", number, on_startup=broken, on_shutdown=shutdown)
    good = make_family("good", number, on_shutdown=shutdown)
    with pytest.raises(RuntimeError, match=r"no database at db\.example"):
        async with working(redis_url, bad, good):
            pass
    assert len(ended) <= 1
    assert await job.status() in (JobState.WAITING, JobState.COMPLETED)
    assert await Inspector(producer.redis, ["bad", "good"]).workers() == []


async def test_an_error_in_on_shutdown_is_told_and_the_others_run(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def broken(ctx: dict[str, Any]) -> None:
        raise RuntimeError("cannot close")

    async def shutdown(ctx: dict[str, Any]) -> None:
        ended.append("closed")

    async with working(
        redis_url, make_family("a", number, on_shutdown=broken), make_family("b", number, on_shutdown=shutdown)
    ):
        pass
    assert ended == ["closed"]
    assert "a: on_shutdown failed" in caplog.text


@one_server
async def test_a_refused_password_ends_the_start(redis_server: RedisServerFactory) -> None:
    server = redis_server(password="right")
    with pytest.raises(RedisRefused, match="check the user name, the password") as caught:
        async with working(f"redis://:wr0ng@127.0.0.1:{server.port}", make_family("t", number)):
            pass
    assert "wr0ng" not in str(caught.value)


async def test_a_family_runs_once_in_a_process() -> None:
    for families in ([], [make_family("t", number)] * 2):
        with pytest.raises(ConfigurationError, match="each family once"):
            Supervisor(families, "redis://127.0.0.1:1")


async def test_a_drain_lets_short_jobs_end_and_hands_long_ones_back_uncounted(
    redis_url: str, producer: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    go, begun = asyncio.Event(), Counter[str]()

    async def short(ctx: JobContext) -> str:
        begun["short"] += 1
        await go.wait()
        return "ended"

    async def long(ctx: JobContext) -> int:
        begun["long"] += 1
        if begun["long"] == 1:
            await asyncio.Event().wait()
        return ctx.job_try

    family = make_family("t", short, long, drain_timeout=1)
    ends, handed_back = [await producer.enqueue(name, [], family="t") for name in ("short", "long")]
    supervisor = Supervisor([family], redis_url, handle_signals=False)
    run = asyncio.create_task(supervisor.run())
    await until(lambda: begun == {"short": 1, "long": 1})
    supervisor.drain()
    late = await producer.enqueue("short", [], family="t")
    go.set()
    await asyncio.wait_for(run, 60)
    assert await ends.result(30) == "ended"
    info = await handed_back.info()
    assert (info.state, info.tries, info.crashes) == (JobState.WAITING, 0, 0)
    assert await late.status() is JobState.WAITING
    assert "handed back" in caplog.text
    await run_burst(redis_url, family)
    assert await handed_back.result(30) == 1


async def test_a_job_handed_back_keeps_its_place(redis_url: str, producer: Producer) -> None:
    meter = Meter()
    first = await producer.enqueue("stay", [], family="t")
    second = await producer.enqueue("stay", [], family="t")
    async with working(redis_url, make_family("t", meter.stay, max_jobs=1)):
        await until(lambda: meter.now["t"] == 1)
    waiting = await Inspector(producer.redis, ["t"]).jobs("t", "waiting")
    assert [info.id for info in waiting] == [first.id, second.id]


async def test_a_worker_tells_what_it_is(redis_url: str, producer: Producer) -> None:
    async with working(redis_url, make_family("t", number, max_jobs=7)) as supervisor:
        (info,) = await Inspector(producer.redis, ["t"]).workers("t")
        assert (info.session, info.family, info.slots, info.functions) == (supervisor.session, "t", 7, ["number"])
        assert 25 < info.lease_seconds <= 30
    assert await Inspector(producer.redis, ["t"]).workers("t") == []


async def test_a_handler_may_wait_for_another_job_of_its_own_worker(redis_url: str, producer: Producer) -> None:
    async def parent(ctx: JobContext) -> list[int]:
        children = [await ctx.producer.enqueue("number", [n], family="t") for n in range(3)]
        return [await child.result(30) for child in children]

    async with working(redis_url, make_family("t", parent, number)):
        assert await (await producer.enqueue("parent", [], family="t")).result(30) == [0, 1, 2]


async def test_a_stopped_worker_leaves_no_connection_and_no_task(redis_url: str) -> None:
    with_jobs = make_family("t", number)
    async with Producer.connect(redis_url) as looker:
        # Other tests of the session may have left connections of their own to this server.
        connected = {client["id"] for client in await looker.redis.client_list()}
        before = asyncio.all_tasks()
        async with Producer.connect(redis_url) as producer, working(redis_url, with_jobs):
            assert await (await producer.enqueue("number", [1], family="t")).result(30) == 1
            with pytest.raises(JobFailed):
                await (await producer.enqueue("number", ["x"], family="t")).result(30)

        async def alone() -> bool:
            return {client["id"] for client in await looker.redis.client_list()} <= connected

        await eventually(alone)
        assert asyncio.all_tasks() <= before
