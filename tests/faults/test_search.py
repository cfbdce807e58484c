"""Valkey, workers and indexers are killed at random: once caught up, the search index is equal to what is true."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress

from redis.exceptions import RedisError

from daemon.connecting.connections import LOST, connect
from daemon.control import Control
from daemon.errors import ArqdError
from daemon.inspector import Inspector
from daemon.producer import Producer
from daemon.search.indexer import Indexer
from tests.engine import eventually
from tests.faults.conftest import WorkshopFactory
from tests.faults.workshop import Workshop
from tests.searching import caught_up, check_index

#: How long things are killed; by hand 60.
SECONDS = 8
KILL_EVERY = 1.0
FAMILY = "tests.faults.searched:WorkerSettings"
WORDS = ("red", "green", "blue", "Oslo", "Roma", "Kyōto")


async def change_jobs(url: str, draw: random.Random, done: Counter[str]) -> None:
    """Enqueue, send back, remove and abort jobs until it is cancelled; Redis may be away."""
    async with Producer.connect(url) as producer, Control.connect(url, ["faults"]) as control:
        for number in range(1_000_000):
            with suppress(ArqdError, RedisError, *LOST):
                match draw.choice(("add", "add", "late", "retry", "remove", "clean", "abort")):
                    case "add":
                        texts = [[" ".join(draw.choices(WORDS, k=2))] for _ in range(draw.randrange(1, 30))]
                        await producer.enqueue_many(draw.choice(("good", "bad")), texts, family="faults")
                        done["added"] += len(texts)
                    case "late":
                        await producer.enqueue("good", draw.choice(WORDS), family="faults", delay=86_400)
                    case "retry":
                        failed = await control.inspector.jobs("faults", "failed", limit=20)
                        done["retried"] += len(await control.retry([info.id for info in failed[::2]]))
                    case "remove":
                        found = await control.inspector.jobs("faults", draw.choice(("failed", "completed")), limit=9)
                        done["removed"] += len(await control.remove([info.id for info in found[::3]]))
                    case "clean":
                        done["cleaned"] += await control.clean("faults", "failed", count=3)
                    case "abort":
                        late = await control.inspector.jobs("faults", "delayed", limit=3)
                        done["aborted"] += len(await control.abort([info.id for info in late]))
            await asyncio.sleep(0.005 if number % 10 else 0.05)


async def index_too(url: str, draw: random.Random) -> None:
    """Be a second indexer beside the leader's, cancelled in the middle and begun anew."""
    redis = connect(url, timeout=5)
    try:
        while True:
            task = asyncio.create_task(Indexer(redis).catch_up())
            await asyncio.wait({task}, timeout=draw.uniform(0, 0.2))
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.05)
    finally:
        await redis.aclose()


async def kill(shop: Workshop, draw: random.Random, done: Counter[str]) -> None:
    """Kill the leading worker (the indexer), another one, or Valkey, again and again."""
    end = time.monotonic() + SECONDS
    workers = list(shop.workers)
    while time.monotonic() < end:
        await asyncio.sleep(KILL_EVERY * draw.uniform(0.5, 1.5))
        victim = draw.choice(("leader", "leader", "worker", "valkey"))
        done[f"killed {victim}"] += 1
        if victim == "valkey":
            await asyncio.to_thread(shop.server.kill)
            await asyncio.to_thread(shop.server.start)
            continue
        with shop.server.client(decode_responses=True) as redis:
            leader = (redis.get("arqd:scheduler") or "::").split(":")[1]
        leads = [worker for worker in workers if str(worker.pid) == leader]
        chosen = leads[0] if leads and victim == "leader" else workers[0]
        await asyncio.to_thread(chosen.kill)
        workers.remove(chosen)
        workers.append(shop.start(FAMILY))


async def test_the_index_is_equal_to_what_is_true(workshop: WorkshopFactory) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    shop = workshop(redis={"appendonly": "yes"}, lease=2, max_events=50_000)
    await shop.ready(shop.start(FAMILY), shop.start(FAMILY))
    done: Counter[str] = Counter()
    url = shop.server.url
    tasks = [asyncio.create_task(change_jobs(url, draw, done)), asyncio.create_task(index_too(url, draw))]
    await kill(shop, draw, done)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    redis = connect(url, timeout=10)
    inspector = Inspector(redis, ["faults"])

    async def quiet() -> bool:
        queue = await inspector.queue("faults")
        return queue.waiting + queue.active == 0 and await caught_up(redis, inspector, "faults") is not None

    await eventually(quiet)
    # What a count or an age forgets leaves without an event; a sweep takes it out.
    await redis.hset(inspector.of("faults").key("search"), "sweep", 0)
    await eventually(quiet)
    looked_up = await eventually(lambda: settled(redis, inspector))
    print(f"{dict(done)}, words compared {looked_up}")
    await redis.aclose()
    assert looked_up > len(WORDS)


async def settled(redis: object, inspector: Inspector) -> int:
    """Compare; what workers forget meanwhile is looked at again."""
    before = await inspector.queue("faults")
    try:
        return await check_index(redis, inspector, "faults")
    except AssertionError:
        if before == await inspector.queue("faults"):
            raise
        return 0
