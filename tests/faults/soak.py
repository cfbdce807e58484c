"""The soak: minutes of jobs of which some fail, hang or kill their workers, on two processes that are kept alive.

    python -m tests.faults.soak [seconds]          # or: make soak

One in a hundred fails every time, one in a hundred hangs until its time limit, one in a thousand kills its process. At
the end every job must be accounted for, completed or a dead letter for its own reason, and nothing may have leaked:
memory, file descriptors and tasks of the processes, keys in Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.producer import Producer
from tests.faults.family import Crash, Quiet, Soak
from tests.faults.workshop import WorkerProcess, Workshop
from tests.servers import RedisServer

SECONDS = 600.0
RATE, BATCH = 80, 40
#: Jobs that kill go to processes of the one family; the process of the other lives as long as the soak, to show what it
#: gathers over the time.
KILLED, STEADY = "faults", "steady"
PROCESSES = {KILLED: 2, STEADY: 1}


@dataclass
class Sample:
    """What a process, or Redis, holds at one moment."""

    at: float
    memory: int
    files: int = 0
    tasks: int = 0
    keys: int = 0


@dataclass
class Life:
    """One worker process from start to end."""

    family: str
    worker: WorkerProcess
    samples: list[Sample] = field(default_factory=list)


def resident(pid: int) -> int:
    """Give a process's memory, bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> int:
    """Give how many file descriptors a process has."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


class Run:
    """One soak."""

    def __init__(self, shop: Workshop, seconds: float) -> None:
        self.shop = shop
        self.end = time.monotonic() + seconds
        self.expected: Counter[str] = Counter()
        self.lives: list[Life] = []
        self.redis: list[Sample] = []
        self.stopping = False

    async def keep_alive(self) -> None:
        """Start another worker for each that has died, as a supervisor of processes does."""
        settings = {KILLED: "SoakSettings", STEADY: "SteadySettings"}
        while not self.stopping:
            for family, count in PROCESSES.items():
                alive = [life for life in self.lives if life.family == family and life.worker.status is None]
                for _ in range(count - len(alive)):
                    self.lives.append(Life(family, self.shop.start(f"tests.faults.family:{settings[family]}")))
            await asyncio.sleep(0.1)

    def job(self, number: int) -> Quiet | Soak | Crash:
        """Give the job of a number: one in a hundred fails, one hangs, one in a thousand kills."""
        if number % 1000 == 7:
            self.expected["kill"] += 1
            return Crash(name=str(number))
        if number % 100 in (13, 31):
            what: Literal["fail", "hang"] = "hang" if number % 100 == 13 else "fail"
            self.expected[what] += 1
            return Soak(what=what)
        self.expected["well"] += 1
        return Quiet(seconds=0.02)

    async def produce(self, producer: Producer) -> None:
        """Hand jobs over at a steady rate."""
        number, due = 0, time.monotonic()
        while time.monotonic() < self.end:
            jobs = [self.job(number + n) for n in range(BATCH)]
            number += BATCH
            kills = [job for job in jobs if isinstance(job, Crash)]
            others = [job for job in jobs if not isinstance(job, Crash)]
            await producer.enqueue_many(kills + others[::2], family=KILLED)
            await producer.enqueue_many(others[1::2], family=STEADY)
            due += BATCH / RATE
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def sample(self) -> None:
        """Look at every process and at Redis every five seconds."""
        began = time.monotonic()
        with self.shop.server.client() as redis:
            while not self.stopping:
                at = time.monotonic() - began
                for life in self.lives:
                    with contextlib.suppress(OSError, ValueError, KeyError):
                        pid = life.worker.pid
                        life.samples.append(Sample(at, resident(pid), open_files(pid), life.worker.tasks))
                memory = int(redis.info("memory")["used_memory"])
                self.redis.append(Sample(at, memory, len(redis.client_list()), keys=redis.dbsize()))
                await asyncio.sleep(5)

    async def settled(self, inspector: Inspector) -> None:
        """Wait until nothing is left to do."""
        deadline = time.monotonic() + 300
        for family in PROCESSES:
            while (queue := await inspector.queue(family)).waiting + queue.active + queue.delayed:
                if time.monotonic() > deadline:
                    raise SystemExit(f"not settled: {queue}")
                await asyncio.sleep(0.5)


async def soak(seconds: float, folder: Path) -> int:
    """Run it and print the figures; 1 when something was lost or leaked."""
    server = RedisServer(folder, appendonly="yes").start()
    shop = Workshop(server, folder, {})
    run = Run(shop, seconds)
    try:
        async with (
            Producer.connect(server.url) as producer,
            Inspector.connect(server.url, list(PROCESSES)) as inspector,
        ):
            side = [asyncio.create_task(run.keep_alive()), asyncio.create_task(run.sample())]
            await run.produce(producer)
            await run.settled(inspector)
            run.stopping = True
            await asyncio.gather(*side)
            return await report(run, inspector)
    finally:
        shop.close()
        server.kill()


async def dead_letters(inspector: Inspector) -> Counter[str]:
    """Count the dead letters by function and reason."""
    found: Counter[str] = Counter()
    for family in PROCESSES:
        cursor: str | None = None
        while True:
            page = await inspector.jobs(family, JobState.FAILED, limit=500, cursor=cursor)
            found.update(f"{info.function} {info.error['reason'] if info.error else '?'}" for info in page)
            cursor = page.cursor
            if cursor is None:
                break
    return found


async def report(run: Run, inspector: Inspector) -> int:
    """Print what became of everything; 1 when something is wrong."""
    dead, leaks = await dead_letters(inspector), await run.shop.leaks()
    completed = sum([(await inspector.queue(family)).totals["completed"] for family in PROCESSES])
    died = Counter(life.family for life in run.lives if life.worker.status is not None)
    print(f"handed over {sum(run.expected.values())}: {dict(run.expected)}")
    print(f"completed {completed}, dead letters {sum(dead.values())}: {dict(dead)}")
    print(f"processes that died: {dict(died)}")
    wanted = {"soak tries": run.expected["fail"] + run.expected["hang"], "crash crashes": run.expected["kill"]}
    problems = []
    if completed != run.expected["well"] or dead != Counter(wanted):
        problems.append(f"jobs are not accounted for: wanted {wanted}")
    if died[STEADY]:
        problems.append("a process died that nobody killed")
    if leaks:
        problems.append(f"keys leaked: {leaks}")
    problems += growth(run)
    for problem in problems:
        print("FAILED:", problem)
    print("failed" if problems else "every job accounted for, nothing leaked")
    return 1 if problems else 0


def growth(run: Run) -> list[str]:
    """Compare what was held early and late, by Redis and by the process that lives as long as the soak."""
    problems = []
    steady = next(life for life in run.lives if life.family == STEADY)
    for what, samples, memory, files in (
        ("Redis", run.redis, 12e6, 20),
        ("the steady worker", steady.samples, 8e6, 3),
    ):
        # Until results are trimmed everything grows.
        kept = samples[len(samples) // 4 :]
        third = max(1, len(kept) // 3)
        early, late = kept[:third], kept[-third:]

        def mean(part: list[Sample], name: str) -> float:
            return sum(getattr(sample, name) for sample in part) / len(part)

        told = []
        for name, allowed in (("memory", memory), ("files", files), ("tasks", 10), ("keys", 4000)):
            before, after = mean(early, name), mean(late, name)
            numbers = (
                f"{before / 1e6:.1f} to {after / 1e6:.1f} MB" if name == "memory" else f"{before:.0f} to {after:.0f}"
            )
            told.append(f"{name} {numbers}")
            if after - before > allowed:
                problems.append(f"{what}: {name} grow from {before:.0f} to {after:.0f}")
        print(f"{what}, {len(samples)} samples over {samples[-1].at - samples[0].at:.0f} s: {', '.join(told)}")
    return problems


def main(arguments: list[str]) -> int:
    """Soak for so many seconds."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        return asyncio.run(soak(float(arguments[0]) if arguments else SECONDS, Path(folder)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
