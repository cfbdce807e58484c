"""Pods that run a trace while a scaler adds and removes them."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

from benchmarks.autoscale.scaler import Figures, Scaler
from benchmarks.autoscale.traces import Trace

#: From the decision until a new pod claims jobs, seconds: its image is on the node.
START_SECONDS = 12


@dataclass(slots=True, eq=False)
class _Pod:
    """A pod: when it is ready, which jobs it runs (with their ends), and when its grace is over, if it drains."""

    ready: float
    running: list[tuple[float, int]] = field(default_factory=list)
    ends: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trace came to.

    Attributes:
        replica_minutes: of all pods together, drains included.
        p95_wait: of jobs, from when they were due to their first start, seconds.
        restarted: how often a job was handed back since its pod was taken away, and began anew.
        finished: when the last job had ended, seconds.
    """

    replica_minutes: float
    p95_wait: float
    restarted: int
    finished: float


class Fleet:
    """A trace on its way, a second at a time.

    Args:
        trace: the jobs, which are known by their places in it.
        scaler: decides how many pods there are.
    """

    def __init__(self, trace: Trace, scaler: Scaler) -> None:
        self._trace, self._scaler = trace, scaler
        self._coming = deque(sorted(range(len(trace.jobs)), key=lambda n: trace.jobs[n].enqueued))
        self._delayed: list[tuple[float, int]] = []
        self._ready: deque[int] = deque()
        self._pods: list[_Pod] = []
        self._started: dict[int, float] = {}
        self._ended, self._restarted, self._finished = 0, 0, 0.0
        some = trace.jobs[:200]
        self._mean = sum(job.runs for job in some) / len(some)

    def replay(self) -> Outcome:
        """Run until the trace is over and every job has ended."""
        second, replicas, used = 0, 0, 0
        jobs = self._trace.jobs
        while second < self._trace.seconds or self._ended < len(jobs):
            while self._coming and jobs[self._coming[0]].enqueued <= second:
                number = self._coming.popleft()
                heapq.heappush(self._delayed, (jobs[number].due, number))
            while self._delayed and self._delayed[0][0] <= second:
                self._ready.append(heapq.heappop(self._delayed)[1])
            for pod in self._pods:
                self._work(pod, second)
            replicas = self._scaler.decide(second, replicas, self._figures(second))
            self._adjust(replicas, second)
            used += len(self._pods)
            second += 1
        waits = sorted(self._started[number] - job.due for number, job in enumerate(jobs))
        return Outcome(used / 60, waits[int(0.95 * len(waits))], self._restarted, self._finished)

    def _work(self, pod: _Pod, second: int) -> None:
        """End what ends before the next second, and start one after the other what there is room for."""
        while pod.running and pod.running[0][0] <= second:
            self._end(pod)
        while self._ready and pod.ready <= second and pod.ends is None:
            if len(pod.running) < self._trace.slots:
                at = float(second)
            elif pod.running[0][0] < second + 1:
                at = self._end(pod)
            else:
                break
            number = self._ready.popleft()
            self._started.setdefault(number, max(at, self._trace.jobs[number].due))
            heapq.heappush(pod.running, (at + self._trace.jobs[number].runs, number))

    def _end(self, pod: _Pod) -> float:
        at, _ = heapq.heappop(pod.running)
        self._ended, self._finished = self._ended + 1, max(self._finished, at)
        return at

    def _figures(self, second: int) -> Figures:
        active, backlog = sum(len(pod.running) for pod in self._pods), len(self._ready)
        slots = self._trace.slots * sum(pod.ready <= second and pod.ends is None for pod in self._pods)
        drain = 0.0 if not backlog else backlog * self._mean / slots if slots else None
        return Figures(backlog + active + len(self._delayed), backlog, active, drain)

    def _adjust(self, replicas: int, second: int) -> None:
        """Add pods, or let the newest drain; what runs when its grace is over is handed back."""
        staying = [pod for pod in self._pods if pod.ends is None]
        self._pods += [_Pod(second + START_SECONDS) for _ in range(replicas - len(staying))]
        for pod in staying[replicas:]:
            pod.ends = second + self._trace.drain_timeout
        for pod in [pod for pod in self._pods if pod.ends is not None and (not pod.running or pod.ends <= second)]:
            self._pods.remove(pod)
            self._restarted += len(pod.running)
            self._ready.extendleft(number for _, number in pod.running)
