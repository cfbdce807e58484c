"""What a system's program measures with: it counts runs in the worker and times calls in the producer.

Runs in the environment of every Python system, so it needs nothing but the standard library. A program gives its jobs
and a `Producer` and calls `serve`; orders come as JSON lines on standard input, answers leave on standard output.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import random
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

#: Set by the measuring process: the server, a folder for counts, the number of the worker, its setting as JSON.
URL_VARIABLE = "ARQD_BENCH_URL"
FOLDER_VARIABLE = "ARQD_BENCH_FOLDER"
WORKER_VARIABLE = "ARQD_BENCH_WORKER"
SETTING_VARIABLE = "ARQD_BENCH_SETTING"

PERIOD = 0.05
WAIT_SECONDS = 0.01
CHUNK = 1000


def url(database: int = 0) -> str:
    """Where the server is."""
    return os.environ[URL_VARIABLE].rpartition("/")[0] + f"/{database}"


def setting(name: str, default: Any) -> Any:
    """A value of the setting that is tried."""
    return json.loads(os.environ.get(SETTING_VARIABLE, "{}")).get(name, default)


class Counter:
    """Counts the runs of this process's handlers where the measuring process sees it, if there is one.

    For handlers that all run in one thread: eight bytes in a shared page cost next to nothing.
    """

    def __init__(self) -> None:
        self._view: memoryview | None = None

    def __call__(self) -> None:
        if self._view is None:
            self._view = self._mapped()
        self._view[0] += 1

    def _mapped(self) -> memoryview:
        if FOLDER_VARIABLE not in os.environ:
            return memoryview(bytearray(8)).cast("Q")
        path = _count_path("mapped")
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            return memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")


class SharedCounter:
    """The same for handlers in several threads, or in children forked for a job: a byte is appended for each run."""

    def __init__(self) -> None:
        self._file: tuple[int, int] | None = None

    def __call__(self) -> None:
        if self._file is None or self._file[0] != os.getpid():
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._file = os.getpid(), os.open(_count_path("appended"), flags, 0o600)
        os.write(self._file[1], b".")


def _count_path(kind: str) -> Path:
    # By worker, not by process: a worker may fork for every job. A page, though, belongs to one process.
    who = os.environ[WORKER_VARIABLE] + (f"-{os.getpid()}" if kind == "mapped" else "")
    return Path(os.environ[FOLDER_VARIABLE], f"{who}.{kind}")


def counts(folder: Path) -> dict[str, int]:
    """Runs so far by worker."""
    found: dict[str, int] = {}
    for path in folder.iterdir():
        worker = path.name.partition(".")[0].partition("-")[0]
        if path.suffix == ".mapped":
            found[worker] = found.get(worker, 0) + int(struct.unpack("Q", path.read_bytes().ljust(8, b"\0")[:8])[0])
        elif path.suffix == ".appended":
            found[worker] = found.get(worker, 0) + path.stat().st_size
    return found


def tell_start(sent: int) -> int:
    """Note that a job sent at that time (`time.monotonic_ns`) starts now; what the job ``started`` does."""
    now = time.monotonic_ns()
    if FOLDER_VARIABLE in os.environ:
        with open(Path(os.environ[FOLDER_VARIABLE], "starts"), "ab", buffering=0) as file:
            file.write(f"{sent} {now}\n".encode())
    return now


def starts(folder: Path) -> list[float]:
    """Seconds from hand-over to start of the jobs that were told."""
    path = folder / "starts"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(now) - int(sent)) / 1e9 for sent, now in (line.split() for line in lines)]


class Producer(Protocol):
    """Hands jobs over as a service does. Where a library blocks, its coroutines do.

    Jobs are ``noop(user, name)``, ``wait(user, name)`` (10 ms) and ``started(sent)``.
    """

    async def enqueue(self, job: str, **values: Any) -> Any:
        """Hand one over; gives its handle."""

    async def enqueue_many(self, job: str, values: list[dict[str, Any]], delay: float) -> None:
        """Hand many over in the way the library has for that; ``delay`` in seconds, 0 for none."""

    async def result(self, handle: Any) -> Any:
        """Wait for the result in the way the library has for that."""


async def gathered(enqueue: Callable[[dict[str, Any]], Any], values: list[dict[str, Any]]) -> None:
    """Enqueue with 50 calls under way: for asynchronous libraries that have no call for many jobs."""
    for start in range(0, len(values), 50):
        await asyncio.gather(*(enqueue(each) for each in values[start : start + 50]))


def serve(make: Callable[[], Any], run: Callable[[Any], Any] = asyncio.run) -> None:
    """Carry out orders until standard input ends.

    Args:
        make: gives a `Producer`, called inside the event loop.
        run: runs a coroutine, on uvloop where that is faster.
    """
    run(_serve(make))


async def _serve(make: Callable[[], Any]) -> None:
    producer: Producer = make()
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints is no answer
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        print(json.dumps(await ORDERS[order.pop("do")](producer, **order)), file=answers, flush=True)


async def one_by_one(producer: Producer, count: int) -> float:
    """Enqueue jobs singly, each awaited before the next; gives seconds."""
    begin = time.perf_counter()
    for number in range(count):
        await producer.enqueue("noop", user=number, name="Ada")
    return time.perf_counter() - begin


async def many(
    producer: Producer,
    job: str,
    count: int,
    name: str = "Ada",
    delay: float = 0,
    quick: bool = False,
    **extra: Any,
) -> float:
    """Enqueue jobs a thousand at a time; gives seconds. ``quick``: by ``fill``, where a program has one."""
    begin = time.perf_counter()
    enqueue: Any = getattr(producer, "fill" if quick else "enqueue_many", producer.enqueue_many)
    for start in range(0, count, CHUNK):
        values = [{"user": number, "name": name} for number in range(start, min(start + CHUNK, count))]
        await enqueue(job, values, delay, **extra)
    return time.perf_counter() - begin


async def singles(producer: Producer, count: int, seed: int) -> int:
    """Send ``started`` jobs to an idle worker, one about every 50 ms; their handlers tell when they start.

    The intervals vary between 25 and 75 ms: equal ones would always meet a polling worker at the same moments of its
    period. Every system gets the same ones.
    """
    pauses = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(count):
        await asyncio.sleep(pauses.uniform(0.5, 1.5) * PERIOD)
        await producer.enqueue("started", sent=time.monotonic_ns())
    return count


async def trips(producer: Producer, count: int, seed: int | None = None) -> list[float]:
    """Enqueue a job and wait for its result, again and again; gives the seconds of each.

    Args:
        seed: the next one follows after a pause, as of `singles`; None: at once.
    """

    async def usual(**values: Any) -> Any:
        return await producer.result(await producer.enqueue("noop", **values))

    # Some libraries have a call for both.
    trip: Any = getattr(producer, "trip", usual)
    pauses = None if seed is None else random.Random(seed)  # noqa: S311 - no secret
    found = []
    for number in range(count):
        if pauses:
            await asyncio.sleep(pauses.uniform(0.5, 1.5) * PERIOD)
        begin = time.perf_counter()
        result = await trip(user=number, name="Ada")
        found.append(time.perf_counter() - begin)
        if result != number:
            raise RuntimeError(f"the result of job {number} is {result!r}")
    return found


ORDERS: dict[str, Callable[..., Any]] = {
    "one by one": one_by_one,
    "many": many,
    "singles": singles,
    "trips": trips,
}
