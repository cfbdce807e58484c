"""A plain arq settings class runs on this engine as it is: its queue, serialisers, retry rule, hooks and cron jobs."""

from __future__ import annotations

import asyncio
import json
import sys
import types
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from arq import Retry, create_pool, cron
from arq.connections import ArqRedis, RedisSettings
from arq.jobs import Job, JobStatus
from arq.worker import JobExecutionFailed
from arq.worker import func as arq_func

from daemon.control import Control
from daemon.errors import ConfigurationError, InvalidJob, PermanentError
from daemon.family import Family
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.registry import load_families
from tests.engine import eventually, make_family, run_burst, working
from tests.marks import one_url

pytestmark = one_url


def dumps(data: dict[str, Any]) -> bytes:
    """A deployment's own serialiser, with a mark of its own."""
    return b"mine:" + json.dumps(data, default=repr).encode()


def loads(raw: bytes) -> dict[str, Any]:
    assert raw.startswith(b"mine:")
    found: dict[str, Any] = json.loads(raw[5:])
    return found


seen: list[Any] = []


async def add(ctx: dict[str, Any], a: int, b: int = 0) -> int:
    seen.append(("add", ctx["job_try"], ctx.get("opened")))
    return a + b


async def fail(ctx: dict[str, Any]) -> None:
    seen.append(("fail", ctx["job_try"]))
    raise ValueError("no")


async def second_time(ctx: dict[str, Any]) -> int:
    if ctx["job_try"] < 2:
        raise Retry(defer=0.05)
    return int(ctx["job_try"])


async def tick(ctx: dict[str, Any]) -> str:
    seen.append("tick")
    return "ticked"


async def opaque(ctx: dict[str, Any]) -> Any:
    return asyncio


async def startup(ctx: dict[str, Any]) -> None:
    ctx["opened"] = ctx["given"]


async def shutdown(ctx: dict[str, Any]) -> None:
    seen.append(("shutdown", ctx["opened"]))


async def job_start(ctx: dict[str, Any]) -> None:
    seen.append(("start", ctx["job_id"]))


class Base:
    functions = (add, fail, second_time, opaque, arq_func(add, name="own", timeout=5, keep_result=60))
    job_serializer = dumps
    job_deserializer = loads
    max_tries = 3
    poll_delay = 0.05


Load = Callable[..., Family]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a settings class the way ``arqd run module:Class`` does."""
    seen.clear()

    def adopt(accept_pickle: bool = False, **attributes: Any) -> Family:
        module = types.ModuleType("adopted_settings")
        found = {name: value for name, value in vars(Base).items() if not name.startswith("_")}
        module.Adopted = type("Adopted", (), found | attributes)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "adopted_settings", module)
        (family,) = load_families({}, ["adopted_settings:Adopted"], accept_pickle=accept_pickle)
        return family

    return adopt


@pytest.fixture
async def stock(redis_url: str) -> AsyncIterator[ArqRedis]:
    pool = await create_pool(RedisSettings.from_dsn(redis_url), job_serializer=dumps, job_deserializer=loads)
    yield pool
    await pool.aclose()


async def enqueued(pool: ArqRedis, *args: Any, **kwargs: Any) -> Job:
    job = await pool.enqueue_job(*args, **kwargs)
    assert job is not None
    return job


async def test_its_serialisers_and_its_queue_are_kept(redis_url: str, stock: ArqRedis, load: Load) -> None:
    family = load()
    assert (family.keys.queue, family.values.max_tries) == ("arq:queue", 3)
    job = await enqueued(stock, "add", 1, b=2)
    own = await enqueued(stock, "own", 5)
    async with working(redis_url, family):
        assert await job.result(60, poll_delay=0.02) == 3
        assert await own.result(60, poll_delay=0.02) == 5
        assert (await stock.get("arq:result:" + job.job_id)).startswith(b"mine:")
        assert 50_000 < await stock.pttl("arq:result:" + own.job_id) <= 60_000
        info = await job.result_info()
        assert info is not None
        assert (info.function, list(info.args), info.kwargs, info.job_try, info.queue_name) == (
            "add", [1], {"b": 2}, 1, "arq:queue",
        )  # fmt: skip
        another = await enqueued(stock, "add", 2, b=2)
        assert await another.result(60, poll_delay=0.02) == 4
        assert await another.status() is JobStatus.complete


async def test_a_queue_name_of_its_own_is_kept(redis_url: str, stock: ArqRedis, load: Load) -> None:
    job = await enqueued(stock, "add", 1, b=2, _queue_name="my-queue")
    other = await enqueued(stock, "add", 1, b=2)
    await run_burst(redis_url, load(queue_name="my-queue"))
    assert await job.status() is JobStatus.complete
    assert await other.status() is JobStatus.queued
    stats = await Inspector(stock, ["my-queue"]).queue("my-queue")
    assert (stats.completed, stats.totals) == (1, {"completed": 1})


async def test_its_retry_rule_is_kept(redis_url: str, stock: ArqRedis, load: Load) -> None:
    failing, retried = await enqueued(stock, "fail"), await enqueued(stock, "second_time")
    await run_burst(redis_url, load())
    assert [entry for entry in seen if entry[0] == "fail"] == [("fail", 1)]
    info = await failing.result_info()
    assert info is not None
    assert (info.success, info.job_try) == (False, 1)
    assert "no" in str(info.result)
    assert await retried.result(30) == 2


async def test_a_try_given_at_enqueue_counts(redis_url: str, stock: ArqRedis, load: Load) -> None:
    job = await enqueued(stock, "second_time", _job_try=2)
    await run_burst(redis_url, load())
    assert await job.result(30) == 2


async def test_hooks_and_context_are_kept(redis_url: str, stock: ArqRedis, load: Load) -> None:
    job = await enqueued(stock, "add", 1)
    hooks = {"on_startup": startup, "on_shutdown": shutdown, "on_job_start": job_start, "ctx": {"given": "db"}}
    await run_burst(redis_url, load(**hooks))
    assert seen == [("start", job.job_id), ("add", 1, "db"), ("shutdown", "db")]


async def test_a_hook_may_be_a_static_method_as_in_arq(redis_url: str, stock: ArqRedis, load: Load) -> None:
    await enqueued(stock, "add", 1)
    await run_burst(redis_url, load(on_startup=staticmethod(startup), ctx={"given": "db"}))
    assert seen == [("add", 1, "db")]


async def test_cron_jobs_run(redis_url: str, stock: ArqRedis, load: Load) -> None:
    family = load(cron_jobs=[cron(tick, run_at_startup=True, minute=59, hour=3)])
    async with working(redis_url, family):

        async def ticked() -> bool:
            return "tick" in seen

        await eventually(ticked)
    assert seen.count("tick") == 1


async def test_cron_jobs_alone_are_enough(load: Load) -> None:
    family = load(functions=[], cron_jobs=[cron(tick, minute=59)])
    assert set(family.functions) == {"cron:tick"}


async def test_pickle_needs_to_be_accepted(redis_url: str, load: Load) -> None:
    without = {"job_serializer": None, "job_deserializer": None}
    with pytest.raises(ConfigurationError, match=r"Adopted reads its queue with pickle.*--accept-pickle"):
        load(**without)
    family = load(accept_pickle=True, **without)
    pool = await create_pool(RedisSettings.from_dsn(redis_url))
    job, failing, strange = [await enqueued(pool, *call) for call in (("add", 1, 2), ("fail",), ("opaque",))]
    await run_burst(redis_url, family)
    assert await job.result(30) == 3
    with pytest.raises(ValueError, match="no"):
        await failing.result(30)
    info = await strange.result_info()
    assert info is not None
    assert not info.success
    await pool.aclose()


@pytest.mark.parametrize(
    "raw",
    [
        b"garbage",
        b"mine:{",
        b"mine:[]",
        dumps({"f": "add", "a": [1], "k": {}, "t": None, "et": 10**25}),
        dumps({"f": "add", "a": [1], "k": {}, "t": "many", "et": 1}),
        dumps({"f": "add", "a": 1, "k": {}, "t": None, "et": 1}),
        dumps({"f": ["add"], "a": [1], "k": {}, "t": None, "et": 1}),
        dumps({"f": "add", "a": [1], "k": {}, "t": None, "et": "soon"}),
    ],
    ids=["garbage", "half", "no mapping", "time", "try", "arguments", "function", "no time"],
)
async def test_an_entry_of_wrong_types_stops_nobody(redis_url: str, stock: ArqRedis, load: Load, raw: bytes) -> None:
    async with working(redis_url, load()):
        await stock.set("arq:job:odd", raw)
        await stock.zadd("arq:queue", {"odd": 1000})
        good = await enqueued(stock, "add", 1)
        assert await good.result(60, poll_delay=0.02) == 1
        inspector = Inspector(stock, ["arq:queue"])

        async def settled() -> bool:
            stats = await inspector.queue("arq:queue")
            return stats.waiting + stats.active + stats.delayed == 0

        await eventually(settled)
        for state in (JobState.COMPLETED, JobState.FAILED):
            await inspector.jobs("arq:queue", state)
        again = await enqueued(stock, "add", 2)
        assert await again.result(60, poll_delay=0.02) == 2


async def test_an_unknown_function_is_kept(redis_url: str, stock: ArqRedis, load: Load) -> None:
    job = await enqueued(stock, "unknown")
    async with working(redis_url, load()):

        async def put_off() -> bool:
            return await job.status() is JobStatus.deferred

        await eventually(put_off)


async def test_an_aborted_job_tells_a_stock_client(redis_url: str, stock: ArqRedis, load: Load) -> None:
    started = asyncio.Event()

    async def endless(ctx: dict[str, Any]) -> None:
        started.set()
        await asyncio.Event().wait()

    # With codecs that carry exceptions, as pickle does.
    without = {"job_serializer": None, "job_deserializer": None}
    pool = await create_pool(RedisSettings.from_dsn(redis_url))
    async with working(redis_url, load(accept_pickle=True, functions=[arq_func(endless, name="endless")], **without)):
        job = await enqueued(pool, "endless")
        await asyncio.wait_for(started.wait(), 60)
        assert await job.abort(timeout=60, poll_delay=0.02) is True
    await pool.aclose()


async def test_an_id_can_be_used_again_when_arq_would_let_it(redis_url: str, stock: ArqRedis, load: Load) -> None:
    """After a failure too: a dead letter is kept as long as a result, or as long as the class says."""
    await enqueued(stock, "fail", _job_id="nightly")
    await run_burst(redis_url, load(keep_result=1))
    family = load(keep_result=1, functions=[add])
    # What is over is forgotten with a renewal of the lease: here three times a second.
    family = replace(family, values=family.values.model_copy(update={"lease": 1}))
    async with working(redis_url, family):

        async def free_again() -> Job | None:
            return await stock.enqueue_job("add", 1, _job_id="nightly")

        job = await eventually(free_again)
        assert job is not None
        assert await job.result(60, poll_delay=0.02) == 1


def test_how_long_what_failed_is_kept(load: Load) -> None:
    assert load().values.keep_failed == 3600
    assert load(keep_result=timedelta(minutes=5)).values.keep_failed == 300
    assert load(keep_failed="7d").values.keep_failed == 7 * 86400
    assert load(keep_result_forever=True).values.keep_failed == 30 * 86400


def test_durations_may_be_timedeltas_as_in_arq(load: Load) -> None:
    second = timedelta(seconds=1)
    family = load(job_timeout=second, keep_result=second, poll_delay=second, health_check_interval=second)
    assert (family.values.job_timeout, family.values.keep_result, family.health_check_interval) == (1, 1, 1)
    assert family.stock is not None
    assert family.stock["poll_delay"] == 1


async def test_a_try_too_many_is_not_run(redis_url: str, stock: ArqRedis, load: Load) -> None:
    """A stock worker puts a job that raised Retry back after its last try."""
    job = await enqueued(stock, "add", 1)
    await stock.set("arq:retry:" + job.job_id, "3")
    await run_burst(redis_url, load())
    assert seen == []
    info = await job.result_info()
    assert info is not None
    assert (info.success, "max 3 retries exceeded" in str(info.result)) == (False, True)


async def test_errors_of_arqd_reach_a_client_that_has_only_arq(redis_url: str, load: Load) -> None:
    async def refuse(ctx: dict[str, Any]) -> None:
        raise PermanentError("no such account")

    without = {"job_serializer": None, "job_deserializer": None}
    pool = await create_pool(RedisSettings.from_dsn(redis_url))
    job = await enqueued(pool, "refuse")
    await run_burst(redis_url, load(accept_pickle=True, functions=[arq_func(refuse, name="refuse")], **without))
    with pytest.raises(JobExecutionFailed, match="no such account"):
        await job.result(30)
    raw = await pool.get("arq:result:" + job.job_id)
    assert raw is not None
    assert b"daemon" not in raw
    await pool.aclose()


async def test_a_full_worker_hears_a_stock_abort(redis_url: str, load: Load) -> None:
    started = asyncio.Event()

    async def endless(ctx: dict[str, Any]) -> None:
        started.set()
        await asyncio.Event().wait()

    without = {"job_serializer": None, "job_deserializer": None}
    pool = await create_pool(RedisSettings.from_dsn(redis_url))
    functions = [arq_func(endless, name="endless")]
    async with working(redis_url, load(accept_pickle=True, functions=functions, max_jobs=1, **without)):
        job = await enqueued(pool, "endless")
        await asyncio.wait_for(started.wait(), 60)
        assert await job.abort(timeout=60, poll_delay=0.02) is True
    await pool.aclose()


@pytest.mark.parametrize("delay", [0, 600])
async def test_an_operators_abort_is_read_by_a_stock_client(redis_url: str, load: Load, delay: int) -> None:
    """It leaves the result to a worker, which knows the queue's serializer."""
    pool = await create_pool(RedisSettings.from_dsn(redis_url))
    job = await enqueued(pool, "add", 1, _defer_by=delay)
    control = Control(pool, ["arq:queue", "t"])
    assert await control.abort([job.job_id]) == {job.job_id: "asked"}
    family = load(accept_pickle=True, job_serializer=None, job_deserializer=None)
    async with working(redis_url, family):
        with pytest.raises(asyncio.CancelledError):
            await job.result(60, poll_delay=0.02)
    assert seen == []
    await pool.aclose()


async def test_operators_find_jobs_by_their_bare_ids(redis_url: str, load: Load) -> None:
    pool = await create_pool(RedisSettings.from_dsn(redis_url))
    job, failing = await enqueued(pool, "add", 1), await enqueued(pool, "fail")
    inspector = Inspector(pool, ["arq:queue", "t"])
    for written in (job.job_id, f"arq:queue:{job.job_id}"):
        info = await inspector.job(written)
        assert (info.id, info.family, info.state) == (job.job_id, "arq:queue", JobState.WAITING)
    await pool.set("arq:in-progress:" + job.job_id, b"1")
    info = await inspector.job(job.job_id)
    assert (info.state, info.worker) == (JobState.ACTIVE, "stock arq")
    await pool.delete("arq:in-progress:" + job.job_id)
    await run_burst(redis_url, load(accept_pickle=True, job_serializer=None, job_deserializer=None))
    assert (await inspector.job(job.job_id)).state is JobState.COMPLETED
    assert (await inspector.job(failing.job_id)).state is JobState.FAILED
    with pytest.raises(InvalidJob, match="names no known family"):
        await Inspector(pool, ["t", "u"]).job(job.job_id)
    await pool.aclose()


def test_a_registered_queue_of_stock_arq_is_a_family_like_others(load: Load) -> None:
    load()
    (family,) = load_families({"arq:queue": "adopted_settings:Adopted"}, ["arq:queue"])
    assert family.name == "arq:queue"


def test_what_has_no_effect_here_is_told(load: Load) -> None:
    assert load().warnings == ()
    (line,) = load(retry_jobs=False).warnings
    assert line.startswith("retry_jobs is not used")
    family = load(accept_pickle=True, job_serializer=None, redis_settings=RedisSettings())
    assert [line.split()[0] for line in family.warnings] == ["PICKLE", "redis_settings"]


async def test_an_adopted_class_beside_a_family(redis_url: str, stock: ArqRedis, load: Load) -> None:
    async def ours(ctx: Any) -> str:
        return "ours"

    job = await enqueued(stock, "add", 1)
    await run_burst(redis_url, load(), make_family("t", ours))
    assert await job.result(30) == 1


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"functions": []}, "registers no function"),
        ({"max_jobs": 0}, "max_jobs"),
        ({"job_timeout": "soon"}, "job_timeout"),
    ],
)
def test_a_mistake_is_told(load: Load, attributes: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load(**attributes)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "no family 'nothing'"),
        ("no_such_module_here:X", "cannot be imported"),
        ("json:Nothing", "has no 'Nothing'"),
        ("json:dumps", "is not a class"),
        ("json:", "is not module:name"),
    ],
)
def test_a_name_that_leads_nowhere_is_told(name: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load_families({"email": "x:Y"}, [name])
