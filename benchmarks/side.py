"""What the measurements need to know of a system, and how its worker processes are started and watched."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, Self

from daemon.errors import ArqdError

#: Stands in the name of every key of a run, so that they can be removed from a server with other data.
NAME = "arqd-bench"
URL_VARIABLE = "ARQD_BENCH_URL"
STOP_SECONDS = 15.0


class Producer(Protocol):
    """Hands over the jobs of the latency measurements; their result is when their handler started."""

    async def enqueue(self) -> Any:
        """Hand one over as a service does; gives its handle."""

    async def result(self, handle: Any, poll_delay: float) -> int:
        """Wait for its result: `time.monotonic_ns` at the start of its handler."""

    async def close(self) -> None:
        """Close its connections."""


class Side(Protocol):
    """A system that is measured.

    Attributes:
        name: of the system.
        module: run as a program it is a worker: ``python -m <module> <setup>``, with the server in the environment.
        queue: sorted set that holds every job until it has completed.
        client_commands: commands its worker sends itself; None when nothing runs inside scripts.
    """

    name: str
    module: str
    queue: str
    client_commands: frozenset[str] | None

    def fill(self, url: str, count: int) -> None:
        """Add jobs that do nothing."""

    def commands(self, count: int) -> Iterable[tuple[Any, ...]]:
        """Give the commands that add so many jobs that do nothing."""

    async def producer(self, url: str) -> Producer:
        """Connect as a service does."""


class WorkerProcess:
    """A worker in a process of its own, from start to a drained end; a context manager."""

    def __init__(self, side: Side, setup: str, url: str) -> None:
        self._title = f"{side.name} {setup}"
        self._command = (sys.executable, "-m", side.module, setup)
        root = str(Path(__file__).resolve().parents[1])
        # In the environment, since the process list would show a password.
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._environ = {**os.environ, URL_VARIABLE: url, "PYTHONPATH": path}

    def __enter__(self) -> Self:
        self._output = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command, env=self._environ, stdout=self._output, stderr=self._output, start_new_session=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if told := self._told():
            print(f"{self._title} worker said: {told}", file=sys.stderr)
        self._output.close()

    def check(self) -> None:
        """Raise ArqdError when it has ended."""
        if self._process.poll() is not None:
            raise ArqdError(f"the worker {self._title} has ended with status {self._process.returncode}")

    def cpu_seconds(self) -> float | None:
        """Processor time it has used, all threads; None where the system does not tell."""
        if sys.platform != "linux":
            return None
        # The kernel's number of "the CPU clock of process pid" (clock_getcpuclockid).
        return time.clock_gettime((~self._process.pid << 3) | 2)

    def _told(self) -> str:
        """The end of what it printed: at level WARNING that is what went wrong."""
        self._output.seek(0)
        return self._output.read()[-2000:].decode(errors="replace").strip()
