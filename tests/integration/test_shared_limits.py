"""A limit that two families share, over three workers: what they start, what comes back, and what the command tells."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from daemon.cli.command import main
from daemon.context import JobContext
from daemon.errors import InvalidJob
from daemon.family import RateLimit, SharedLimit
from daemon.inspecting.job_info import HELD
from daemon.inspector import Inspector
from daemon.keys import FamilyKeys, LimitKeys
from daemon.limits.queue_limits import change_shared
from daemon.limits.shared import SharedLimitInfo, read_shared
from daemon.producer import Producer
from tests.engine import eventually, make_family, until, working

Arqd = Callable[..., tuple[int, str, str]]


@pytest.fixture
def arqd(redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Arqd:
    monkeypatch.setenv("ARQD_REDIS_URL", redis_url)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["limits", *arguments])
        return status, *capsys.readouterr()

    return run


async def state(producer: Producer) -> SharedLimitInfo:
    (found,) = await read_shared(producer.redis, ["api"])
    return found


async def test_a_rate_shared_by_two_families_over_three_workers(redis_url: str, producer: Producer) -> None:
    """Never more than 30 in any second by Redis's clock, and nearly 30 in each."""
    starts: list[float] = []

    async def start(ctx: JobContext) -> None:
        # An active job's score says when the script claimed it, in ms: the moment that counts for a rate.
        queue = FamilyKeys.of(ctx.job_id[1]).queue
        starts.append(await producer.redis.zscore(queue, ctx.job_id) - HELD)

    jobs = [await producer.enqueue("start", family=family) for family in "ab" for _ in range(60)]
    values: dict[str, Any] = {"shared_limits": [SharedLimit("api", rate=RateLimit(30))]}
    async with AsyncExitStack() as stack:
        for family in ("a", "a", "b"):
            await stack.enter_async_context(working(redis_url, make_family(family, start, **values)))
        await asyncio.gather(*(job.result(30) for job in jobs))
    starts.sort()
    assert len(starts) == 120
    # The script counts in microseconds.
    assert all(later - earlier >= 999 for earlier, later in zip(starts, starts[30:], strict=False))


async def test_jobs_at_the_same_time_take_turns(redis_url: str, producer: Producer) -> None:
    running: Counter[str] = Counter()
    most, order = 0, list[str]()

    async def stay(ctx: JobContext) -> None:
        nonlocal most
        family = ctx.job_id[1]
        running[family] += 1
        most = max(most, running.total())
        order.append(family)
        try:
            await asyncio.sleep(0.004)
        finally:
            running[family] -= 1

    jobs = [await producer.enqueue("stay", family=family) for family in "ab" for _ in range(30)]
    async with AsyncExitStack() as stack:
        for family in "ab":
            await stack.enter_async_context(working(redis_url, make_family(family, stay, shared_limits="api 2")))
        await asyncio.gather(*(job.result(30) for job in jobs))
    assert most <= 2
    assert "b" in order[:40], "b does not wait until all of a's have run"


async def test_who_has_nothing_to_do_gives_back(redis_url: str, producer: Producer) -> None:
    async def quick(ctx: JobContext) -> None: ...

    async with working(redis_url, make_family("a", quick, shared_limits="api 100/1m 50")):
        await (await producer.enqueue("quick", family="a")).result(30)

        async def back() -> bool:
            found = await state(producer)
            return (found.running, found.starts) == ({"a": 0}, 1)

        await eventually(back)
    assert (await state(producer)).running == {}


async def test_an_idle_worker_with_a_shared_limit_asks_nothing(redis_url: str, producer: Producer) -> None:
    async def quick(ctx: JobContext) -> None: ...

    async with working(redis_url, make_family("a", quick, shared_limits="api 5")) as supervisor:
        await (await producer.enqueue("quick", family="a")).result(30)
        permits = supervisor.workers[0].permits
        assert permits is not None
        # Nothing is under way and no timer runs: what it had is given back, and there is nothing it would ask for.
        await until(lambda: permits._timer is None and not (permits.due or permits.held_up))
        assert not any(lease.counted or lease.balance for lease in permits._leases)


async def test_a_family_without_one_has_no_permits(redis_url: str) -> None:
    async def quick(ctx: JobContext) -> None: ...

    async with working(redis_url, make_family("a", quick)) as supervisor:
        assert supervisor.workers[0].permits is None


async def test_two_limits_bind_together(redis_url: str, producer: Producer) -> None:
    now = most = 0

    async def stay(ctx: JobContext) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.002)
        now -= 1

    jobs = [await producer.enqueue("stay", family="a") for _ in range(20)]
    async with working(redis_url, make_family("a", stay, shared_limits="wide 1000/1s, narrow 3")):
        await asyncio.gather(*(job.result(60) for job in jobs))
    assert most <= 3


async def test_it_is_counted_again_after_redis_forgot(redis_url: str, producer: Producer) -> None:
    release = asyncio.Event()

    async def stay(ctx: JobContext) -> None:
        await release.wait()

    async with working(redis_url, make_family("a", stay, shared_limits="api 2", lease=1)) as supervisor:
        await producer.enqueue("stay", family="a")
        await until(lambda: supervisor.workers[0].running)
        await producer.redis.delete(LimitKeys("api").key("holders"))

        async def counted() -> bool:
            return (await state(producer)).running == {"a": 1}

        await eventually(counted)
        release.set()


async def test_permits_used_late_are_told_at_once(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is slow between permit and claim, and the job then keeps its slot: nothing else would be told."""
    release = asyncio.Event()

    async def stay(ctx: JobContext) -> None:
        await release.wait()

    async with working(redis_url, make_family("a", stay, shared_limits="api 1/60s", max_jobs=1)) as supervisor:
        (worker,) = supervisor.workers
        tick = worker.broker.tick

        async def slow(*args: Any) -> Any:
            if args[2]:
                await producer.redis.client_pause(200)
            return await tick(*args)

        monkeypatch.setattr(worker.broker, "tick", slow)
        await producer.enqueue("stay", family="a")
        await until(lambda: worker.running)
        (queued,) = await producer.redis.zrange(FamilyKeys.of("a").queue, 0, 0, withscores=True)

        async def told() -> bytes | None:
            return await producer.redis.hget(LimitKeys("api").key("conf"), "starts")  # type: ignore[no-any-return]

        at_us = int((await eventually(told)).partition(b":")[0])
        assert at_us / 1000 >= queued[1] - HELD
        release.set()


async def test_explain_names_the_limit_that_is_used_up(redis_url: str, producer: Producer) -> None:
    release = asyncio.Event()

    async def stay(ctx: JobContext) -> None:
        await release.wait()

    inspector = Inspector(producer.redis, ["a", "b"])
    async with AsyncExitStack() as stack:
        for family in "ab":
            await stack.enter_async_context(working(redis_url, make_family(family, stay, shared_limits="api 1/60s 2")))
        first = await producer.enqueue("stay", family="a")

        async def runs() -> bool:
            return await first.status() == "active"

        await eventually(runs)
        second = await producer.enqueue("stay", family="b")

        async def reason(wanted: str) -> Any:
            why = await inspector.explain(second.id)
            return why if why.reason == wanted else None

        why = await eventually(lambda: reason("shared_rate"))
        assert why.message.startswith("The shared limit 'api' is used up until ")
        assert why.until is not None
        assert why.details["shared_limit"] == "api"
        assert why.details["running"] == {"a": 1, "b": 0}
        await change_shared(producer.redis, "api", rate="none", concurrency="1")
        why = await eventually(lambda: reason("shared_limit"))
        assert why.message == "The shared limit 'api' is used up: 1 jobs run and 1 may."
        release.set()
        await second.result(30)


async def test_the_command_shows_and_changes(redis_url: str, producer: Producer, arqd: Arqd) -> None:
    async def quick(ctx: JobContext) -> None: ...

    family = make_family("a", quick, shared_limits=[SharedLimit("api", RateLimit(50), 20)])
    async with working(redis_url, family):

        async def idle() -> bool:
            found = await state(producer)
            return (found.running, found.starts) == ({"a": 0}, 0)

        # It began by looking for work, and took permits for that.
        await eventually(idle)
        _, out, _ = await asyncio.to_thread(arqd, "a")
        assert out.splitlines()[-1].split() == ["api", "20", "50/1s", "settings", "0", "0", "-"]
        status, out, err = await asyncio.to_thread(arqd, "--shared", "api", "--rate", "1/m")
        assert (status, err) == (0, "")
        assert out.splitlines()[1].split() == ["api", "20", "1/60s", "operator", "0", "0", "-"]
        assert out.splitlines()[-1].split() == ["a", "0", "no"]
        await (await producer.enqueue("quick", family="a")).result(30)
        second = await producer.enqueue("quick", family="a")

        async def waits() -> bool:
            return (await state(producer)).waiting == ["a"]

        await eventually(waits)
        _, out, _ = await asyncio.to_thread(arqd, "--shared", "api", "--json")
        found = json.loads(out)
        assert (found["starts"], found["waiting"]) == (1, ["a"])
        assert found["full_until"] is not None
        _, out, _ = await asyncio.to_thread(arqd, "a", "--json")
        assert [limit["name"] for limit in json.loads(out)["shared"]] == ["api"]
        await asyncio.to_thread(arqd, "--shared", "api", "--reset")
        await second.result(30)
        assert (await state(producer)).source == "settings"


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ([], 2, "give a family, or --shared"),
        (["a", "--shared", "api"], 2, "give a family, or --shared"),
        (["--shared", "api", "--global", "3"], 2, "it takes --rate, --concurrency and --reset"),
        (["--shared", "api", "--reset", "--rate", "1/s"], 2, "give it alone"),
        (["--shared", "apy", "--rate", "1/s"], 1, "there is no shared limit 'apy'"),
    ],
)
def test_what_is_no_shared_limit_is_refused(arqd: Arqd, words: list[str], status: int, told: str) -> None:
    found, out, err = arqd(*words)
    assert (found, out) == (status, "")
    assert told in err
    assert len(err.splitlines()) == 1


async def test_a_change_that_is_no_limit_changes_nothing(producer: Producer) -> None:
    await producer.redis.hset(LimitKeys("api").key("conf"), "seen", 1)
    with pytest.raises(InvalidJob, match="write starts per period"):
        await change_shared(producer.redis, "api", rate="often", concurrency="3")
    assert (await state(producer)).source == "settings"
