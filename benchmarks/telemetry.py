"""What metrics and traces cost a worker: ``python -m benchmarks.telemetry [--jobs N] [--repeats N]``.

A process of its own works off jobs that do nothing, without metrics (what counts them is taken out), with them and the
heartbeat file, and with traces besides, of which one in a hundred is kept; the three take turns, and each is compared
with the run without anything of the same turn. From the thousandth job to the last the worker's processor time is
taken, which others on the machine hardly change, and by it the jobs a second that one core would work off.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.server import measured_server
from daemon.context import JobContext
from daemon.family import Family, FamilySettings, func, load_family
from daemon.metrics import FamilyMetrics
from daemon.producer import Producer
from daemon.supervisor import Supervisor

SETUPS = ("bare", "metrics", "traces")
SAMPLE = 0.01
#: Jobs before the time is taken.
WARM = 1000
BATCH = 1000


def measure(url: str, jobs: int, repeats: int) -> dict[str, Any]:
    """Give what each setup reaches, jobs a second, and what part of ``bare`` in the same turn that is."""
    found: dict[str, list[float]] = {name: [] for name in SETUPS}
    for repeat in range(repeats):
        for name in SETUPS if repeat % 2 == 0 else reversed(SETUPS):
            command = [sys.executable, "-m", "benchmarks.telemetry", "--child", name, "--url", url, "--jobs", str(jobs)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
            found[name].append(float(done.stdout))
    return {
        name: {
            "median jobs/s": round(statistics.median(rates)),
            "best jobs/s": round(max(rates)),
            "ratio": round(statistics.median(r / b for r, b in zip(rates, found["bare"], strict=True)), 3),
            "of the best": round(max(rates) / max(found["bare"]), 3),
            "ratios": [round(r / b, 3) for r, b in zip(rates, found["bare"], strict=True)],
        }
        for name, rates in found.items()
    }


async def work(url: str, setup: str, jobs: int) -> float:
    """Enqueue jobs and work them off; gives the jobs a second."""
    if setup == "traces":
        _trace()
    if setup == "bare":
        FamilyMetrics.observe = _Bare.observe  # type: ignore[method-assign, assignment]
    async with Producer.connect(url) as producer:
        await producer.redis.flushall()
        for _ in range(jobs // BATCH):
            await producer.enqueue_many("noop", [{"user": 1}] * BATCH, family="t")
    done, times = 0, [0.0, 0.0]

    async def noop(ctx: JobContext, job: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        if done == WARM:
            times[0] = time.process_time()
        elif done == jobs:
            times[1] = time.process_time()

    with tempfile.TemporaryDirectory() as folder:
        heartbeat = None if setup == "bare" else Path(folder) / "heartbeat.json"
        supervisor = Supervisor([_family(noop)], url, burst=True, heartbeat=heartbeat)
        await supervisor.run()
    return (jobs - WARM) / (times[1] - times[0])


class _Bare:
    def observe(self, function: str, outcome: str, wait_s: float, duration_s: float) -> None:
        """Count nothing."""


def _family(noop: Any) -> Family:
    values = {"family": "t", "functions": [func(noop, name="noop")], "max_jobs": 500, "keep_completed": None}
    return load_family(type("WorkerSettings", (FamilySettings,), values))


def _trace() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

    from daemon.tracing import trace_with

    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON))
    provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
    trace_with(provider, share=SAMPLE)


def main(arguments: list[str]) -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--child", choices=SETUPS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        print(uvloop.run(work(given.url, given.child, given.jobs)))
        return 0
    with measured_server() as (url, _):
        print(json.dumps(measure(url, given.jobs, given.repeats), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
