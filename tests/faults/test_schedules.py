"""Workers die, and with them whoever makes the ticks of schedules: none is missed, and none is made twice."""

from __future__ import annotations

import asyncio
import time

from daemon.schedules import Schedules
from tests.faults.conftest import WorkshopFactory
from tests.faults.figures import LENIENCE
from tests.faults.workshop import KEYS, Workshop

#: How long workers are killed at least; by hand 60.
SECONDS = 14
KILL_EVERY = 2.0
#: So many of them that lead.
LEADERS = 2
FAMILY = "tests.faults.scheduled:WorkerSettings"


async def kill_workers(shop: Workshop, seconds: float) -> tuple[int, int]:
    """Kill the worker that leads, or else the oldest, and start another, again and again.

    Each is waited for: where it takes long to start none would live long enough to lead.

    Returns:
        How many were killed, and how many of them led.
    """
    workers = list(shop.workers)
    killed = led = 0
    with shop.server.client(decode_responses=True) as redis:
        end = time.monotonic() + seconds
        give_up = end + 60 * LENIENCE
        while time.monotonic() < end or led < LEADERS:
            assert time.monotonic() < give_up, f"of {killed} workers killed {led} led"
            await asyncio.sleep(KILL_EVERY)
            leader = (redis.get("arqd:scheduler") or "::").split(":")[1]
            victim = next((worker for worker in workers if str(worker.pid) == leader), workers[0])
            led += str(victim.pid) == leader
            victim.kill()
            killed += 1
            workers.remove(victim)
            workers.append(await shop.started(settings=FAMILY))
    return killed, led


async def test_every_second_while_workers_are_killed(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=2)
    await shop.ready(*(shop.start(FAMILY) for _ in range(3)))
    with shop.server.client() as redis:
        begun, _ = redis.time()
        killed, led = await kill_workers(shop, SECONDS)
        end, _ = redis.time()

        def ended() -> list[int]:
            """Seconds of the ticks whose jobs have ended."""
            return sorted(int(name.rpartition(b":")[2]) // 1000 for name in redis.zrange(KEYS.key("completed"), 0, -1))

        await shop.until(lambda: max(ended(), default=0) > end, "ticks are made after the last kill", 20)
        async with Schedules.connect(shop.server.url) as schedules:
            await schedules.pause("faults:tick")
            made = await schedules.get("faults:tick")
        await shop.until(lambda: len(ended()) == made.runs, "every job has ended")
        seconds = ended()
        left = redis.zcard(KEYS.queue)
    expected = range(seconds[0], seconds[-1] + 1)
    missed, extra = len(set(expected) - set(seconds)), made.runs - len(expected)
    twice = sum(times > 1 for times in shop.starts().values())
    print(
        f"\nticks {len(expected)}, workers killed {killed} (leading {led}), missed {missed}, extra {extra}, "
        f"jobs started twice {twice}"
    )
    assert seconds[0] <= begun + 2
    assert led >= LEADERS
    assert seconds == list(expected)
    assert (made.runs, left) == (len(expected), 0)
    assert set(shop.starts()) == {str(second * 1000) for second in expected}
