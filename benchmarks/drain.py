"""How fast one worker process works a backlog off, and what a job costs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

from benchmarks.side import Side, WorkerProcess
from daemon.errors import ArqdError

FEED_JOBS = 200
POLL_SECONDS = 0.002
START_SECONDS = 60.0
#: Jobs run before anything is measured: connections, caches and the first scripts.
WARM_UP_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Drain:
    """One run. Costs are per job, taken over `cost_jobs` without a producer beside the worker.

    Attributes:
        jobs, seconds: completions timed while the backlog was kept at ``waiting``, and how long they took.
        alone_rate: jobs a second of the part without a producer.
        calls: commands the worker sent; a script is one.
        commands: commands the server ran, those inside scripts included.
        bytes_in, bytes_out: as the server counts them.
        worker_cpu, server_cpu: seconds of processor time (None: the system does not tell).
    """

    waiting: int
    jobs: int
    seconds: float
    cost_jobs: int
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


class Meter:
    """Counts completions from the server's side, in the same way for every system: what was added, less what is left.

    Commands to add jobs are packed before the measurement, so that adding costs this process next to nothing.
    """

    def __init__(self, url: str, side: Side, to_feed: int) -> None:
        self.client = redis.Redis.from_url(url, single_connection_client=True)
        connection = self.client.connection
        assert connection is not None
        self._connection = connection
        self._queue = side.queue
        self._batches = []
        for _ in range(-(-to_feed // FEED_JOBS)):
            packed = connection.pack_commands(list(side.commands(FEED_JOBS)))
            self._batches.append((b"".join(packed), len(list(side.commands(1))) * (1 if len(packed) == 1 else 1)))
        self.polls = 0
        self.added = self._left()

    def _left(self) -> int:
        self._connection.send_command("ZCARD", self._queue)
        self.polls += 1
        return int(self._connection.read_response())
