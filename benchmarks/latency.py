"""How soon an idle worker starts a job, and how soon its result is back."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

from benchmarks.side import Producer, Side, WorkerProcess

PERIOD = 0.05
READY_SECONDS = 30


@dataclass(slots=True)
class Latency:
    """Seconds, one entry per job.

    Attributes:
        pick_up: from the call of enqueue to the handler's start.
        round_trip: from the call of enqueue to the result in the caller's hands.
    """

    pick_up: list[float] = field(default_factory=list)
    round_trip: list[float] = field(default_factory=list)


async def latency(url: str, side: Side, setup: str, jobs: int, poll_delay: float, seed: int) -> Latency:
    """Send single jobs to an idle worker process, one about every 50 ms.

    The intervals vary between 25 and 75 ms: equal ones would always meet a polling worker at the same moments of its
    period. Every system gets the same ones.

    Args:
        poll_delay: of a system that polls for results, seconds.
    """
    measured = Latency()
    with WorkerProcess(side, setup, url) as worker:
        producer = await side.producer(url)
        try:
            async with asyncio.timeout(READY_SECONDS):
                for _ in range(3):
                    await producer.result(await producer.enqueue(), 0.01)
            pauses = random.Random(seed)  # noqa: S311 - no secret
            sent = []
            for _ in range(jobs):
                await asyncio.sleep(pauses.uniform(0.5, 1.5) * PERIOD)
                at = time.monotonic_ns()
                sent.append((at, await producer.enqueue()))
            for at, handle in sent:
                measured.pick_up.append((await producer.result(handle, 0.01) - at) / 1e9)
            worker.check()
            trips = []
            for _ in range(jobs):
                await asyncio.sleep(pauses.uniform(0.5, 1.5) * PERIOD)
                trips.append(asyncio.create_task(_round_trip(producer, poll_delay)))
            measured.round_trip = await asyncio.gather(*trips)
            worker.check()
        finally:
            await producer.close()
    return measured


async def _round_trip(producer: Producer, poll_delay: float) -> float:
    started = time.perf_counter()
    await producer.result(await producer.enqueue(), poll_delay)
    return time.perf_counter() - started
