"""Time limits with one timer: each run is told once, when its own limit is over."""

from __future__ import annotations

import asyncio
from typing import Any

from daemon.broker import Claim
from daemon.running.deadlines import Deadlines
from daemon.running.run import Run


def run_of(timeout: float) -> Run:
    run = Run(Claim(b"{t}:1", b"", b"0", b"0", b"0", b"0"), 1, "{t}:1")
    run.timeout = timeout
    return run


def timers(loop: Any) -> list[asyncio.TimerHandle]:
    return list(loop._scheduled)


async def test_each_is_told_when_its_own_limit_is_over() -> None:
    told: list[Run] = []
    deadlines = Deadlines(told.append)
    long, short, ended, endless = run_of(0.2), run_of(0.05), run_of(0.02), run_of(1e9)
    for run in (long, endless, short, ended):
        deadlines.watch(run)
    deadlines.forget(ended)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while len(told) < 2:
        assert loop.time() - begun < 60
        await asyncio.sleep(0.005)
    assert told == [short, long]
    assert loop.time() - begun >= 0.15, "not with the short one"
    deadlines.close()


async def test_who_comes_later_may_be_first() -> None:
    told: list[float] = []
    deadlines = Deadlines(lambda run: told.append(run.timeout))
    for timeout in (0.15, 0.1, 0.05):
        deadlines.watch(run_of(timeout))
    async with asyncio.timeout(60):
        while len(told) < 3:
            await asyncio.sleep(0.005)
    assert told == [0.05, 0.1, 0.15]


async def test_thousands_that_end_in_time_leave_one_timer() -> None:
    deadlines = Deadlines(lambda run: None)
    loop = asyncio.get_running_loop()
    before = len(timers(loop))
    runs = [run_of(60 + number % 7) for number in range(2000)]
    for run in runs:
        deadlines.watch(run)
        deadlines.forget(run)
    live = [timer for timer in timers(loop) if not timer.cancelled()]
    assert len(live) <= before + 1
    deadlines.close()
