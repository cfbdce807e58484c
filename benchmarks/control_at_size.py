"""Lists and actions on a large queue: ``python -m benchmarks.control_at_size [waiting [failed]]``.

For each: its result, how many script calls it made, how long the caller waited, and the longest script
call by the server's own SLOWLOG. docs/control.md has a run.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.arqd import NAME
from benchmarks.server import measured_server
from daemon import codec
from daemon.broker import Broker, Outcome, TickSettings
from daemon.connecting.connections import connect
from daemon.control import Control
from daemon.errors import JobFailed
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.keys import FamilyKeys
from daemon.pages import EVERY, JobFilter
from daemon.producing.options import JobOptions, new_job
from daemon.records import split_record

KEYS = FamilyKeys.of(NAME)
SESSION = "0123456789abcdef"
TICK = TickSettings(600_000, 300_000, 3, -1, -1, 0)
DELAYED = 10_000
CHUNK = 10_000


async def fill(redis: Any, count: int, *, delay: float = 0, start: int = 0) -> None:
    """Enqueue jobs; one in a thousand is of another function, one in a hundred has a tag, all come due at one time."""
    broker = Broker(redis, KEYS)
    for chunk in range(0, count, CHUNK):
        jobs = []
        for number in range(start + chunk, start + min(chunk + CHUNK, count)):
            options: JobOptions = {"delay": delay} if delay else {}
            if number % 100 == 0:
                options["tags"] = ["customer-7"]
            args = b"[" + codec.encode({"user": number, "name": "Ada", "text": "x" * 100}) + b"]"
            jobs.append(new_job(KEYS, "rare" if number % 1000 == 0 else "usual", args, 1 + number % 10, options))
        await broker.enqueue(jobs)


async def fail(redis: Any, count: int) -> None:
    """Make dead letters, as a worker would."""
    broker = Broker(redis, KEYS)
    await fill(redis, count)
    await broker.sync(SESSION, 1, 600_000, b"{}", 5, None, None, ())
    n, outcomes = 2, list[Outcome]()
    while n == 2 or outcomes:
        reply = await broker.tick(SESSION, n, 128, False, TICK, outcomes)
        outcomes = []
        for i, claim in enumerate(reply.claims):
            record = split_record(claim.record or b"")
            error = JobFailed("TimeoutError" if i % 2 else "ValueError", "it did not work", "x" * 1000)
            ended = codec.Ended(claim.id.decode(), record.function, KEYS.queue, 1, record.stamp, reply.now, reply.now)
            result = codec.encode_result(ended, False, codec.encode(codec.describe_error(error, "tries")), record.body)
            line = codec.encode({"at": reply.now, "try": 1, "type": error.type, "message": error.message})
            outcomes.append(
                Outcome("b", claim.id, n, str(record.stamp), result, 86_400_000, line, score=claim.score)
            )  # fmt: skip
        n += 1
    await broker.sync(SESSION, n, 600_000, b"{}", 5, None, None, (), leave=True)


class Meter:
    """Runs things and prints a row for each."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self.worst = 0.0
        print(f"{'':44}{'result':>10}{'calls':>8}{'total ms':>11}{'script ms':>11}")

    async def row(self, what: str, act: Callable[[], Awaitable[Any]]) -> Any:
        """Run it; the result's size, the calls of scripts, the time of all, the longest call of a script."""
        await self._redis.slowlog_reset()
        before = await self._calls()
        began = time.perf_counter()
        result = await act()
        took = time.perf_counter() - began
        calls = await self._calls() - before
        slow = [
            entry["duration"]
            for entry in await self._redis.slowlog_get(100_000)
            if entry["command"].upper().startswith(b"EVAL")
        ]
        longest = max(slow, default=0) / 1000
        self.worst = max(self.worst, longest)
        told = len(result) if isinstance(result, list | dict) else result if isinstance(result, int) else ""
        told = f"{told:,}" if isinstance(told, int) else told
        print(f"{what:44}{told:>10}{calls:8,}{took * 1000:11,.1f}{longest:11.2f}", flush=True)
        return result

    async def _calls(self) -> int:
        stats = await self._redis.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


async def lists(meter: Meter, inspector: Inspector) -> float:
    """Every kind of list; gives the longest one in seconds."""
    longest = worst = 0.0

    async def timed(state: JobState, where: JobFilter = EVERY, limit: int = 50, cursor: str | None = None) -> Any:
        nonlocal longest, worst
        began = time.perf_counter()
        page = await inspector.jobs(NAME, state, limit=limit, cursor=cursor, where=where)
        longest = max(longest, time.perf_counter() - began)
        worst = max(worst, longest)
        return page

    async def walk(state: JobState, where: JobFilter = EVERY, limit: int = 500) -> int:
        """Read the whole list; gives how many there were."""
        count, cursor = 0, None
        while True:
            page = await timed(state, where, limit, cursor)
            count, cursor = count + len(page), page.cursor
            if cursor is None:
                return count

    for state in (JobState.WAITING, JobState.DELAYED, JobState.FAILED):
        for limit in (50, 500):
            await meter.row(f"list {state}, {limit}", lambda s=state, n=limit: timed(s, limit=n))  # type: ignore[misc]
    filters = {
        "function": JobFilter(function="rare"),
        "tag": JobFilter(tag="customer-7"),
        "error": JobFilter(error="ValueError"),
        "function, none": JobFilter(function="never"),
    }
    for name, where in filters.items():
        for state in (JobState.WAITING, JobState.FAILED):
            if where.error is None or state is JobState.FAILED:
                await meter.row(f"list {state} by {name}, 50", lambda s=state, w=where: timed(s, w))  # type: ignore[misc]
    for state, where in ((JobState.WAITING, EVERY), (JobState.FAILED, EVERY), (JobState.WAITING, filters["function"])):
        longest = 0.0
        what = f"walk {state}" + ("" if where is EVERY else " by function") + ", pages of 50"
        await meter.row(what, lambda s=state, w=where: walk(s, w, 50))  # type: ignore[misc]
        print(f"{'  longest page, ms':44}{longest * 1000:40.1f}")
    return worst


async def actions(meter: Meter, control: Control) -> None:
    """Every action, the destructive ones last."""
    inspector = control.inspector

    async def ids(state: JobState, count: int = 500) -> list[str]:
        return [info.id for info in await inspector.jobs(NAME, state, limit=count)]

    await meter.row("queue", lambda: inspector.queue(NAME))
    await meter.row("pause", lambda: control.pause(NAME))
    await meter.row("resume", lambda: control.resume(NAME))
    delayed, waiting, failed = await ids(JobState.DELAYED), await ids(JobState.WAITING), await ids(JobState.FAILED)
    await meter.row("promote 500", lambda: control.promote(delayed))
    await meter.row("priority of 500", lambda: control.set_priority(waiting, 10))
    await meter.row("abort 100", lambda: control.abort(waiting[:100]))
    await meter.row("remove 400", lambda: control.remove(waiting[100:]))
    await meter.row("retry 500", lambda: control.retry(failed))
    rare, timeouts = JobFilter(function="rare"), JobFilter(error="TimeoutError")
    await meter.row("retry by function, dry run", lambda: control.retry_all(NAME, rare, dry_run=True))
    await meter.row("retry by function", lambda: control.retry_all(NAME, rare))
    await meter.row("clean failed, 10,000", lambda: control.clean(NAME, "failed", count=10_000))
    await meter.row("retry by error", lambda: control.retry_all(NAME, timeouts))
    await meter.row("retry all", lambda: control.retry_all(NAME))
    await meter.row("drain, dry run", lambda: control.drain(NAME, dry_run=True))
    await meter.row("drain", lambda: control.drain(NAME))
    await meter.row("clear", lambda: control.clear(NAME))


async def run(url: str, waiting: int, failed: int) -> None:
    """Fill a queue and measure."""
    redis = connect(url, timeout=60)
    await redis.config_set("slowlog-log-slower-than", 100)
    await redis.config_set("slowlog-max-len", 100_000)
    await fail(redis, failed)
    await fill(redis, waiting, start=failed)
    await fill(redis, DELAYED, delay=86_400)
    stats = await Inspector(redis, [NAME]).queue(NAME)
    print(f"{stats.waiting:,} waiting, {stats.failed:,} failed, {stats.delayed:,} delayed (all due at one time)\n")
    meter = Meter(redis)
    longest = await lists(meter, Inspector(redis, [NAME]))
    await actions(meter, Control(redis, [NAME]))
    print(f"\nlongest page {longest * 1000:.1f} ms, longest script call {meter.worst:.1f} ms")
    await redis.aclose()


if __name__ == "__main__":
    sizes = [int(word) for word in sys.argv[1:]] + [500_000, 50_000][len(sys.argv) - 1 :]
    with measured_server() as (server, what):
        print(f"{what}; Python {sys.version.split()[0]}")
        asyncio.run(run(server, *sizes))
