"""How one figure is taken: a backlog drained, jobs handed over, an idle worker; for every system in the same way.

A figure whose jobs have not all been done is an error.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import redis

from benchmarks import driver
from benchmarks.processes import Program, Site
from benchmarks.server import Look, Watch
from benchmarks.systems import Probe
from daemon.errors import ArqdError

Values = Mapping[str, Any]
Figures = dict[str, Any]

POLL_SECONDS = 0.005
WARM_UP = 0.05
#: A measurement that takes longer is an error.
LIMIT_SECONDS = 60.0
FILL_SECONDS = 600.0
READY_SECONDS = 30.0
COUNT_SECONDS = 5.0
#: So that nothing delayed comes due in a run.
DELAY_SECONDS = 86_400


class Bench:
    """A system at a site, on an emptied server."""

    def __init__(self, site: Site, url: str, client: redis.Redis) -> None:
        self.site, self.url, self.client = site, url, client

    def clear(self) -> None:
        """Empty server and folder."""
        self.client.flushall()
        self.site.clear()

    def fill(self, values: Values, job: str, count: int, **extra: Any) -> None:
        """Add jobs by the quickest way the program has."""
        if count:
            with self.site.producer(values) as producer:
                producer.order("many", FILL_SECONDS, job=job, count=count, quick=True, **extra)

    def drain(
        self,
        values: Values,
        jobs: int,
        *,
        workers: int = 1,
        job: str = "noop",
        beyond: int = 0,
        others: int = 0,
        probe: Probe | None = None,
        **extra: Any,
    ) -> Figures:
        """Start workers on a backlog and time it from a twentieth of the jobs on, when all workers are at it.

        Args:
            jobs: how many are added and are to end.
            beyond: how many more wait.
            others: how many are to end that are there already.
            probe: counts them, instead of the system's.

        Raises:
            ArqdError: when a worker ends, the time limit passes, or jobs have not run.
        """
        self.fill(values, job, jobs + beyond, **extra)
        watch = Watch(self.url, probe or self.site.system.probe)
        jobs += others
        with ExitStack() as stack:
            stack.callback(watch.close)
            begun = time.perf_counter()
            running = [stack.enter_context(self.site.worker(values, number)) for number in range(workers)]
            first = self._wait(watch, running, 1)
            self._wait(watch, running, max(round(jobs * WARM_UP), 1), everybody=True)
            begin, cpu_before = watch.look_closely(), running[0].cpu_seconds()
            end = self._wait(watch, running, jobs)
            after, cpu_after = watch.look_closely(), running[0].cpu_seconds()
            again = self._runs(jobs, beyond)
        if end.ended <= begin.ended:
            raise ArqdError(f"{jobs} jobs are too few to time it: they have ended with the warm-up")
        figures: Figures = {"jobs/s": (end.ended - begin.ended) / (end.at - begin.at), "first job s": first.at - begun}
        if again:
            figures["ran again"] = again
        if workers == 1:
            cpu = None if cpu_before is None or cpu_after is None else cpu_after - cpu_before
            figures |= _costs(begin, after, cpu)
        return figures

    def _wait(self, watch: Watch, running: Sequence[Program], ended: int, *, everybody: bool = False) -> Look:
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            look = watch.look()
            if look.ended >= ended and (not everybody or len(driver.counts(self.site.folder)) == len(running)):
                return look
            for worker in running:
                worker.check()
            if time.monotonic() > deadline:
                told = running[0].told()
                raise ArqdError(f"after {LIMIT_SECONDS:g} s only {look.ended:,} of {ended:,} jobs have ended; {told}")
            time.sleep(POLL_SECONDS)

    def _runs(self, jobs: int, beyond: int) -> int:
        """Compare with what the handlers counted: gives runs beyond the jobs."""
        deadline = time.monotonic() + COUNT_SECONDS
        while (runs := sum(driver.counts(self.site.folder).values())) < jobs:
            if time.monotonic() > deadline:
                raise ArqdError(f"{jobs:,} jobs have ended, but handlers ran only {runs:,} times")
            time.sleep(POLL_SECONDS)
        return max(runs - jobs - beyond, 0)

    def enqueue(self, values: Values, singly: int, many: int) -> Figures:
        """Hand jobs over one by one, and a thousand at a time, without a worker."""
        with self.site.producer(values) as producer:
            producer.order("one by one", LIMIT_SECONDS, count=1)  # connects
            producer.order("many", LIMIT_SECONDS, job="noop", count=1)
            one = singly / producer.order("one by one", LIMIT_SECONDS, count=singly)
            return {
                "one by one/s": one,
                "in bulk/s": many / producer.order("many", LIMIT_SECONDS, job="noop", count=many),
            }

    def memory(self, values: Values, jobs: int, name: str) -> Figures:
        """Bytes of a waiting job, its keys and its share of the queue's."""
        self.fill(values, "noop", 1)
        before = self._used()
        self.fill(values, "noop", jobs, name=name)
        return {"bytes a waiting job": (self._used() - before) / jobs}

    def _used(self) -> int:
        info: Any = self.client.info("memory")
        return int(info["used_memory"])

    def idle(self, values: Values, singles: int, seconds: float, seed: int) -> Figures:
        """An idle worker: its commands a second and its memory, how soon it starts a job, how soon a result is back."""
        values = {**values, **self.site.system.idle}
        with self.site.worker(values) as worker, self.site.producer(values) as producer:
            producer.order("trips", READY_SECONDS, count=3)
            figures: Figures = {"idle commands/s": self.commands(seconds), "resident bytes": worker.resident()}
            producer.order("singles", LIMIT_SECONDS, count=singles, seed=seed)
            figures |= _quantiles("pick-up", self._starts(singles, worker))
            trips = producer.order("trips", LIMIT_SECONDS, count=singles)
            rested = producer.order("trips", LIMIT_SECONDS, count=singles, seed=seed + 1)
            worker.check()
        return figures | _quantiles("round trip", trips) | _quantiles("round trip after a pause", rested)

    def commands(self, seconds: float) -> float:
        """Commands a second that the server runs, without those asked for here."""
        probe = Watch(self.url, self.site.system.probe)
        time.sleep(0.5)  # what followed the last job
        before = probe.look_closely()
        time.sleep(seconds)
        after = probe.look_closely()
        probe.close()
        assert before.usage is not None
        assert after.usage is not None
        return (after.usage.commands - before.usage.commands) / (after.at - before.at)

    def _starts(self, count: int, worker: Program) -> list[float]:
        deadline = time.monotonic() + COUNT_SECONDS
        while len(found := driver.starts(self.site.folder)) < count:
            worker.check()
            if time.monotonic() > deadline:
                raise ArqdError(f"only {len(found)} of {count} single jobs have started")
            time.sleep(POLL_SECONDS)
        return found


def _costs(begin: Look, end: Look, cpu: float | None) -> Figures:
    assert begin.usage is not None
    assert end.usage is not None
    jobs = end.ended - begin.ended
    found: Figures = {
        "commands a job": (end.usage.commands - begin.usage.commands) / jobs,
        "round trips a job": (end.usage.reads - begin.usage.reads) / jobs,
        "bytes in a job": (end.usage.bytes_in - begin.usage.bytes_in) / jobs,
        "bytes out a job": (end.usage.bytes_out - begin.usage.bytes_out) / jobs,
        "server CPU µs": (end.usage.cpu - begin.usage.cpu) / jobs * 1e6,
    }
    return found if cpu is None else {**found, "worker CPU µs": cpu / jobs * 1e6}


def quantile(times: Sequence[float], percent: int) -> float:
    """The time that so many percent of the jobs did not exceed (nearest rank)."""
    return sorted(times)[-(-len(times) * percent // 100) - 1]


def _quantiles(name: str, times: Sequence[float]) -> Figures:
    return {f"{name} p{percent} ms": quantile(times, percent) * 1000 for percent in (50, 99)}
