"""One process leads at a time: it makes ticks of every family, and another goes on when it ends, dies or hangs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daemon.keys import FamilyKeys
from daemon.schedules import Schedules
from daemon.scheduling import scheduler as module
from daemon.scheduling.scheduler import FREE, LEASE, Scheduler
from daemon.scheduling.ticks import Ticks
from tests.conftest import RedisServerFactory
from tests.engine import calls, eventually, until

COUNTED = ("get", "time", "zrange", "pexpire", "bzpopmin", "eval", "evalsha", "smembers")


@pytest.fixture
async def schedules(redis_url: str) -> AsyncIterator[Schedules]:
    async with Schedules.connect(redis_url) as found:
        yield found


@asynccontextmanager
async def running(*schedulers: Scheduler) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(scheduler.run()) for scheduler in schedulers]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def made(schedules: Schedules, family: str = "t") -> list[int]:
    """Seconds of the ticks made."""
    names = await schedules.redis.zrange(FamilyKeys.of(family).queue, 0, -1)
    return sorted(int(name.decode().rpartition(":")[2]) // 1000 for name in names)


async def test_ticks_of_families_that_nobody_runs_are_made(redis_url: str, schedules: Schedules) -> None:
    for family in ("t", "u"):
        await schedules.add("s", "work", family=family, every=1)
    async with running(Scheduler(redis_url)):

        async def both() -> bool:
            return all([len(await made(schedules, family)) >= 2 for family in ("t", "u")])

        await eventually(both)
    for family in ("t", "u"):
        seconds = await made(schedules, family)
        assert seconds == list(range(seconds[0], seconds[-1] + 1))


async def test_one_of_several_leads_and_another_goes_on_at_once(redis_url: str, schedules: Schedules) -> None:
    schedulers = [Scheduler(redis_url) for _ in range(3)]
    async with running(*schedulers) as tasks:
        for left in (3, 2, 1):
            await until(lambda: any(scheduler.leading for scheduler in schedulers))
            leaders = [n for n, scheduler in enumerate(schedulers) if scheduler.leading]
            assert len(leaders) == 1
            if left < 3:
                assert await schedules.redis.pttl(LEASE) > module.LEASE_SECONDS * 500
            tasks[leaders[0]].cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await tasks[leaders[0]]
            assert not schedulers[leaders[0]].leading
    assert await schedules.redis.exists(LEASE) == 0


async def test_a_leader_that_is_gone_is_followed_when_its_lease_ends(redis_url: str, schedules: Schedules) -> None:
    await schedules.redis.set(LEASE, "somebody", px=300)
    scheduler = Scheduler(redis_url)
    async with running(scheduler):
        await until(lambda: scheduler.leading)


async def test_who_has_lost_the_lease_stops_leading(
    redis_url: str, schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.05)
    scheduler = Scheduler(redis_url)
    async with running(scheduler):
        await until(lambda: scheduler.leading)
        await schedules.redis.set(LEASE, "somebody", px=60_000)
        await until(lambda: not scheduler.leading)
    assert await schedules.redis.get(LEASE) == b"somebody", "what is another's is not given up"
    assert await schedules.redis.exists(FREE) == 0


async def test_it_sleeps_until_a_schedule_changes(
    redis_url: str, schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new one, one that is resumed and one that is due earlier are noticed at once, not at the next look."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 3600)
    scheduler = Scheduler(redis_url)
    async with running(scheduler):
        await until(lambda: scheduler.leading)
        await schedules.add("s", "work", family="t", every=1)
        await eventually(lambda: made(schedules))
        await schedules.pause("t:s")
        await schedules.redis.delete("arq:{t}")
        await schedules.change("t:s", cron="@yearly")
        await schedules.resume("t:s")
        await schedules.change("t:s", every=1)
        await eventually(lambda: made(schedules))


async def test_a_schedule_that_changes_while_ticks_are_made_is_looked_at_again(
    redis_url: str, schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 3600)
    read, changed, make_due = asyncio.Event(), asyncio.Event(), Ticks.make_due

    async def make_due_slowly(ticks: Ticks) -> float | None:
        wait = await make_due(ticks)
        read.set()
        await changed.wait()
        return wait

    monkeypatch.setattr(Ticks, "make_due", make_due_slowly)
    await schedules.add("s", "work", family="t", cron="@yearly")
    await schedules.redis.delete(module.WAKE)
    scheduler = Scheduler(redis_url)
    async with running(scheduler):
        await asyncio.wait_for(read.wait(), 60)
        await schedules.change("t:s", every=1)
        await until(lambda: scheduler._next["t"] == 0)
        changed.set()
        await eventually(lambda: made(schedules))


async def test_a_lost_wake_up_delays_a_schedule_until_the_next_look(
    redis_url: str, schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.2)

    async def lost(redis: Any, family: str) -> None: ...

    monkeypatch.setattr("daemon.schedules.wake", lost)
    async with running(Scheduler(redis_url)):
        await schedules.add("s", "work", family="t", every=1)
        await eventually(lambda: made(schedules))


async def test_idle_it_asks_little(redis_url: str, schedules: Schedules) -> None:
    for n in range(14):
        await schedules.add("s", "work", family=f"f{n}", cron="@yearly")
    leader, follower = Scheduler(redis_url), Scheduler(redis_url)
    async with running(leader, follower):
        await until(lambda: leader.leading or follower.leading)
        last = 0

        async def settled() -> bool:
            nonlocal last
            before, last = last, calls(redis_url, *COUNTED)
            await asyncio.sleep(0.1)
            return before == last

        await eventually(settled)
        await asyncio.sleep(2)
        assert calls(redis_url, *COUNTED) - last <= 8


async def test_who_waits_for_the_lease_only_asks_how_long(redis_url: str, schedules: Schedules) -> None:
    await schedules.redis.set(LEASE, "somebody", px=60_000)
    scheduler, before = Scheduler(redis_url), calls(redis_url, "eval")
    async with running(scheduler):
        for _ in range(3):
            await schedules.redis.zadd(FREE, {"1": 0})

            async def taken() -> bool:
                return await schedules.redis.exists(FREE) == 0

            await eventually(taken)
        assert calls(redis_url, "eval") - before == 1
        await schedules.redis.delete(LEASE)
        await schedules.redis.zadd(FREE, {"1": 0})
        await until(lambda: scheduler.leading)


async def test_what_others_hang_on_it_is_called_while_it_leads(redis_url: str, schedules: Schedules) -> None:
    called: list[str] = []

    async def well() -> None:
        called.append("well")

    async def badly() -> None:
        called.append("badly")
        raise ValueError("no")

    scheduler = Scheduler(redis_url)
    scheduler.every(0.01, well)
    scheduler.every(0.01, badly)
    await schedules.redis.set(LEASE, "somebody", px=400)
    async with running(scheduler):
        assert called == []
        await until(lambda: called.count("well") > 2 and called.count("badly") > 2)
        assert scheduler.leading
    ended = len(called)
    await asyncio.sleep(0.05)
    assert len(called) == ended


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_redis_may_go_and_come_back(redis_server: RedisServerFactory, how: str) -> None:
    server = redis_server(appendonly="yes", appendfsync="always")
    scheduler = Scheduler(server.url)
    async with Schedules.connect(server.url) as schedules, running(scheduler):
        await schedules.add("s", "work", family="t", every=1)
        await eventually(lambda: made(schedules))
        if how == "killed":
            server.kill()
            await until(lambda: not scheduler.leading)
            server.start()
        else:
            server.pause()
            await asyncio.sleep(1.5)
            server.resume()
        back = datetime.now(UTC) + timedelta(seconds=2)

        async def goes_on() -> bool:
            seconds = await made(schedules)
            return seconds[-1] >= back.timestamp()

        await eventually(goes_on)
        seconds = await made(schedules)
        assert seconds == list(range(seconds[0], seconds[-1] + 1))


async def test_on_a_full_server_ticks_are_late(redis_server: RedisServerFactory) -> None:
    server = redis_server(maxmemory="100mb", maxmemory_policy="noeviction")
    scheduler = Scheduler(server.url)
    async with Schedules.connect(server.url) as schedules:
        await schedules.add("s", "work", family="t", every=1)
        await schedules.redis.config_set("maxmemory", 1)
        async with running(scheduler):
            await until(lambda: scheduler.leading)

            async def late() -> bool:
                return (await schedules.get("t:s")).next_runs[0] < datetime.now(UTC) - timedelta(seconds=1)

            await eventually(late)
            assert scheduler.leading
            await schedules.redis.config_set("maxmemory", "100mb")
            await eventually(lambda: made(schedules))
        seconds = await made(schedules)
        assert seconds == list(range(seconds[0], seconds[-1] + 1))


async def test_a_leader_that_hangs_is_told_from_one_that_waits(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RENEW_SECONDS", "LOOK_SECONDS", "BLOCK_SECONDS"):
        monkeypatch.setattr(module, name, 0.2)
    monkeypatch.setattr(module, "STILL_SECONDS", 5.0)
    hangs, waits = Scheduler(redis_url), Scheduler(redis_url)
    async with running(hangs):
        await until(lambda: hangs.leading)
        async with running(waits):
            monkeypatch.setattr(hangs.noted, "look", asyncio.Event().wait)
            await until(lambda: not hangs.turns)
            # It waited, and leads now.
            await until(lambda: waits.leading and waits.turns)
            assert not hangs.turns


async def test_redis_away_is_no_reason_to_start_it_again(
    redis_server: RedisServerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STILL_SECONDS", 5.0)
    server = redis_server()
    scheduler = Scheduler(server.url)
    async with running(scheduler):
        await until(lambda: scheduler.leading)
        server.kill()
        await until(lambda: not scheduler.leading)
        turned = scheduler.turned
        await until(lambda: scheduler.turned > turned + 2)
        assert scheduler.turns
