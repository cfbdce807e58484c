"""Families in virtual time on a real Valkey."""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daemon.context import JobContext
from daemon.errors import ConfigurationError, JobFailed, JobNotFound, ResultTimeout
from daemon.family import Exponential, Family, Fixed, RateLimit, crontab
from daemon.flows import node
from daemon.job import JobState
from daemon.schedules import Schedules
from daemon.testing.simulation import START, Event, Faults, Simulation
from tests.engine import make_family

HOUR = 3600.0


def family(*functions: Callable[..., Any], **values: Any) -> Family:
    return make_family("billing", *functions, **values)


def times(simulation: Simulation, *kinds: str) -> list[tuple[float, str]]:
    """When these happened, seconds since the start."""
    return [((event.at - START).total_seconds(), event.kind) for event in simulation.trace if event.kind in kinds]


async def work(ctx: JobContext, *_: Any) -> str:
    return "done"


# ------------------------------------------------------------------ time


def test_delays_and_retries_take_virtual_time(redis_url: str) -> None:
    async def third_time(ctx: JobContext) -> int:
        if ctx.job_try < 3:
            raise ValueError
        return ctx.job_try

    retrying = family(third_time, backoff=Exponential(base=60, maximum=None))
    with Simulation(retrying, url=redis_url) as simulation:
        job = simulation.producer.enqueue("third_time", family="billing", delay="1d")
        simulation.run("23h")
        assert job.status() == JobState.DELAYED
        simulation.run_until_idle()
        assert job.result() == 3
        day = 24 * HOUR
        assert times(simulation, "retried", "completed") == [
            (day, "retried"),
            (day + 60, "retried"),
            (day + 180, "completed"),
        ]
        assert simulation.now == START + timedelta(days=1, seconds=180)
        assert simulation.job(job.id).finished_at == simulation.now


def test_a_handler_sleeps_in_virtual_time(redis_url: str) -> None:
    async def sleep(ctx: JobContext, seconds: float) -> float:
        begun, ticks = ctx.deadline, time.monotonic()
        await asyncio.sleep(seconds)
        assert ctx.deadline == begun
        return time.monotonic() - ticks

    with Simulation(family(sleep, job_timeout="1h", max_tries=1), url=redis_url) as simulation:
        short, long = (simulation.producer.enqueue("sleep", [s], family="billing") for s in (3000, 4000))
        assert short.result(timeout=3600) == 3000
        with pytest.raises(JobFailed, match="timed out after 3600 s"):
            long.result()
        assert simulation.now == START + timedelta(hours=1)


def test_what_a_program_can_ask_is_virtual_and_comes_back(redis_url: str) -> None:
    seen: list[Any] = []

    async def ask(ctx: JobContext) -> None:
        seen.append((time.time(), time.time_ns(), random.random(), uuid.uuid4(), os.urandom(4)))

    def asked() -> Any:
        seen.clear()
        with Simulation(family(ask), url=redis_url, seed=3) as simulation:
            simulation.producer.enqueue("ask", family="billing", delay=10)
            simulation.run_until_idle()
        return seen[0]

    random.seed(1)
    expected = random.random()
    random.seed(1)
    real = time.time(), time.time, os.urandom
    first = asked()
    assert first == asked()
    assert first[0] == START.timestamp() + 10 == first[1] / 1e9
    assert (time.time, os.urandom) == real[1:]
    assert time.time() >= real[0]
    assert random.random() == expected


def test_results_are_kept_for_virtual_time(redis_url: str) -> None:
    with Simulation(family(work, keep_result="1h"), url=redis_url) as simulation:
        job = simulation.producer.enqueue("work", family="billing")
        simulation.run("59m")
        assert job.status() == JobState.COMPLETED
        simulation.run("3m")
        assert job.status() == JobState.NOT_FOUND


def test_dedup_windows_and_limits(redis_url: str) -> None:
    limited = family(work, rate_limit=RateLimit(2, per=60))
    with Simulation(limited, url=redis_url, processes=2) as simulation:
        window: dict[str, Any] = {"dedup_key": "k", "dedup_window": "1h"}
        enqueue = simulation.producer.enqueue
        assert enqueue("work", family="billing", **window).created
        simulation.run("59m")
        assert not enqueue("work", family="billing", **window).created
        simulation.run("61s")
        assert enqueue("work", family="billing", **window).created
        simulation.run("1h")
        simulation.trace.clear()
        begun = simulation.seconds
        simulation.producer.enqueue_many("work", [{}] * 5, family="billing")
        simulation.run_until_idle()
        assert [round(event.at.timestamp() - begun) for event in simulation.trace if event.kind == "completed"] == [
            0, 0, 60, 60, 120,
        ]  # fmt: skip


def test_waiting_for_results(redis_url: str) -> None:
    async def ask(ctx: JobContext) -> Any:
        job = await ctx.producer.enqueue("work", family="billing", delay="2h")
        return await job.result(timeout=8000)

    with Simulation(family(ask, work, job_timeout="1d"), url=redis_url) as simulation:
        job = simulation.producer.enqueue("ask", family="billing")
        with pytest.raises(ResultTimeout):
            job.result(timeout=HOUR)
        assert simulation.now == START + timedelta(hours=1)
        assert job.result(timeout=2 * HOUR) == "done"
        with pytest.raises(JobNotFound):
            simulation.producer.job("billing:none").result(timeout=1)


def test_an_abort_reaches_a_running_handler(redis_url: str) -> None:
    async def hang(ctx: JobContext) -> None:
        await asyncio.sleep(1e6)

    with Simulation(family(hang, job_timeout="30d"), url=redis_url) as simulation:
        job = simulation.producer.enqueue("hang", family="billing")
        simulation.run("1h")
        assert job.abort()
        assert job.status() == JobState.ABORTED


def test_plain_functions(redis_url: str) -> None:
    def plain(ctx: JobContext, n: int) -> int:
        return n + 1

    async def in_process(ctx: JobContext, n: int) -> int:
        return await ctx.run_in_process(abs, n)

    with Simulation(family(plain, in_process), url=redis_url) as simulation:
        assert simulation.producer.enqueue("plain", [1], family="billing").result(1) == 2
        assert simulation.producer.enqueue("in_process", [-1], family="billing").result(1) == 1


# ------------------------------------------------------------------ schedules


def test_cron(redis_url: str) -> None:
    nightly = family(work, cron_jobs=[crontab("30 2 * * *", work, timezone="Europe/Berlin")])
    start = datetime(2026, 3, 28, tzinfo=UTC)
    with Simulation(nightly, url=redis_url, processes=3, start=start) as simulation:
        simulation.run("2d")
        done = [event for event in simulation.trace if event.kind == "completed"]
        # On the 29th half past two does not exist in Berlin: the clock goes from two to three.
        assert [f"{event.at:%d %H:%M}" for event in done] == ["28 01:30", "29 01:00"]


def test_ticks_missed_while_no_process_lived(redis_url: str) -> None:
    hourly = family(work, cron_jobs=[crontab("0 * * * *", work)])
    with Simulation(hourly, url=redis_url) as simulation:
        simulation.run("2h")
        simulation.crash(simulation.processes[0])
        simulation.run("5h")
        simulation.start()
        simulation.run("1h")
        assert [at for at, _ in times(simulation, "completed")] == [HOUR, 2 * HOUR, 7 * HOUR, 8 * HOUR]


def test_schedules_at_run_time(redis_url: str) -> None:
    with Simulation(family(work), url=redis_url) as simulation:
        simulation.run("1d")
        schedules = Schedules(simulation.redis)
        simulation.call(schedules.add("often", "work", family="billing", every="10m"))
        simulation.run("1h")
        assert len(times(simulation, "completed")) == 6
        simulation.call(schedules.pause("billing:often"))
        simulation.run("1h")
        assert len(times(simulation, "completed")) == 6


# ------------------------------------------------------------------ crashes and partitions


def test_the_job_of_a_dead_process_runs_again_after_its_lease(redis_url: str) -> None:
    ended: list[str] = []

    async def slow(ctx: JobContext) -> int:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append("after the crash" if ctx.crashes == 0 else "well")
        return ctx.crashes

    with Simulation(family(slow, lease=30), url=redis_url, processes=2) as simulation:
        job = simulation.producer.enqueue("slow", family="billing")
        simulation.run(15)
        (first,) = [event.process for event in simulation.trace if event.kind == "claimed"]
        simulation.crash(next(process for process in simulation.processes if process.name == first))
        assert job.result() == 1
        assert ended == ["well"], "no code of a dead process runs"
        (_, _), (again, _) = times(simulation, "claimed")
        # The last renewal was 10 s after the start.
        assert 40 <= again <= 40.1
        assert times(simulation, "completed") == [(pytest.approx(again + 100), "completed")]


def test_steps_are_not_repeated(redis_url: str) -> None:
    effects: Counter[str] = Counter()

    async def pay(ctx: JobContext) -> None:
        for step in ("charge", "book", "mail"):
            await ctx.once(step, lambda step=step: effects.update([step]))

    settings = family(pay, max_jobs=1, max_crashes=100)
    with Simulation(settings, url=redis_url, seed=5, faults=Faults(crash=0.05)) as simulation:
        jobs = [simulation.producer.enqueue("pay", family="billing") for _ in range(50)]
        simulation.run_until_idle()
        assert len({event.job for event in simulation.trace if event.kind == "completed"}) == len(jobs)
        crashes = len(times(simulation, "crashed"))
        assert crashes > 3
        # Only what a crash hit between effect and receipt is repeated.
        assert all(effects[step] >= len(jobs) for step in effects)
        assert 0 < sum(effects.values()) - 3 * len(jobs) <= crashes


def test_claims_that_come_with_the_word_to_drain_for_a_suspect_are_started(redis_url: str) -> None:
    async def sleep(ctx: JobContext, seconds: int) -> int:
        await asyncio.sleep(seconds)
        return ctx.crashes

    with Simulation(family(sleep, lease=30), url=redis_url) as simulation:
        suspect = simulation.producer.enqueue("sleep", [50], family="billing")
        for _ in range(2):
            simulation.run(40)
            simulation.crash(simulation.processes[0])
            simulation.start()
        other = simulation.producer.enqueue("sleep", [200], family="billing")
        simulation.run(40)
        assert simulation.job(suspect.id).crashes == 2
        simulation.crash(simulation.processes[0])
        simulation.run(100)
        # Its first call takes the jobs of the dead, and is told that a job waits for a process that runs nothing.
        simulation.start()
        assert (other.result(600), suspect.result(60)) == (1, 2)


def test_a_process_cut_off_loses_its_job(redis_url: str) -> None:
    async def slow(ctx: JobContext) -> str:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            stopped.append(ctx.worker.supervisor.name)  # type: ignore[attr-defined]
            raise
        return "done"

    stopped: list[str] = []
    with Simulation(family(slow, lease=30), url=redis_url, processes=2) as simulation:
        job = simulation.producer.enqueue("slow", family="billing")
        simulation.run(15)
        (first,) = [event.process for event in simulation.trace if event.kind == "claimed"]
        cut = next(process for process in simulation.processes if process.name == first)
        simulation.partition(cut, 60)
        assert job.result() == "done"
        assert stopped == [first], "it is told when it comes back"
        claims = [(event.process, event.kind) for event in simulation.trace if event.kind in ("claimed", "completed")]
        other = "p2" if first == "p1" else "p1"
        assert claims == [(first, "claimed"), (other, "claimed"), (other, "completed")]


def test_a_short_partition_costs_nothing(redis_url: str) -> None:
    async def slow(ctx: JobContext) -> str:
        await asyncio.sleep(20)
        return "done"

    with Simulation(family(slow, lease=30), url=redis_url, processes=1) as simulation:
        job = simulation.producer.enqueue("slow", family="billing")
        simulation.run(15)
        simulation.partition(simulation.processes[0], 8)
        assert job.result() == "done"
        assert len(times(simulation, "claimed")) == 1
        assert simulation.job(job.id).crashes == 0


def test_a_process_is_stopped_in_good_order(redis_url: str) -> None:
    async def slow(ctx: JobContext) -> str:
        await asyncio.sleep(10)
        return "done"

    with Simulation(family(slow), url=redis_url) as simulation:
        job = simulation.producer.enqueue("slow", family="billing")
        simulation.run(1)
        (first,) = simulation.processes
        simulation.stop(first)
        simulation.run(20)
        assert job.status() == JobState.COMPLETED
        assert simulation.processes == []
        assert [event.kind for event in simulation.trace][-1] == "stopped"


def test_flows(redis_url: str) -> None:
    async def part(ctx: JobContext, n: int) -> int:
        await asyncio.sleep(n)
        return n

    async def total(ctx: JobContext) -> int:
        return sum(child.result for child in (await ctx.children()).values())

    first, second = make_family("parts", part, max_crashes=100), family(total, max_crashes=100)
    with Simulation(first, second, url=redis_url, seed=1, processes=2, faults=Faults(crash=0.02)) as simulation:
        flows = [
            simulation.producer.enqueue_flow(
                node("total", family="billing", children=[node("part", [n], family="parts") for n in (1, 2, 3)])
            )
            for _ in range(20)
        ]
        simulation.run_until_idle("1d")
        assert [flow.result(1) for flow in flows] == [6] * 20
        assert len(times(simulation, "crashed")) > 0


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_whatever_goes_wrong(redis_url: str, seed: int) -> None:
    async def work(ctx: JobContext, n: int) -> int:
        ran[n] += 1
        await ctx.progress(50)
        await asyncio.sleep(random.uniform(0, 5))
        if random.random() < 0.1:
            raise ValueError
        return n

    ran: Counter[int] = Counter()
    faults = Faults(crash=0.02, partition=0.05, restart=(1, 60), outage=(1, 60))
    settings = family(work, max_jobs=3, max_tries=100, backoff=Fixed(30), max_crashes=100)
    with Simulation(settings, url=redis_url, seed=seed, processes=3, faults=faults) as simulation:
        jobs = [simulation.producer.enqueue("work", [n], family="billing", delay=n) for n in range(100)]
        simulation.run_until_idle("1d")
        assert [job.result(1) for job in jobs] == list(range(100)), seed
        assert min(ran.values()) == 1
        assert {"crashed", "cut off", "back", "retried"} <= {event.kind for event in simulation.trace}, seed


# ------------------------------------------------------------------ the same seed gives the same trace


async def flaky(ctx: JobContext, *_: Any) -> None:
    await ctx.progress(10)
    if random.random() < 0.2:
        raise ValueError


def a_month(url: str, seed: int) -> tuple[list[Event], float]:
    """30 days of cron, retries, crashes and lost connections; gives the trace and how long it took."""
    crons = [
        crontab("0 */3 * * *", flaky, name="often"),
        crontab("0 2 * * *", flaky, name="nightly"),
        crontab("0 8 * * 1", flaky, name="weekly"),
    ]
    settings = family(flaky, cron_jobs=crons, backoff=Exponential(base=60, jitter=0.2))
    begun = time.perf_counter()
    faults = Faults(crash=0.01, partition=0.01)
    with Simulation(settings, url=url, seed=seed, processes=2, faults=faults) as simulation:
        simulation.run("30d")
    return simulation.trace, time.perf_counter() - begun


def test_the_same_seed_gives_the_same_trace(redis_url: str, record_property: Callable[[str, object], None]) -> None:
    first, seconds = a_month(redis_url, 1)
    again, _ = a_month(redis_url, 1)
    other, _ = a_month(redis_url, 2)
    assert first == again
    assert first != other
    kinds = Counter(event.kind for event in first)
    assert kinds["completed"] >= 30 * 8 + 30 + 4
    assert min(kinds[kind] for kind in ("retried", "crashed", "cut off", "started")) > 0
    record_property("seconds", seconds)
    print(f"30 days in {seconds:.2f} s: {dict(kinds)}")


def test_a_trace_can_be_read(redis_url: str) -> None:
    with Simulation(family(work), url=redis_url) as simulation:
        simulation.producer.enqueue("work", family="billing", job_id="one", delay=1.5)
        simulation.run_until_idle()
    assert [str(event) for event in simulation.trace] == [
        "2026-01-01 00:00:00.000 p1   started",
        "2026-01-01 00:00:01.500 p1   claimed      billing:one",
        "2026-01-01 00:00:01.500 p1   completed    billing:one work, try 1",
    ]


# ------------------------------------------------------------------ misuse


def test_only_an_empty_database_is_used(redis_url: str) -> None:
    with Simulation(family(work), url=redis_url) as simulation:
        simulation.producer.enqueue("work", family="billing")
        with (
            pytest.raises(ConfigurationError, match="empty database"),
            Simulation(family(work), url=redis_url),
        ):
            pass
        simulation.run_until_idle()
        assert len(times(simulation, "completed")) == 1
    with Simulation(family(work), url=redis_url) as simulation:
        assert simulation.call(simulation.redis.exists("{billing}:totals")) == 0


async def test_it_has_an_event_loop_of_its_own(redis_url: str) -> None:
    with pytest.raises(ConfigurationError, match="outside of coroutines"):
        Simulation(family(work), url=redis_url)


def test_a_process_that_cannot_start(redis_url: str) -> None:
    async def on_startup(ctx: dict[Any, Any]) -> None:
        raise OSError("no mail server")

    with (
        Simulation(family(work, on_startup=on_startup), url=redis_url) as simulation,
        pytest.raises(OSError, match="no mail"),
    ):
        simulation.run(1)


def test_what_cannot_happen_is_not_waited_for(redis_url: str) -> None:
    with Simulation(family(work), url=redis_url) as simulation:
        with pytest.raises(RuntimeError, match="stands still"):
            simulation.call(asyncio.Event().wait())
        simulation.producer.enqueue("work", family="billing", delay="2d")
        with pytest.raises(TimeoutError):
            simulation.run_until_idle("1d")


def test_with_a_server_of_its_own() -> None:
    with Simulation(family(work)) as simulation:
        assert simulation.producer.enqueue("work", family="billing").result(1) == "done"
