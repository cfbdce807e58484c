"""How fast one worker process works a backlog off, and what a job costs."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis

from benchmarks.side import Side, WorkerProcess
from daemon.errors import ArqdError

#: Jobs added at once, and the share of the backlog they are at most.
FEED_JOBS, FEED_SHARE = 200, 5
POLL_SECONDS = 0.002
STUCK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Drain:
    """One run of one worker process.

    Attributes:
        waiting: jobs that waited all the time.
        jobs, seconds: completions timed while the backlog was kept there, and how long they took.
        alone_rate: jobs a second before, without a producer beside the worker; the costs are per job of that part.
        calls: commands the worker sent; a script is one.
        commands: commands the server ran, those inside scripts included.
        bytes_in, bytes_out: as the server counts them.
        worker_cpu, server_cpu: microseconds of processor time (None: the system does not tell).
    """

    waiting: int
    jobs: int
    seconds: float
    alone_rate: float
    calls: float
    commands: float
    bytes_in: float
    bytes_out: float
    worker_cpu: float | None
    server_cpu: float

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return self.jobs / self.seconds


class _Look(NamedTuple):
    at: float
    completed: int
    left: int


class _Usage(NamedTuple):
    calls: dict[str, int]
    polls: int
    bytes_in: int
    bytes_out: int
    server_cpu: float
    worker_cpu: float | None


class Meter:
    """Counts completions on the server, in the same way for every system: what was added less what is left."""

    def __init__(self, url: str, side: Side, batch: int = FEED_JOBS) -> None:
        self._client = redis.Redis.from_url(url, single_connection_client=True)
        assert self._client.connection is not None
        self._connection = self._client.connection
        self._side = side
        self._batch = batch
        self._batches: deque[tuple[bytes, int]] = deque()
        self._polls = 0
        self._added = 0
        self._added = self.look().left

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def prepare(self, jobs: int) -> None:
        """Pack the commands that add so many jobs: adding them later costs this process next to nothing."""
        for _ in range(-(-jobs // self._batch)):
            commands = list(self._side.commands(self._batch))
            self._batches.append((b"".join(self._connection.pack_commands(commands)), len(commands)))

    def look(self) -> _Look:
        """Count once."""
        self._connection.send_command("ZCARD", self._side.queue)
        left = int(self._connection.read_response())
        self._polls += 1
        return _Look(time.perf_counter(), self._added - left, left)

    def feed(self, look: _Look, waiting: int) -> None:
        """Add what is missing."""
        left = look.left
        while left + self._batch <= waiting:
            if not self._batches:
                self.prepare(self._batch)
            packed, replies = self._batches.popleft()
            self._connection.send_packed_command([packed])
            for _ in range(replies):
                self._connection.read_response()
            self._added += self._batch
            left += self._batch

    def usage(self, worker: WorkerProcess) -> _Usage:
        """What server and worker have used so far."""
        info: Any = self._client.info("all")
        calls = {name.removeprefix("cmdstat_"): n["calls"] for name, n in info.items() if name.startswith("cmdstat_")}
        cpu = info["used_cpu_user"] + info["used_cpu_sys"]
        sent, received = info["total_net_input_bytes"], info["total_net_output_bytes"]
        return _Usage(calls, self._polls, sent, received, cpu, worker.cpu_seconds())


def drain(url: str, side: Side, setup: str, waiting: int, jobs: int) -> Drain:
    """Run one worker process on a backlog: warm up, take the costs of ``jobs / 4``, time ``jobs`` with a producer.

    Raises:
        ArqdError: when the worker ends, or completes nothing for a minute.
    """
    warm_up, alone = max(jobs // 20, 1), max(jobs // 4, 1)
    meter = Meter(url, side)
    try:
        side.fill(url, max(waiting + warm_up + alone - meter.look().left, 1))
        meter.close()
        meter = Meter(url, side, max(1, min(FEED_JOBS, waiting // FEED_SHARE)))
        meter.prepare(jobs + 5 * FEED_JOBS)
        with WorkerProcess(side, setup, url) as worker:
            # Nothing is fed before the backlog has come down to its size, at the end of the second part.
            begin = _wait(meter, worker, warm_up, waiting)
            before = meter.usage(worker)
            end = _wait(meter, worker, begin.completed + alone, waiting)
            after = meter.usage(worker)
            first = meter.look()
            last = _wait(meter, worker, first.completed + jobs, waiting)
    finally:
        meter.close()
    count = end.completed - begin.completed
    return Drain(
        waiting,
        last.completed - first.completed,
        last.at - first.at,
        count / (end.at - begin.at),
        **_costs(side, before, after, count),
    )


def _wait(meter: Meter, worker: WorkerProcess, completed: int, waiting: int) -> _Look:
    """Keep the backlog until so many jobs have completed."""
    seen, since = -1, time.monotonic()
    while True:
        look = meter.look()
        if look.completed >= completed:
            return look
        if look.completed > seen:
            seen, since = look.completed, time.monotonic()
        elif time.monotonic() - since > STUCK_SECONDS:
            raise ArqdError(f"the worker has completed nothing for {STUCK_SECONDS:g} s")
        worker.check()
        meter.feed(look, waiting)
        time.sleep(POLL_SECONDS)


def _costs(side: Side, before: _Usage, after: _Usage, jobs: int) -> dict[str, Any]:
    calls = {name: count - before.calls.get(name, 0) for name, count in after.calls.items()}
    polls = after.polls - before.polls
    # Ours: the looks, and one INFO.
    total = sum(calls.values()) - polls - 1
    named = side.client_commands
    sent = total if named is None else sum(count for name, count in calls.items() if name in named)
    cpu = None
    if before.worker_cpu is not None and after.worker_cpu is not None:
        cpu = (after.worker_cpu - before.worker_cpu) / jobs * 1e6
    look = len(f"*2\r\n$5\r\nZCARD\r\n${len(side.queue)}\r\n{side.queue}\r\n")
    return {
        "calls": sent / jobs,
        "commands": total / jobs,
        "bytes_in": (after.bytes_in - before.bytes_in - polls * look) / jobs,
        "bytes_out": (after.bytes_out - before.bytes_out - polls * len(":100000\r\n")) / jobs,
        "worker_cpu": cpu,
        "server_cpu": (after.server_cpu - before.server_cpu) / jobs * 1e6,
    }
