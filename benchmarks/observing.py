"""What events and statistics cost, and what statistics take: ``python -m benchmarks.observing [cost | memory]``.

``cost``: a worker process of its own works off jobs that do nothing, with events and statistics on, with one of them,
and without; setups take turns and what ran side by side is compared. The same for enqueueing, a thousand jobs a call
and one. On a busy machine the processor times say more than the rates.
``memory``: two weeks of 14 families with two functions each, every minute busy, written by the scripts themselves with
their clock moved on; minutes older than their expiry are removed, as Redis would.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis
import uvloop

from benchmarks.arqd import KEYS
from benchmarks.measure import Bench
from benchmarks.processes import Site
from benchmarks.server import measured_server
from benchmarks.systems import BY_NAME
from daemon.broker import Broker, Outcome, TickSettings
from daemon.connecting.connections import connect
from daemon.keys import FamilyKeys
from daemon.producer import Producer
from daemon.running.observer import sum_up

FAMILIES, FUNCTIONS = 14, ("send_email", "send_bulk_email")
MINUTE, HOUR = 60_000, 3_600_000
START = 1_763_775_600_000 // HOUR * HOUR
JOBS_A_MINUTE = 60
BATCH = 1000


MANY: dict[str, Any] = {"max_jobs": 500, "keep_completed": None}
NO_EVENTS: dict[str, Any] = {"max_events": 0}
NO_STATISTICS: dict[str, Any] = {"statistics": False}
SETUPS: dict[str, dict[str, Any]] = {
    "off": {**MANY, **NO_EVENTS, **NO_STATISTICS},
    "events": {**MANY, **NO_STATISTICS},
    "statistics": {**MANY, **NO_EVENTS},
    "on": MANY,
}


def cost(url: str, jobs: int, repeats: int) -> dict[str, Any]:
    """Give what each setup reaches and uses, and what part of the setup without any that is."""
    found: dict[str, dict[str, list[float]]] = {}
    for repeat in range(repeats):
        for name in SETUPS if repeat % 2 == 0 else reversed(SETUPS):
            for figure, value in _run(url, name, jobs).items():
                found.setdefault(figure, {}).setdefault(name, []).append(value)
    return {
        figure: {name: _shown(rates[name], rates["off"], min if "CPU" in figure else max) for name in SETUPS}
        for figure, rates in found.items()
    }


def _run(url: str, name: str, jobs: int) -> dict[str, float]:
    with redis.Redis.from_url(url) as client, Site(BY_NAME["arqd"], Path(), url) as site:
        client.flushall()
        done = Bench(site, url, client).drain(SETUPS[name], jobs)
    many, one = uvloop.run(_enqueue_rates(url, SETUPS[name], jobs))
    return {
        "drained jobs/s": done["jobs/s"],
        "worker CPU µs a job": done.get("worker CPU µs", 0.0),
        "server CPU µs a job": done["server CPU µs"],
        f"enqueued jobs/s, {BATCH} a call": many,
        "enqueued jobs/s, one a call": one,
    }


def _shown(values: list[float], base: list[float], best: Callable[[list[float]], float]) -> dict[str, Any]:
    """Medians, and the best of all runs: others on the machine make a figure worse, never better."""
    ratios = sorted(value / other if other else 0.0 for value, other in zip(values, base, strict=True))
    return {
        "median": statistics.median(values),
        "ratio to off": statistics.median(ratios),
        "of medians": statistics.median(values) / (statistics.median(base) or 1.0),
        "best": best(values),
        "of the best": best(values) / (best(base) or 1.0),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


async def _enqueue_rates(url: str, setup: dict[str, Any], jobs: int) -> tuple[float, float]:
    async with Producer.connect(url) as producer:
        await producer.redis.flushall()
        conf = {"events": setup.get("max_events", 2_000_000), "statistics": int(setup.get("statistics", True))}
        await producer.redis.hset(KEYS.key("conf"), mapping=conf)
        rates = []
        for batch, count in ((BATCH, jobs), (1, jobs // 20)):
            begin = time.perf_counter()
            for _ in range(count // batch):
                await producer.enqueue_many("noop", [{"user": 1, "name": "Ada"}] * batch, family=KEYS.family)
            rates.append(count / (time.perf_counter() - begin))
        return rates[0], rates[1]


class _Past:
    """The session of a worker of one family whose clock is moved on."""

    def __init__(self, client: Any, family: str, seed: int) -> None:
        self.keys = FamilyKeys.of(family)
        self.broker = Broker(client, self.keys, START)
        self._random = random.Random(seed)  # noqa: S311
        self._n = 0

    def _outcomes(self, functions: Sequence[str], jobs: int) -> list[Outcome]:
        """What the tries of a minute leave: run times and waits spread as real ones are, one in fifty tried again."""
        draw = self._random.lognormvariate
        return [
            Outcome(
                "r" if number % 50 == 0 else "c", b"", 0, "",
                share=(function, int(draw(math.log(20_000), 1)), int(draw(math.log(150_000), 0.8))),
            )
            for function in functions for number in range(jobs)
        ]  # fmt: skip

    async def minute(self, jobs: int, settings: TickSettings) -> None:
        """One busy minute."""
        if self._n == 0:
            await self.broker.sync("a" * 16, 1, 30_000, b"{}", 5, None, None, [])
            self._n = 1
        self._n += 1
        sums = sum_up(self._outcomes(FUNCTIONS, jobs), {})
        await self.broker.tick("a" * 16, self._n, 0, False, settings, [], statistics=sums)
        assert self.broker.now is not None
        self.broker.now += MINUTE


async def memory(url: str, days: int, families: int) -> dict[str, Any]:
    """Give what so many days of statistics take on the server, and how long reading them takes."""
    client = connect(url, timeout=60)
    await client.flushall()
    settings = TickSettings(30_000, 300_000, 3, -1, -1, 0)
    before = (await client.info("memory"))["used_memory"]
    for number in range(families):
        past = _Past(client, f"family{number}", number)
        for minute in range(days * 1440):
            await past.minute(JOBS_A_MINUTE, settings)
            if (old := minute - 25 * 60) >= 0:
                await client.unlink(past.keys.key("stats", "m", str(START // MINUTE + old)))
    used = (await client.info("memory"))["used_memory"] - before
    keys: dict[str, list[int]] = {"m": [], "h": []}
    for step, sizes in keys.items():
        async for key in client.scan_iter(match=f"*:stats:{step}:*", count=1000):
            sizes.append(await client.memory_usage(key))
    found = {
        "families": families,
        "functions each": len(FUNCTIONS),
        "days": days,
        "memory of the server": used,
        "per family": used // families,
        **{
            f"{name} keys": {"count": len(keys[step]), "mean bytes": statistics.mean(keys[step])}
            for step, name in (("m", "minute"), ("h", "hour"))
        },
    }
    await client.aclose()
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observing")
    parser.add_argument("what", nargs="?", choices=("cost", "memory"))
    parser.add_argument("--quick", action="store_true", help="small sizes: seconds, and figures that mean little")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    options = parser.parse_args(arguments)
    jobs, repeats, days, families = (
        (2000, 1, 1, 1) if options.quick else (options.jobs, options.repeats, 14, FAMILIES)
    )  # fmt: skip
    found: dict[str, Any] = {}
    with measured_server() as (url, _):
        if options.what in (None, "cost"):
            found["cost"] = cost(url, jobs, repeats)
        if options.what in (None, "memory"):
            found["memory"] = asyncio.run(memory(url, days, families))
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
