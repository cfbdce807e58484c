"""Handlers that block the loop or ignore their cancellation: told by name, none twice, one process is replaced."""

from __future__ import annotations

import re
import signal
import time

import pytest

from daemon.errors import JobFailed
from daemon.job import JobState
from daemon.process.ending import REPLACE_STATUS
from tests.faults.conftest import WorkshopFactory
from tests.faults.family import Block, Cling, Done, Hold, Plain, Spin, Work
from tests.faults.figures import within


async def test_a_loop_blocked_beyond_the_lease_is_told_and_costs_nothing(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=2)
    async with shop.producer() as producer:
        first = await shop.started()
        beside = await producer.enqueue(Hold(name="beside"))
        await shop.until_started("beside")
        job = await producer.enqueue(Block(name="block", seconds=4))
        await shop.until_started("block", worker=first)
        await shop.started()
        await shop.until(lambda: "has been blocked" in first.log.read_text(), "the watchdog tells", 5)
        assert await job.result(timeout=60) == Done(name="block", pid=first.pid)
        shop.release("beside")
        assert (await beside.result(timeout=60)).pid == first.pid
        await shop.until(lambda: "turns again" in first.log.read_text(), "the watchdog sees it turn")
    line = next(line for line in first.log.read_text().splitlines() if "has been blocked" in line)
    place = r"/\S+/tests/faults/family\.py:\d+ in block: time\.sleep\(job\.seconds\)"
    told = re.search(rf"blocked for ([0-9.]+) s by job {job.id} \(block\), {place}", line)
    assert told, line
    within("a blocked loop: job and line told after", float(told[1]), 2)
    assert shop.starts() == {"beside": 1, "block": 1}


async def test_a_job_that_never_yields_is_charged_alone_and_its_process_replaced(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=1, max_jobs=5, max_overrun=1, max_tries=2)
    async with shop.producer() as producer:
        first = await shop.started(job_timeout=2)
        beside = [await producer.enqueue(Hold(name=f"beside-{n}")) for n in range(2)]
        await shop.until_started("beside-0", "beside-1")
        job = await producer.enqueue(Spin(name="spin"), timeout=1)
        await shop.until_started("spin", worker=first)
        assert await shop.ended(first, 15) == REPLACE_STATUS
        began, ended = shop.events("start", "spin")[0].at, time.time()
        # It is charged a try, and the others nothing, at once: nobody has to wait for a lease.
        info = await job.info()
        assert (info.tries, info.crashes) == (1, 0)
        told = r"\d+ s past its time limit of 1 s it blocked the event loop, /\S+/tests/faults/family\.py:\d+ in spin: "
        assert re.match(told, info.history[0]["message"])
        for other in beside:
            other_info = await other.info()
            assert (other_info.state, other_info.tries, other_info.crashes) == (JobState.WAITING, 0, 0)
        assert (await shop.queue()).workers == 0
        shop.release("beside-0")
        shop.release("beside-1")
        shop.release("spin")
        second = await shop.started()
        assert {(await other.result(timeout=60)).pid for other in beside} == {second.pid}
        assert (await job.result(timeout=60)).pid == second.pid
    print(f"\nblocked, process replaced after {ended - began:.1f} s (time limit 1 s, overrun 1 s)")
    assert "has been blocked" in first.log.read_text()


@pytest.mark.parametrize("payload", [Cling, Plain])
async def test_a_job_that_ignores_its_cancellation(
    workshop: WorkshopFactory, payload: type[Cling] | type[Plain]
) -> None:
    # What runs beside it is not handed back, however long the next worker takes to start.
    shop = workshop(lease=1, max_jobs=2, max_overrun=1, max_tries=1, drain_timeout=200)
    async with shop.producer() as producer:
        first = await shop.started()
        beside = await producer.enqueue(Hold(name="beside"))
        job = await producer.enqueue(payload(name="stuck"), timeout=0.5)
        await shop.until_started("beside", "stuck")
        with pytest.raises(JobFailed, match=r"timed out after 0\.5 s"):
            await job.result(timeout=60)
        await shop.until(lambda: first.state == "draining", "it takes no more")
        second = await shop.started()
        assert (await (await producer.enqueue(Work(name="other"))).result(timeout=60)).pid == second.pid
        # What runs beside it may end.
        shop.release("beside")
        assert await beside.result(timeout=60) == Done(name="beside", pid=first.pid)
        assert await shop.ended(first, 10) == REPLACE_STATUS
    assert shop.starts() == {"beside": 1, "stuck": 1, "other": 1}
    assert "has not ended 1 s after it was cancelled: this process is replaced" in first.log.read_text()


async def test_processes_side_by_side_replace_one(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=1, max_overrun=1, max_tries=1, drain_timeout=1)
    async with shop.producer() as producer:
        group = shop.start(options=["--processes", "2"])
        await shop.until(lambda: len(shop.sessions()) == 2, "both take jobs", 20)
        before = shop.sessions()
        job = await producer.enqueue(Cling(name="stuck"), timeout=0.5)
        with pytest.raises(JobFailed, match="timed out"):
            await job.result(timeout=60)
        await shop.until(lambda: len(shop.sessions() - before) == 1 == len(shop.sessions() & before), "one is new", 20)
        assert group.status is None
        assert "has to be replaced: starting another" in group.log.read_text()
        group.send(signal.SIGTERM)
        assert await shop.ended(group, 15) == 0
