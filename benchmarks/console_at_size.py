"""The console over a large queue: ``python -m benchmarks.console_at_size [waiting [failed]]``.

Fourteen families, one of which has so many waiting jobs (100,000) and dead letters (20,000, searched), all with an hour
of statistics behind them. For each page and list of the API: how long a client beside it waits for the first page, over
a connection, when no numbers are kept from the request before. docs/dashboard.md has a run.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from benchmarks.arqd import NAME
from benchmarks.control_at_size import KEYS, fill
from benchmarks.search_at_size import CHUNK, LIMIT, Failing, percentile, processor
from benchmarks.server import measured_server
from daemon import dead_letters
from daemon.console.app import create_app
from daemon.console.pages.board import FRESH_SECONDS
from daemon.console.pages.dashboard import Dashboard
from daemon.console.services import Services
from daemon.console.settings import ConsoleSettings
from daemon.context import JobContext
from daemon.family import Family, FamilySettings, func, load_family
from daemon.keys import FamilyKeys
from daemon.pages import server_ms
from daemon.process.serving import serve
from daemon.search.indexer import FamilyIndexer, publish
from daemon.statistics import SEPARATOR

FAMILIES, ROUNDS = 14, 12


async def look(ctx: JobContext) -> None:
    """A function of every family here; nothing runs it."""


def families() -> list[Family]:
    """Give the families, the large one first."""
    names = [NAME, *(f"family-{number}" for number in range(1, FAMILIES))]
    return [
        load_family(type("WorkerSettings", (FamilySettings,), {"family": name, "functions": [func(look, name="look")]}))
        for name in names
    ]


async def statistics(redis: Any, known: list[Family]) -> None:
    """Write what an hour of jobs leaves: two functions a minute, with run times and waits."""
    minute = await server_ms(redis, KEYS) // 60_000
    for family in known:
        async with redis.pipeline(transaction=False) as pipe:
            for back in range(61):
                counts = {f"{name}{SEPARATOR}{what}": 20 for name in ("look", "see") for what in ("c", "b", "r")}
                times = {f"look{SEPARATOR}{kind}{bucket}": 5 for kind in "RW" for bucket in range(30, 40)}
                sums = {f"look{SEPARATOR}{kind}": 10**9 for kind in "RW"}
                key = FamilyKeys.of(family.name).key("stats", "m", str(minute - back))
                pipe.hset(key, mapping={**counts, **times, **sums, f"{SEPARATOR}enqueued": 40})
            await pipe.execute()


@asynccontextmanager
async def serving(url: str, known: list[Family]) -> AsyncIterator[tuple[Services, httpx.AsyncClient]]:
    """Serve the console on loopback; gives its services and a client that is logged in as an admin."""
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with Services.open(url, ConsoleSettings(), known) as services:
        app = create_app(services, Dashboard())
        task = asyncio.create_task(
            serve(
                app,
                name="the console",
                host="127.0.0.1",
                port=0,
                handle_signals=False,
                on_listening=listening.set_result,
            )
        )
        _, token = await services.tokens.add("bench", "admin")
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=await listening, headers=headers, trust_env=False) as client:
            yield services, client
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def measure(client: httpx.AsyncClient, redis: Any, what: str, path: str) -> None:
    """Ask for a page several times; print how long it took, and the processor time of both sides and of the server."""
    times = []
    here, server = 0.0, 0.0
    size = 0
    for _ in range(ROUNDS):
        # So long numbers are kept that several pages show.
        await asyncio.sleep(FRESH_SECONDS + 0.05)
        before = await processor(redis)
        began = time.perf_counter()
        answer = await client.get(path)
        times.append(time.perf_counter() - began)
        after = await processor(redis)
        here, server = here + after[0] - before[0], server + after[1] - before[1]
        answer.raise_for_status()
        size = len(answer.content)
    print(
        f"{what:32}{times[0] * 1000:10.1f}{percentile(times, 0.5):10.1f}{max(times) * 1000:10.1f}"
        f"{here / ROUNDS:10.1f}{server / ROUNDS:8.1f}{size / 1000:8.1f}",
        flush=True,
    )


async def main(waiting: int, failed: int) -> None:
    """Fill the queue and measure every page."""
    known = families()
    with measured_server() as (url, name):
        async with serving(url, known) as (services, client):
            redis = services.redis
            await publish(redis, KEYS, "payload", LIMIT)
            failing = Failing(redis)
            await failing.register()
            while failing.made < failed:
                await failing.fail(min(CHUNK, failed - failing.made))
            await fill(redis, waiting)
            indexer = FamilyIndexer(redis, KEYS)
            while await indexer.step():
                pass
            await statistics(redis, known)
            (cause, *_) = await dead_letters.groups(services.inspector, NAME)
            (job, *_) = await services.inspector.jobs(NAME, "failed", limit=1)
            print(f"{name}; {len(known)} families, one with {waiting:,} waiting and {failed:,} failed jobs\n")
            print(f"{'':32}{'first ms':>10}{'p50 ms':>10}{'max ms':>10}{'cpu here':>10}{'server':>8}{'kB':>8}")
            queue, api = f"/queues/{NAME}", f"/api/v1/queues/{NAME}/jobs"
            for what, path in {
                "overview": "/",
                "overview, 14 days": "/?span=14d",
                "queue, waiting": f"{queue}?state=waiting",
                "queue, failed": f"{queue}?state=failed",
                "queue, failed, by tag": f"{queue}?state=failed&tag=customer-7",
                "queue, failed, search": f"{queue}?state=failed&q=reset+word7",
                "job": f"/jobs/{job.id}",
                "dead letters by cause": "/dead",
                "one cause": f"/dead/{cause.id}",
                "schedules": "/schedules",
                "workers": "/workers",
                "audit": "/audit",
                "API: queues": "/api/v1/queues",
                "API: waiting jobs": f"{api}?state=waiting",
                "API: failed jobs": f"{api}?state=failed",
                "API: failed jobs, search": f"{api}?state=failed&q=reset+word7",
                "API: dead letters by cause": "/api/v1/dead/groups",
                "API: health": "/api/v1/health",
            }.items():
                await measure(client, redis, what, path)


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:]]
    asyncio.run(main(*(numbers + [100_000, 20_000][len(numbers) :])))
