"""Jobs that a worker claims in its sleep: each begins at once and once, and goes back where it cannot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from redis import exceptions

from daemon.broker import Broker, Claim, Tick
from daemon.claiming import prefetch
from daemon.claiming.take import Take
from daemon.context import JobContext
from daemon.family import func
from daemon.job import JobState
from daemon.keys import FamilyKeys
from daemon.producer import Producer
from daemon.worker import Worker
from tests.engine import make_family, until, working
from tests.servers import each_node

KEYS = FamilyKeys.of("t")


class Handler:
    """Notes the jobs it starts and how often they were tried, and holds up those of a family ``hold``."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.gate = asyncio.Event()

    async def quick(self, ctx: JobContext, n: int) -> int:
        assert ctx.job_try == 1
        self.started.append(n)
        return n

    async def hold(self, ctx: JobContext, n: int) -> int:
        assert ctx.job_try == 1
        self.started.append(n)
        await self.gate.wait()
        return n


@pytest.fixture
def claimed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The jobs that ticks claim."""
    found: list[bytes] = []
    tick = Broker.tick

    async def watched(self: Broker, *args: Any, **options: Any) -> Tick:
        reply = await tick(self, *args, **options)
        found.extend(claim.id for claim in reply.claims)
        return reply

    monkeypatch.setattr(Broker, "tick", watched)
    return found


async def asleep(worker: Worker) -> None:
    """Wait until the server has the call that a worker leaves behind its pop."""
    await until(lambda: worker.listening)
    pops = worker.supervisor._wakeups._pops.values()
    await until(lambda: any(pop._take is not None and pop._take.under_way for pop in pops))


async def test_jobs_that_come_one_by_one_need_no_tick(redis_url: str, producer: Producer, claimed: list[bytes]) -> None:
    handler = Handler()
    async with working(redis_url, make_family("t", handler.quick)) as supervisor:
        for n in range(20):
            await asleep(supervisor.workers[0])
            job = await producer.enqueue("quick", n, family="t")
            assert await job.result(60) == n
            assert await job.status() is JobState.COMPLETED
    assert handler.started == list(range(20))
    assert claimed == []


async def test_while_one_runs_the_next_comes_the_same_way(
    redis_url: str, producer: Producer, claimed: list[bytes]
) -> None:
    handler = Handler()
    async with working(redis_url, make_family("t", handler.hold, max_jobs=3)) as supervisor:
        jobs = []
        for n in range(3):
            await asleep(supervisor.workers[0])
            jobs.append(await producer.enqueue("hold", n, family="t"))
            await until(lambda n=n: len(handler.started) == n + 1)
        fourth = await producer.enqueue("hold", 3, family="t")
        handler.gate.set()
        assert [await job.result(60) for job in [*jobs, fourth]] == [0, 1, 2, 3]
    # By whichever comes first: the call that settles the others, or the one behind its pop.
    assert claimed in ([], [fourth.job_id.encode()])


async def test_several_at_once_are_claimed_by_a_tick(redis_url: str, producer: Producer, claimed: list[bytes]) -> None:
    handler = Handler()
    async with working(redis_url, make_family("t", handler.quick)) as supervisor:
        await asleep(supervisor.workers[0])
        jobs = await producer.enqueue_many("quick", [(n,) for n in range(5)], family="t")
        assert [await job.result(60) for job in jobs] == list(range(5))
    assert len(claimed) == 5


async def test_where_a_function_runs_at_most_once_nothing_is_claimed_in_sleep(
    redis_url: str, producer: Producer, claimed: list[bytes]
) -> None:
    handler = Handler()
    careful = func(handler.quick, name="quick", at_most_once=True)
    async with working(redis_url, make_family("t", careful)) as supervisor:
        await until(lambda: supervisor.workers[0].listening)
        job = await producer.enqueue("quick", 0, family="t")
        assert await job.result(60) == 0
    assert claimed == [job.job_id.encode()]


async def test_a_lost_reply_loses_no_job(redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch) -> None:
    handler, lost = Handler(), []
    arrived = Take.arrived

    async def lose(self: Take) -> bool:
        if not lost:
            lost.append(await self._reply)
            raise exceptions.ConnectionError("lost")
        return await arrived(self)

    monkeypatch.setattr(Take, "arrived", lose)
    async with working(redis_url, make_family("t", handler.quick)) as supervisor:
        await asleep(supervisor.workers[0])
        job = await producer.enqueue("quick", 0, family="t")
        assert await job.result(60) == 0
        assert lost[0][1] == job.job_id.encode()
    assert handler.started == [0]


async def test_a_process_that_stood_still_begins_nothing_old(
    redis_url: str, producer: Producer, claimed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, start = Handler(), Take._start

    def late(self: Take, claim: Claim, now_ms: int, begun: bool) -> None:
        # As if the reply had come a while ago.
        start(self, claim, now_ms - round(1000 * prefetch.PATIENCE) - 1000, begun)

    monkeypatch.setattr(Take, "_start", late)
    async with working(redis_url, make_family("t", handler.quick)) as supervisor:
        await asleep(supervisor.workers[0])
        job = await producer.enqueue("quick", 0, family="t")
        assert await job.result(60) == 0
    assert handler.started == [0]
    assert claimed == [job.job_id.encode()]


async def test_what_finds_no_slot_goes_back(redis_url: str, producer: Producer) -> None:
    busy, other = Handler(), Handler()
    async with working(redis_url, make_family("t", busy.hold, max_jobs=1)) as supervisor:
        worker = supervisor.workers[0]
        await asleep(worker)
        # A slot that was free when it fell asleep is not any more.
        worker.max_jobs = 0
        job = await producer.enqueue("hold", 0, family="t")

        def released() -> bool:
            totals = KEYS.key("totals")
            return any(node.hget(key, "released") for node in each_node(redis_url) for key in node.keys(totals))

        await until(released)
        assert await job.status() is JobState.WAITING
        other.gate.set()
        async with working(redis_url, make_family("t", other.hold, max_jobs=1)):
            assert await job.result(60) == 0
    assert (busy.started, other.started) == ([], [0])


async def test_a_script_the_server_has_forgotten_is_loaded_again(
    redis_url: str, producer: Producer, claimed: list[bytes]
) -> None:
    handler = Handler()
    async with working(redis_url, make_family("t", handler.quick)) as supervisor:
        for n, flush in enumerate((True, False)):
            await asleep(supervisor.workers[0])
            for node in each_node(redis_url) if flush else ():
                node.script_flush()
            job = await producer.enqueue("quick", n, family="t")
            assert await job.result(60) == n
    assert len(claimed) == 1


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
async def test_redis_knows_that_a_job_begins_before_its_first_line_runs(
    redis_url: str,
    claimed: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    marks: list[list[bytes]] = []
    begun: list[bool] = []
    start = Take._start

    def watched(self: Take, claim: Claim, now_ms: int, has_begun: bool) -> None:
        begun.append(has_begun)
        start(self, claim, now_ms, has_begun)

    monkeypatch.setattr(Take, "_start", watched)

    async def look(ctx: JobContext) -> None:
        """Look from within the first step, in which the event loop does nothing else."""
        deadline = time.monotonic() + 20
        while True:
            held = [
                entry
                for node in each_node(redis_url)
                for key in node.keys(KEYS.key("held", "*"))
                for entry in node.hvals(key)
            ]
            if not any(b"~" in entry for entry in held) or time.monotonic() > deadline:
                marks.append(held)
                return

    async def work() -> None:
        async with Producer.connect(redis_url) as own, working(redis_url, make_family("t", look)) as supervisor:
            for _ in range(2):
                await asleep(supervisor.workers[0])
                # The call after this one is of a process that is late with its lease.
                supervisor.workers[0].lease_ms = 10**9
                await (await own.enqueue("look", family="t")).result(60)

    def run() -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(work())

    await asyncio.to_thread(run)
    assert claimed == []
    assert begun == [True, False]
    assert [len(held) for held in marks] == [1, 1]
    assert not any(b"~" in entry for held in marks for entry in held)


async def test_an_abort_that_comes_before_the_claim_is_heard_of_is_not_lost(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Handler()
    async with working(redis_url, make_family("t", handler.hold)) as supervisor:
        (worker,) = supervisor.workers
        start = worker.start

        def late(claim: Claim, number: int, now_ms: int) -> None:
            worker.control(f"abort {number} {claim.id.decode()}")
            start(claim, number, now_ms)

        monkeypatch.setattr(worker, "start", late)
        job = await producer.enqueue("hold", 1, family="t")
        with pytest.raises(asyncio.CancelledError):
            await job.result(60)
