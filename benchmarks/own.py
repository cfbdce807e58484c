"""What is measured of arqd alone: many families in a process, many groups, idle families, the producer's weight."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.arqd import NAME
from benchmarks.measure import LIMIT_SECONDS, Bench, Figures
from benchmarks.processes import COMPILED, ROOT
from benchmarks.server import Watch
from benchmarks.systems import Probe, Setting
from daemon.keys import FamilyKeys

FAMILIES, GROUPS = 14, 1000
IMPORTS = 15
#: How often families are drained.
TURNS = 5
#: Processor time, which other work on the machine disturbs less.
IMPORT = "import time; begin = time.process_time(); import {}; print(time.process_time() - begin)"


def groups(bench: Bench, setting: Setting, jobs: int, seconds: float) -> Figures:
    """Drain jobs of a thousand groups, beside a drain of jobs without any."""
    without = bench.drain(setting.values, jobs)["jobs/s"]
    bench.clear()
    grouped = bench.drain(setting.values, jobs, groups=GROUPS)["jobs/s"]
    return {"jobs/s, no groups": without, "jobs/s, 1,000 groups": grouped, "1,000 groups / none": grouped / without}


def families(bench: Bench, setting: Setting, jobs: int, seconds: float) -> Figures:
    """Drain the jobs of fourteen families in one process and as many jobs of one, in turn, each several times.

    A drain takes a few seconds, in which a machine is now slower, now faster: two of them alone would tell more of it.
    """
    values = {**setting.values, "families": FAMILIES}
    each = jobs // FAMILIES
    names = [NAME, *(f"{NAME}-{number}" for number in range(1, FAMILIES))]
    probe = Probe(tuple(("ZCARD", FamilyKeys.of(name).queue) for name in names), left=True)
    one, all_of_them = [], []
    for _ in range(TURNS):
        bench.clear()
        one.append(bench.drain(setting.values, each * FAMILIES)["jobs/s"])
        bench.clear()
        for number in range(1, FAMILIES):
            bench.fill(values, "noop", each, family=number)
        all_of_them.append(bench.drain(values, each, others=each * (FAMILIES - 1), probe=probe)["jobs/s"])
    return {
        "jobs/s, 1 family": statistics.median(one),
        "jobs/s, 14 families": statistics.median(all_of_them),
        "14 families / 1": statistics.median(many / single for many, single in zip(all_of_them, one, strict=True)),
    }


def idle(bench: Bench, setting: Setting, jobs: int, seconds: float) -> Figures:
    """Commands a second of an idle process with fourteen families, and its memory."""
    values = {**setting.values, "families": FAMILIES}
    with bench.site.worker(values) as worker, bench.site.producer(values) as producer:
        producer.order("trips", LIMIT_SECONDS, count=3)
        return {
            "idle commands/s, 14 families": bench.commands(seconds),
            "resident bytes, 14 families": worker.resident(),
        }


def start(bench: Bench, setting: Setting, jobs: int, seconds: float) -> Figures:
    """Seconds from the start of a worker process to the end of its first job."""
    times = []
    for _ in range(5):
        bench.clear()
        bench.fill(setting.values, "noop", 1)
        watch = Watch(bench.url, bench.site.system.probe)
        begin = time.perf_counter()
        with bench.site.worker(setting.values) as worker:
            while not watch.look().ended:
                worker.check()
                time.sleep(0.002)
            times.append(time.perf_counter() - begin)
        watch.close()
    return {"start to first job s": statistics.median(times)}


def imports(bench: Bench, setting: Setting, jobs: int, seconds: float) -> Figures:
    """What importing the producer takes, and ``redis.asyncio`` alone: the quickest of several, in turn."""
    environ = {**os.environ, **COMPILED}
    times: dict[str, list[float]] = {"daemon.producer": [], "redis.asyncio": []}
    for _ in range(IMPORTS):
        for name, found in times.items():
            command = (sys.executable, "-c", IMPORT.format(name))
            told = subprocess.check_output(command, text=True, cwd=ROOT, env=environ, timeout=30)
            found.append(float(told))
    ours, redis = (min(found) for found in times.values())
    return {"import producer ms": ours * 1000, "import redis.asyncio ms": redis * 1000, "import ratio": ours / redis}


OWN: tuple[Callable[[Bench, Setting, int, float], Figures], ...] = (groups, families, idle, start, imports)
