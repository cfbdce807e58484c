"""What limits and fair turns cost, and whether they hold: ``python -m benchmarks.limits``.

Every worker is a process of its own (``python -m benchmarks.limits <setup>``) on a server of this run's own. Setups
take turns, and what ran side by side is compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
import uvloop

from benchmarks.arqd import KEYS, NAME, Started, Tuned, noop
from benchmarks.driver import URL_VARIABLE
from benchmarks.measure import quantile
from benchmarks.processes import Program
from benchmarks.server import measured_server
from daemon import codec
from daemon.broker import Broker, NewJob
from daemon.context import JobContext
from daemon.errors import ArqdError
from daemon.family import FamilySettings, RateLimit, load_family
from daemon.inspecting.job_info import HELD
from daemon.lua import SCRIPTS
from daemon.producer import Producer
from daemon.producing.batches import pack_jobs
from daemon.producing.options import JobOptions, new_job
from daemon.supervisor import Supervisor

STARTS = f"{{{NAME}}}:starts"
BATCH = 500
POLL_SECONDS = 0.005
STUCK_SECONDS = 60.0
BINDING = 30
MANY, USUAL_GROUPS = 10_000, 100


async def stamp(ctx: JobContext) -> None:
    """Note by Redis's clock when it was claimed (ms) and when its handler ran (microseconds)."""
    seconds, microseconds = await ctx.redis.time()
    claimed = await ctx.redis.zscore(KEYS.queue, ctx.job_id)
    await ctx.redis.rpush(STARTS, f"{claimed - HELD:.0f} {seconds * 1_000_000 + microseconds}")


class _Rate(Tuned):
    rate_limit = RateLimit(1_000_000)


class _Global(Tuned):
    global_limit = 100_000


class _Group(Tuned):
    group_limit = 10_000


class _Together(_Rate, _Global, _Group):
    pass


class _Binding(FamilySettings):
    family = NAME
    functions = (stamp,)
    rate_limit = RateLimit(BINDING)


SETUPS: dict[str, type[FamilySettings]] = {
    "none": Tuned,
    "rate": _Rate,
    "global": _Global,
    "group": _Group,
    "together": _Together,
    "binding": _Binding,
}
#: What is drained: name, the worker's setup, number of groups (0: jobs have none).
COSTS = (
    ("none", "none", 0),
    ("rate limit", "rate", 0),
    ("global limit", "global", 0),
    ("fair turns", "none", USUAL_GROUPS),
    ("group limit", "group", USUAL_GROUPS),
    ("together", "together", USUAL_GROUPS),
)


def _worker(setup: str, url: str) -> Program:
    return Program(f"worker ({setup})", (sys.executable, "-m", "benchmarks.limits", setup), {URL_VARIABLE: url})


def _fill(client: redis.Redis, count: int, groups: int) -> None:
    """Add jobs that do nothing, the groups in turn."""
    broker = Broker(None, KEYS)
    for start in range(0, count, BATCH):
        jobs: list[NewJob] = []
        for number in range(start, min(start + BATCH, count)):
            options: JobOptions = {"group": f"group {number % groups}"} if groups else {}
            args = b"[" + codec.encode({"user": number, "name": "Ada"}) + b"]"
            jobs.append(new_job(KEYS, noop.__name__, args, 5, options))
        _call(client, broker.call("enqueue", 0, *pack_jobs(jobs)))


def _call(client: Any, command: tuple[Any, ...]) -> None:
    client.execute_command(*command)


def _load(client: redis.Redis) -> None:
    client.flushall()
    client.script_load(SCRIPTS["enqueue"].text)


def drain_rate(url: str, setup: str, jobs: int, groups: int) -> float:
    """Give jobs a second of one worker between a tenth and nine tenths of a backlog.

    Raises:
        ArqdError: when the worker ends or does nothing.
    """
    with redis.Redis.from_url(url) as client:
        _load(client)
        _fill(client, jobs, groups)
        at: list[tuple[float, int]] = []
        with _worker(setup, url) as worker:
            for left in (jobs * 9 // 10, jobs // 10):
                at.append(_wait(client, worker, left))
    (begin, first), (end, last) = at
    return (first - last) / (end - begin)


def _wait(client: redis.Redis, worker: Program, left: int) -> tuple[float, int]:
    deadline = time.monotonic() + STUCK_SECONDS
    while True:
        count: Any = client.zcard(KEYS.queue)
        if count <= left:
            return time.monotonic(), count
        worker.check()
        if time.monotonic() > deadline:
            raise ArqdError(f"{count} jobs are left after {STUCK_SECONDS:g} s")
        time.sleep(POLL_SECONDS)


async def start_times(url: str, backlog: int, groups: bool, rounds: int) -> list[float]:
    """Give the seconds from hand-over to start of ten jobs of group B at a time, with so many of A waiting."""
    with redis.Redis.from_url(url) as client:
        _load(client)
        for _ in range(backlog // 10_000):
            _fill(client, 10_000, 1 if groups else 0)
        left: Any = client.zcard(KEYS.queue)
        with _worker("none", url) as worker:
            async with Producer.connect(url) as producer:
                # The worker is there, and busy if it can be.
                await (await producer.enqueue(Started(), priority=1)).result(STUCK_SECONDS)
                _wait(client, worker, max(left - 1000, 0))
                sent: list[tuple[int, Any]] = []
                options: JobOptions = {"group": "B"} if groups else {}
                for _ in range(rounds):
                    now = time.monotonic_ns()
                    sent += [(now, job) for job in await producer.enqueue_many([Started()] * 10, **options)]
                    await asyncio.sleep(0.05)
                waiting: Any = client.zcard(KEYS.queue)
                if backlog and groups and waiting < backlog // 10:
                    raise ArqdError(f"the backlog was used up ({waiting} left): ask for fewer rounds")
                return [(await job.result(STUCK_SECONDS) - now) / 1e9 for now, job in sent]


def binding_rate(url: str, seconds: int) -> dict[str, float]:
    """Run three workers on a limit of 30 a second; starts a second, and the most in any one second."""
    with redis.Redis.from_url(url) as client:
        _load(client)
        jobs: list[NewJob] = []
        for _ in range(BINDING * (seconds + 3)):
            jobs.append(new_job(KEYS, stamp.__name__, b"[]", 5, {}))
        _call(client, Broker(None, KEYS).call("enqueue", 0, *pack_jobs(jobs)))
        with ExitStack() as stack:
            workers = [stack.enter_context(_worker("binding", url)) for _ in range(3)]
            _wait(client, workers[0], BINDING)
        lines: Any = client.lrange(STARTS, 0, -1)
        client.flushall()
    claimed, ran = ([int(line.split()[i]) * (1000, 1)[i] for line in lines] for i in (0, 1))
    claimed.sort()
    starts = BINDING * seconds
    return {
        "a second": starts / (claimed[starts] - claimed[0]) * 1_000_000,
        "most claims in a second": _most(claimed, 1_000_000 - 1000),
        "most handlers in a second": _most(sorted(ran), 1_000_000),
    }


def _most(times: Sequence[int], window: int) -> int:
    """The most of these sorted times in any window; claims are known to the millisecond only."""
    most = first = 0
    for last, at in enumerate(times):
        while at - times[first] >= window:
            first += 1
        most = max(most, last - first + 1)
    return most


def measure(url: str, *, jobs: int, backlog: int, repeats: int, seconds: int, only: str | None) -> dict[str, Any]:
    """Measure everything, or one part of it."""
    found: dict[str, Any] = {}
    if only in (None, "cost"):
        rates: dict[str, list[float]] = {name: [] for name, _, _ in COSTS}
        for repeat in range(repeats):
            for name, setup, groups in COSTS if repeat % 2 == 0 else COSTS[::-1]:
                rates[name].append(drain_rate(url, setup, jobs, groups))
        found["jobs/s"] = {name: statistics.median(values) for name, values in rates.items()}
        found["ratio to none"] = {name: _ratio(values, rates["none"]) for name, values in rates.items()}
    if only in (None, "groups"):
        many: dict[int, list[float]] = {0: [], MANY: []}
        for repeat in range(repeats):
            for groups in (0, MANY) if repeat % 2 == 0 else (MANY, 0):
                many[groups].append(drain_rate(url, "none", backlog, groups))
        found[f"{backlog:,} jobs of {MANY:,} groups, ratio to none"] = _ratio(many[MANY], many[0])
    if only in (None, "fair"):
        rounds = min(40, backlog // 2500)
        cases = {"empty queue": (0, True, rounds), f"{backlog:,} of A": (backlog, True, rounds),
                 f"{backlog:,} before it, no groups": (backlog, False, 1)}  # fmt: skip
        starts: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(repeats):
            for name, (waiting, grouped, arrivals) in cases.items():
                starts[name] += uvloop.run(start_times(url, waiting, grouped, arrivals))
        found["start of B, ms"] = {
            name: {f"p{percent}": quantile(times, percent) * 1000 for percent in (50, 95)}
            for name, times in starts.items()
        }
    if only in (None, "binding"):
        found[f"limit of {BINDING}/s, three workers, {seconds} s"] = binding_rate(url, seconds)
    return found


def _ratio(values: Iterable[float], base: Iterable[float]) -> float:
    return statistics.median(value / other for value, other in zip(values, base, strict=True))


async def _work(settings: type[FamilySettings]) -> None:
    await Supervisor([load_family(settings)], os.environ[URL_VARIABLE]).run()


def main(arguments: Sequence[str]) -> int:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits")
    parser.add_argument("--quick", action="store_true", help="small sizes: seconds, and figures that mean little")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("cost", "groups", "fair", "binding"))
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    options = parser.parse_args(arguments)
    sizes = {"jobs": 5000, "backlog": 20_000, "repeats": 1, "seconds": 3} if options.quick else {
        "jobs": 50_000, "backlog": 100_000, "repeats": options.repeats, "seconds": 20}  # fmt: skip
    with measured_server() as (url, _):
        found = measure(url, **sizes, only=options.only)
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    if sys.argv[1:] and sys.argv[1] in SETUPS:
        uvloop.run(_work(SETUPS[sys.argv[1]]))
    else:
        sys.exit(main(sys.argv[1:]))
