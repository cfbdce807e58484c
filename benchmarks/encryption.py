"""What encryption costs: ``python -m benchmarks.encryption``.

The same payload three ways: in clear, with one marked field, in an encrypted family. Measured is what a producer does
to write a job and what a worker does to read it and to write its result, without Redis; the best of several rounds,
since other work on the machine only ever adds to it. ``--worker`` also works jobs off on a server of this run's own.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.server import measured_server
from daemon import codec
from daemon.context import JobContext
from daemon.encryption import JobCipher, KeyRing, generate_key
from daemon.family import Family, FamilySettings, func, load_family
from daemon.job import new_id
from daemon.payload import Payload
from daemon.producer import Producer
from daemon.records import header
from daemon.running.dialect import ArqdDialect
from daemon.secret import Secret
from daemon.supervisor import Supervisor

RING = KeyRing.parse(generate_key("bench"))
TEXT = "A small mail, as many a queue carries thousands of. " * 4


class Clear(Payload, family="clear", function="work"):
    to: str
    text: str


class Marked(Payload, family="marked", function="work"):
    to: Secret[str]
    text: str


class Whole(Payload, family="whole", function="work", encrypted=True):
    to: str
    text: str


PAYLOADS: tuple[type[Clear] | type[Marked] | type[Whole], ...] = (Clear, Marked, Whole)


def family_of(payload: type[Payload]) -> Family:
    """A family whose handler gives back a short text."""

    async def work(ctx: JobContext, job: Any) -> str:
        return "sent"

    work.__annotations__["job"] = payload
    spec = payload.__job__
    values = {"family": spec.family, "functions": [func(work, name="work")], "encrypted": spec.encrypted}
    return load_family(type("WorkerSettings", (FamilySettings,), values | {"max_jobs": 100}))


def best(call: Callable[[], Any], rounds: int) -> float:
    """Microseconds a call takes, in the best of several rounds."""
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(500):
            call()
        found.append((time.perf_counter() - started) / 500 * 1e6)
    return min(found)


def in_process(payload: type[Payload], rounds: int) -> tuple[float, float, int, int]:
    """Give the µs of the producer and of the worker, and the bytes of the record and of the result."""
    keyless = payload is Clear
    producer, family = Producer(None, keyring=None if keyless else RING), family_of(payload)
    dialect = ArqdDialect(family, None if keyless else RING)
    job = payload.model_validate({"to": "ada@example.com", "text": TEXT})
    _, made, _ = producer._prepare(job, None, None, {})
    raw = header(5, 1763775600000) + made.tail
    ended = codec.Ended(made.id, "work", family.keys.queue, 1, 1, 1, 1)

    def work() -> bytes:
        cipher = None if keyless else JobCipher(RING, family.name, made.id, payload.__job__.encrypted)
        entry = dialect.read(raw)
        dialect.bind(entry, cipher)
        return dialect.result(ended, entry, "sent", cipher)

    written = best(lambda: producer._prepare(job, None, None, {}), rounds)
    return written, best(work, rounds), len(raw), len(work())


async def worked_off(url: str, payload: type[Payload], count: int) -> float:
    """Give the worker's processor µs for each job of a queue that it works off, claims and settling included."""
    async with Producer.connect(url, keyring=RING) as producer:
        await producer.redis.flushdb()
        jobs = [payload.model_validate({"to": f"{new_id()}@example.com", "text": TEXT}) for _ in range(count)]
        await producer.enqueue_many(jobs)
    keyring = None if payload is Clear else RING
    supervisor = Supervisor([family_of(payload)], url, burst=True, handle_signals=False, keyring=keyring)
    started = time.process_time()
    await supervisor.run()
    return (time.process_time() - started) / count * 1e6


def main(arguments: Sequence[str]) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encryption", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--worker", type=int, default=0, metavar="JOBS", help="also work so many jobs off")
    options = parser.parse_args(arguments)
    print("                producer µs  worker µs  record bytes  result bytes")
    for payload in PAYLOADS:
        written, read, record, result = in_process(payload, options.rounds)
        print(f"{payload.__job__.family:<14}  {written:11.1f}  {read:9.1f}  {record:12}  {result:12}")
    if options.worker:
        with measured_server() as (url, _):
            for payload in PAYLOADS:
                found = [asyncio.run(worked_off(url, payload, options.worker)) for _ in range(3)]
                name = payload.__job__.family
                print(f"{name:<14}  {statistics.median(found):6.1f} µs of the worker's processor for each job")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
