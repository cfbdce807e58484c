"""Jobs claimed before there is a slot for them: in order, once, and given back where they would wait."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

import pytest
import uvloop

from daemon import executor
from daemon.broker import Broker, Held
from daemon.claiming import prefetch
from daemon.context import JobContext, current_job
from daemon.family import func
from daemon.job import JobState
from daemon.keys import FamilyKeys, raw_id
from daemon.producer import Producer
from daemon.running.run import Run
from daemon.worker import Worker
from tests.engine import in_state, make_family, until, working
from tests.servers import each_node

KEYS = FamilyKeys.of("t")
#: As it is outside tests.
PATIENCE = prefetch.PATIENCE


class Handler:
    """Holds up jobs until they are let go."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.tries: list[tuple[int, int]] = []
        self.gate = asyncio.Event()

    async def hold(self, ctx: JobContext, n: int) -> int:
        self.started.append(n)
        self.tries.append((n, ctx.job_try))
        await self.gate.wait()
        return n

    async def quick(self, ctx: JobContext, n: int) -> int:
        self.started.append(n)
        await asyncio.sleep(0.003)
        return n


async def _ahead(worker: Worker, producer: Producer, count: int = 4, function: str = "hold") -> list[str]:
    """Let a worker of one slot claim one job and the others ahead; give their ids."""
    await until(lambda: worker.listening)
    # A call that brings nothing may come before the jobs, and would teach it another size.
    worker.prefetch.observe = lambda sent, replied: None
    worker.prefetch.size = count - 1
    jobs = await producer.enqueue_many(function, [(n,) for n in range(count)], family="t")
    await until(lambda: len(worker.prefetch) == count - 1)
    del worker.prefetch.observe
    worker.prefetch.size = 0
    return [job.job_id for job in jobs]


async def test_short_jobs_are_claimed_ahead_and_run_in_order_and_never_too_many(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process that is held up hands some back, and goes on with later ones.
    monkeypatch.setattr(prefetch, "PATIENCE", 60)
    handler, most, ahead = Handler(), 0, 0
    jobs = await producer.enqueue_many("quick", [(n,) for n in range(400)], family="t")
    async with working(redis_url, make_family("t", handler.quick, max_jobs=5)) as supervisor:
        (worker,) = supervisor.workers
        while len(handler.started) < 400:
            most, ahead = max(most, len(worker.running)), max(ahead, len(worker.prefetch))
            await asyncio.sleep(0)
        assert [await job.result(60) for job in jobs] == list(range(400))
    assert handler.started == list(range(400))
    assert most == 5
    assert 0 < ahead <= prefetch.MOST


async def test_where_a_function_runs_at_most_once_nothing_is_claimed_ahead(redis_url: str, producer: Producer) -> None:
    handler, ahead = Handler(), 0
    jobs = await producer.enqueue_many("quick", [(n,) for n in range(200)], family="t")
    careful = func(handler.hold, name="hold", at_most_once=True)
    async with working(redis_url, make_family("t", handler.quick, careful, max_jobs=5)) as supervisor:
        (worker,) = supervisor.workers
        while len(handler.started) < 200:
            ahead = max(ahead, len(worker.prefetch))
            await asyncio.sleep(0)
        await jobs[-1].result(30)
    assert ahead == 0


async def test_what_would_wait_is_handed_back_to_others(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, other = Handler(), Handler()
    other.gate.set()
    async with working(redis_url, make_family("t", busy.hold, max_jobs=1)) as supervisor:
        ids = await _ahead(supervisor.workers[0], producer)
        # Not earlier: they would be gone before they were seen to be here.
        monkeypatch.setattr(prefetch, "PATIENCE", PATIENCE)
        supervisor.workers[0].prefetch._give_up()
        async with working(redis_url, make_family("t", other.hold, max_jobs=1)):
            results = [await producer.job(job_id, "t").result(60) for job_id in ids[1:]]
        assert results == [1, 2, 3]
        assert busy.started == [0]
        assert other.tries == [(1, 1), (2, 1), (3, 1)]
        busy.gate.set()
        assert await producer.job(ids[0], "t").result(60) == 0


async def test_a_draining_worker_hands_them_back_at_once(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "PATIENCE", 60)
    handler = Handler()
    async with working(redis_url, make_family("t", handler.hold, max_jobs=1)) as supervisor:
        ids = await _ahead(supervisor.workers[0], producer)
        supervisor.drain()
        for job_id in ids[1:]:
            await in_state(producer.job(job_id, "t"), JobState.WAITING)
        assert handler.started == [0]
        handler.gate.set()
    assert handler.started == [0]


async def test_one_that_is_aborted_never_begins(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "PATIENCE", 60)
    handler = Handler()
    async with working(redis_url, make_family("t", handler.hold, max_jobs=1)) as supervisor:
        ids = await _ahead(supervisor.workers[0], producer)
        assert await producer.job(ids[1], "t").abort()
        worker = supervisor.workers[0]
        assert len(worker.prefetch) == len(ids) - 2
        handler.gate.set()
        assert [await producer.job(job_id, "t").result(60) for job_id in ids[2:]] == [2, 3]
    assert handler.started == [0, 2, 3]


async def test_after_a_lost_connection_each_runs_once(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "PATIENCE", 60)
    handler = Handler()
    async with working(redis_url, make_family("t", handler.hold, max_jobs=1)) as supervisor:
        ids = await _ahead(supervisor.workers[0], producer)
        supervisor.workers[0].session._channel.close()
        handler.gate.set()
        assert [await producer.job(job_id, "t").result(60) for job_id in ids] == [0, 1, 2, 3]
    assert handler.started == [0, 1, 2, 3]


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
async def test_redis_knows_that_a_job_begins_before_its_first_line_runs(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    monkeypatch.setattr(prefetch, "PATIENCE", 60)
    marks: list[list[bytes]] = []
    ready, ids = threading.Event(), []

    async def look(ctx: JobContext, n: int) -> int:
        """Look from within the first step, in which the event loop does nothing else."""
        if n == 0:
            await asyncio.to_thread(ready.wait, 30)
            return 0
        deadline = time.monotonic() + 30
        while True:
            held = [
                node.hget(key, ids[n]) or b""
                for node in each_node(redis_url)
                for key in node.keys(KEYS.key("held", "*"))
            ]
            if not any(b"~" in entry for entry in held) or time.monotonic() > deadline:
                marks.append(held)
                return n

    async def work() -> None:
        async with (
            Producer.connect(redis_url) as own,
            working(redis_url, make_family("t", look, max_jobs=1)) as supervisor,
        ):
            ids.extend(map(raw_id, await _ahead(supervisor.workers[0], own, function="look")))
            ready.set()
            await until(lambda: len(marks) == 3, 100)

    def run() -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(work())

    await asyncio.to_thread(run)
    assert all(len(held) == 1 and b"~" not in held[0] for held in marks)


async def test_one_that_cannot_run_needs_no_slot(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "PATIENCE", 60)
    handler = Handler()
    async with working(redis_url, make_family("t", handler.hold, max_jobs=1)) as supervisor:
        (worker,) = supervisor.workers
        await until(lambda: worker.listening)
        worker.prefetch.observe = lambda sent, replied: None
        worker.prefetch.size = 2
        jobs = await producer.enqueue_many("hold", [(n,) for n in (0, "not a number", 2)], family="t")
        await in_state(jobs[1], JobState.FAILED)
        assert handler.started == [0]
        handler.gate.set()
        assert [await jobs[0].result(60), await jobs[2].result(60)] == [0, 2]


async def test_the_next_begins_before_the_result_of_one_that_waited_is_put_together(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "PATIENCE", 60)
    monkeypatch.setattr(logging.getLogger("arqd.job"), "level", logging.INFO)
    # Which others had begun when a job's log line was written.
    told: dict[str | None, list[int]] = {}
    handler = Handler()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            job = current_job.get()
            told[job.job_id if job else None] = list(handler.started)

    listener = Listener()
    logging.getLogger("arqd.job").addHandler(listener)
    try:
        async with working(redis_url, make_family("t", handler.hold, max_jobs=1)) as supervisor:
            ids = await _ahead(supervisor.workers[0], producer)
            await asyncio.sleep(executor.WAITED)
            handler.gate.set()
            assert [await producer.job(job_id, "t").result(60) for job_id in ids] == [0, 1, 2, 3]
    finally:
        logging.getLogger("arqd.job").removeHandler(listener)
    assert told.keys() == set(ids)
    assert told[ids[0]][:2] == [0, 1]


async def test_a_session_that_registers_names_one_whose_result_is_not_put_together(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "PATIENCE", 60)
    handler = Handler()
    named: list[list[bytes]] = []
    registers: list[asyncio.Task[None]] = []
    async with working(redis_url, make_family("t", handler.hold, max_jobs=1)) as supervisor:
        (worker,) = supervisor.workers
        ids = await _ahead(worker, producer)
        begin, sync = worker.begin, worker.session._sync

        async def noted(broker: Broker, held: Collection[Held], leave: bool) -> list[bytes] | None:
            named.append([job.id for job in held])
            return await sync(broker, held, leave)

        def begins(run: Run, call: Callable[[], Any]) -> None:
            begin(run, call)
            if not registers:
                registers.append(asyncio.ensure_future(worker.session.register()))

        monkeypatch.setattr(worker.session, "_sync", noted)
        monkeypatch.setattr(worker, "begin", begins)
        await asyncio.sleep(executor.WAITED)
        handler.gate.set()
        assert [await producer.job(job_id, "t").result(60) for job_id in ids] == [0, 1, 2, 3]
    assert raw_id(ids[0]) in named[0]
    assert handler.started == [0, 1, 2, 3]


async def test_a_log_line_that_cannot_be_written_keeps_no_job_from_its_end(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "PATIENCE", 60)
    monkeypatch.setattr(logging.getLogger("arqd.job"), "level", logging.INFO)
    handler = Handler()

    lost: list[str] = []

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (job := current_job.get()) and not lost:
                lost.append(job.job_id)
                raise ConnectionError("where the log goes is away")

    listener = Broken()
    logging.getLogger("arqd.job").addHandler(listener)
    try:
        async with working(redis_url, make_family("t", handler.hold, max_jobs=2)) as supervisor:
            (worker,) = supervisor.workers
            await until(lambda: worker.listening)
            worker.prefetch.observe = lambda sent, replied: None
            worker.prefetch.size = 1
            jobs = await producer.enqueue_many("hold", [(n,) for n in range(3)], family="t")
            await until(lambda: len(handler.started) == 2 and worker.prefetch)
            await asyncio.sleep(executor.WAITED)
            handler.gate.set()
            assert [await job.result(60) for job in jobs] == [0, 1, 2]
            assert lost
    finally:
        logging.getLogger("arqd.job").removeHandler(listener)
