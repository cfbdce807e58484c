"""Searches in many dead letters: ``python -m benchmarks.search_at_size [failed]``.

How fast the index is built, its memory, how long each kind of search takes (pages of 50), the longest script call,
and how late the index is while jobs go on failing. docs/search.md has a run.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from typing import Any

from benchmarks.arqd import NAME
from benchmarks.server import measured_server
from daemon import codec
from daemon.broker import Broker, Outcome, TickSettings
from daemon.causes import cause_of
from daemon.connecting.connections import connect
from daemon.control import Control
from daemon.errors import JobFailed
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.keys import FamilyKeys
from daemon.pages import JobFilter, JobPage
from daemon.producing.options import JobOptions, new_job
from daemon.records import split_record
from daemon.search.indexer import LOOK_SECONDS, FamilyIndexer, publish, view

KEYS = FamilyKeys.of(NAME)
SESSION = "0123456789abcdef"
TICK = TickSettings(600_000, 300_000, 3, -1, -1, 0)
LIMIT = 128_000_000
CHUNK = 128
SEED = 5
FUNCTIONS = ("send_email", "resize_image", "charge_card", "sync_customer", "export_report")
ERRORS = (
    ("TimeoutError", "no answer from {host} within 30 s"),
    ("SMTPRecipientsRefused", "550 mailbox {name} unavailable"),
    ("ValueError", "amount {number} is not positive"),
    ("ConnectionResetError", "connection to {host} was reset by peer"),
)


class Failing:
    """Makes dead letters, as producers and a worker would, and knows what stands in them."""

    def __init__(self, redis: Any) -> None:
        self._broker = Broker(redis, KEYS)
        self._random = random.Random(SEED)  # noqa: S311
        self._n = 1
        self.made = 0

    async def register(self) -> None:
        """Register as a worker."""
        await self._broker.sync(SESSION, self._n, 600_000, b"{}", 5, None, None, ())

    async def fail(self, count: int) -> None:
        """Enqueue so many jobs, at most 128, and let them fail."""
        jobs = []
        for number in range(self.made, self.made + count):
            options: JobOptions = {"tags": [f"customer-{self._random.randrange(2000)}"]}
            name = f"{self._random.randrange(50_000):x}"
            payload = {"to": f"{name}@example.com", "order": number, "note": self._note()}
            function = self._random.choice(FUNCTIONS)
            jobs.append(new_job(KEYS, function, b"[" + codec.encode(payload) + b"]", 5, options))
        self.made += count
        await self._broker.enqueue(jobs)
        claims = (await self._tick(count, [])).claims
        outcomes = []
        for claim in claims:
            record = split_record(claim.record or b"")
            kind, message = self._random.choice(ERRORS)
            host, name = f"mx{self._random.randrange(500)}.example.net", f"{self._random.randrange(50_000):x}"
            message = message.format(host=host, name=name, number=-self._random.randrange(10**6))
            error = JobFailed(kind, message, "x" * 1000)
            ended = codec.Ended(
                claim.id.decode(), record.function, KEYS.queue, 1, record.stamp, record.stamp, record.stamp
            )
            result = codec.encode_result(ended, False, codec.encode(codec.describe_error(error, "tries")), record.body)
            cause = b"\n" + cause_of(error, NAME, record.function).line(record.function)
            outcomes.append(
                Outcome("b", claim.id, self._n, str(record.stamp), result, 86_400_000, cause, score=claim.score)
            )
        await self._tick(0, outcomes)

    def _note(self) -> str:
        return " ".join(f"word{self._random.randrange(5000)}" for _ in range(5))

    async def _tick(self, wanted: int, outcomes: list[Outcome]) -> Any:
        self._n += 1
        return await self._broker.tick(SESSION, self._n, wanted, False, TICK, outcomes)


def percentile(times: list[float], part: float) -> float:
    """A percentile in ms."""
    return sorted(times)[min(len(times) - 1, int(len(times) * part))] * 1000


async def processor(redis: Any) -> tuple[float, float]:
    """Processor time used up to now in ms, of this process and of the server."""
    used = await redis.info("cpu")
    return time.process_time() * 1000, (used["used_cpu_user"] + used["used_cpu_sys"]) * 1000


async def searches(redis: Any, made: int) -> None:
    """Every kind of search, many times with other words."""
    inspector, draw = Inspector(redis, [NAME]), random.Random(SEED + 1)  # noqa: S311
    some = [info.id.partition(":")[2] for info in await inspector.jobs(NAME, JobState.FAILED, limit=500)]
    kinds: dict[str, Any] = {
        "one job's word (order number)": lambda: JobFilter(text=str(draw.randrange(made))),
        "a rare word (customer)": lambda: JobFilter(text=f"customer {draw.randrange(2000)}"),
        "two words, some jobs": lambda: JobFilter(text=f"timeouterror mx{draw.randrange(500)}"),
        "three words, few jobs": lambda: JobFilter(text=f"reset word{draw.randrange(5000)} word{draw.randrange(5000)}"),
        "words of every job": lambda: JobFilter(text="example com"),
        "words of a quarter, never together": lambda: JobFilter(text="timeouterror valueerror"),
        "a word no job has": lambda: JobFilter(text=f"nowhere{draw.randrange(5000)}"),
        "beginning of an id": lambda: JobFilter(text=draw.choice(some)[:13] + "*"),
        "rare word and function": lambda: JobFilter(function="charge_card", text=f"word{draw.randrange(5000)}"),
        "rare word and tag": lambda: JobFilter(tag=f"customer-{draw.randrange(2000)}", text="reset"),
    }
    every: list[float] = []
    print(f"\n{'':40}{'p50 ms':>9}{'p95 ms':>9}{'max ms':>9}{'cpu here':>10}{'server':>8}{'jobs':>8}{'more':>7}")
    for what, where in kinds.items():
        times, found, more = list[float](), 0, 0
        here, server = await processor(redis)
        for _ in range(100):
            began = time.perf_counter()
            page = await inspector.jobs(NAME, JobState.FAILED, where=where())
            times.append(time.perf_counter() - began)
            found, more = found + len(page), more + (page.cursor is not None)
        every += times
        spent = [(after - before) / 100 for after, before in zip(await processor(redis), (here, server), strict=True)]
        print(
            f"{what:40}{percentile(times, 0.5):9.1f}{percentile(times, 0.95):9.1f}{max(times) * 1000:9.1f}"
            f"{spent[0]:10.1f}{spent[1]:8.1f}{found / 100:8.1f}{more:6}%",
            flush=True,
        )
    print(f"{'all':40}{percentile(every, 0.5):9.1f}{percentile(every, 0.95):9.1f}{max(every) * 1000:9.1f}")
    times = []
    cursor = None
    while True:
        began = time.perf_counter()
        page = await inspector.jobs(NAME, JobState.FAILED, cursor=cursor, where=JobFilter(text="reset word7"))
        times.append(time.perf_counter() - began)
        cursor = page.cursor
        if cursor is None:
            break
    print(f"{'a walk over all, pages of 50':40}{percentile(times, 0.5):9.1f}{percentile(times, 0.95):9.1f}"
          f"{max(times) * 1000:9.1f}{len(times):8} pages")  # fmt: skip


async def lag(redis: Any, indexer: FamilyIndexer, failing: Failing, seconds: float = 20, rate: int = 200) -> None:
    """How long after its end a job is found, while jobs go on failing."""

    async def follow() -> None:
        while True:
            while await indexer.step():
                pass
            await asyncio.sleep(LOOK_SECONDS)

    inspector, following = Inspector(redis, [NAME]), asyncio.create_task(follow())
    late: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number = failing.made
        await failing.fail(rate // 4)
        began, page = time.perf_counter(), JobPage([], None)
        while not page:
            await asyncio.sleep(0.01)
            page = await inspector.jobs(NAME, JobState.FAILED, where=JobFilter(text=str(number)))
        late.append(time.perf_counter() - began)
        await asyncio.sleep(max(0.0, 0.25 - late[-1]))
    following.cancel()
    print(f"\nfound after its end, {len(late)} jobs: p50 {percentile(late, 0.5):.0f} ms, max {max(late) * 1000:.0f} ms")


async def run(url: str, count: int) -> None:
    """Fill a queue and measure."""
    redis = connect(url, timeout=60)
    await redis.config_set("slowlog-log-slower-than", 1000)
    await redis.config_set("slowlog-max-len", 10_000)
    failing = Failing(redis)
    await failing.register()
    while failing.made < count:
        await failing.fail(min(CHUNK, count - failing.made))
    await publish(redis, KEYS, "payload", LIMIT)
    await redis.slowlog_reset()
    indexer = FamilyIndexer(redis, KEYS)
    began = time.perf_counter()
    while await indexer.step():
        pass
    took = time.perf_counter() - began
    memory = sum([await redis.memory_usage(key, samples=0) for key in await redis.keys(KEYS.key("search*"))])
    seen = await view(indexer.broker)
    jobs = sum(segment.live for segment in seen.segments.values())
    print(f"{count:,} failed jobs, {jobs:,} indexed in {took:.1f} s ({jobs / took:,.0f} a second)")
    print(f"memory {memory / 1e6:.1f} MB ({memory / jobs:.0f} bytes a job), by its own count {seen.bytes / 1e6:.1f} MB")
    await _slowest(redis, "while it was built")
    await searches(redis, count)
    await _slowest(redis, "of the searches")
    await lag(redis, indexer, failing)
    await Control(redis, [NAME]).clear(NAME)
    await redis.aclose()


async def _slowest(redis: Any, when: str) -> None:
    slow = [entry["duration"] for entry in await redis.slowlog_get(10_000) if entry["command"].startswith(b"EVAL")]
    print(f"longest script call {when}: {max(slow, default=0) / 1000:.1f} ms")
    await redis.slowlog_reset()


if __name__ == "__main__":
    with measured_server() as (server, what):
        print(f"{what}; Python {sys.version.split()[0]}")
        asyncio.run(run(server, int(sys.argv[1]) if len(sys.argv) > 1 else 300_000))
