"""Worker processes to kill, the journal of what they ran, and waiting for a condition."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import redis

from daemon.connecting.connections import connect
from daemon.inspecting.consistency import find_leaks
from daemon.inspector import Inspector, QueueStats
from daemon.keys import FamilyKeys
from daemon.process.heartbeat import read_heartbeat
from daemon.producer import Producer
from tests.engine import make_family
from tests.faults.family import FOLDER
from tests.faults.figures import LENIENCE
from tests.servers import Servers

KEYS = FamilyKeys.of("faults")
ROOT = Path(__file__).parents[2]


class Event(NamedTuple):
    """A line of the journal: a job's ``start``, ``end`` or ``cancelled``, or the ``child`` process of one."""

    at: float
    what: str
    name: str
    job_try: int
    pid: int


class WorkerProcess:
    """``arqd run`` in a process of its own.

    Attributes:
        pid: its process id.
        heartbeat: the file the probe reads.
        session: as Redis knows it; empty until `Workshop.ready`.
        log: the file of its output.
    """

    def __init__(
        self,
        server: Servers,
        folder: Path,
        number: int,
        settings: str,
        values: dict[str, Any],
        options: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self.log = log or folder / f"worker-{number}.log"
        self.session = ""
        self.heartbeat = folder / f"heartbeat-{number}.json"
        env = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
        env |= {f"ARQD_FAMILY__FAULTS__{name.upper()}": str(value) for name, value in values.items()}
        env |= {
            "ARQD_REDIS_URL": server.url,
            "ARQD_HEARTBEAT_FILE": str(self.heartbeat),
            "ARQD_LOG_FORMAT": "text",
            FOLDER: str(folder),
            **(environ or {}),
        }
        command = [sys.executable, "-m", "daemon", "run", settings, *options]
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output)
        self.pid = self._process.pid

    @property
    def state(self) -> str:
        """What its heartbeat says, at most a second ago."""
        return str((read_heartbeat(self.heartbeat) or {}).get("state", ""))

    @property
    def tasks(self) -> int:
        """How many asyncio tasks it has, as its heartbeat says; 0 before the first."""
        return int((read_heartbeat(self.heartbeat) or {}).get("tasks", 0))

    @property
    def status(self) -> int | None:
        """Its exit status, None while it lives."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> float:
        """Kill it (SIGKILL), give the time, and return when it is gone."""
        at = time.time()
        self._process.kill()
        self._process.wait()
        return at


class Workshop:
    """A Valkey, the workers on it, and what their jobs noted.

    Args:
        values: of the family, for every worker: ``lease=2``.
    """

    def __init__(self, server: Servers, folder: Path, values: dict[str, Any]) -> None:
        self.server = server
        self.folder = folder
        self.workers: list[WorkerProcess] = []
        self._values = values

    def start(
        self,
        settings: str = "tests.faults.family:WorkerSettings",
        *,
        options: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        log: Path | None = None,
        **values: Any,
    ) -> WorkerProcess:
        """Start a worker with options of ``arqd run``, variables, and values of the family; see `ready`."""
        number = len(self.workers) + 1
        values = self._values | values
        worker = WorkerProcess(self.server, self.folder, number, settings, values, options, environ, log)
        self.workers.append(worker)
        return worker

    async def ready(self, *workers: WorkerProcess) -> None:
        """Wait until Redis knows the workers: they take jobs from then on."""
        with self.server.client() as client:

            def known() -> bool:
                for session in client.zrange(KEYS.key("workers"), 0, -1):
                    info = json.loads(client.hget(KEYS.key("session", session.decode()), "info") or "{}")
                    for worker in workers:
                        if info.get("pid") == worker.pid:
                            worker.session = session.decode()
                return all(worker.session for worker in workers)

            await self.until(known, "the workers are ready", 20)

    async def started(self, **values: Any) -> WorkerProcess:
        """Start a worker and wait until it takes jobs."""
        worker = self.start(**values)
        await self.ready(worker)
        return worker

    def close(self) -> None:
        """Kill the workers that live."""
        for worker in self.workers:
            if worker.status is None:
                worker.kill()

    async def leaks(self) -> dict[str, list[str]]:
        """Give what ``arqd check --deep`` finds in every family, by kind; nothing where Redis is not there any more."""
        found: dict[str, list[str]] = {}
        if not self.server.running:
            return found
        async with aclosing(connect(self.server.url)) as client:
            for key in await client.keys("{*}:conf"):
                family = make_family(key[1 : key.index(b"}")].decode(), _nothing)
                for kind, names in (await find_leaks(client, family)).by_kind().items():
                    found.setdefault(f"{family.name}: {kind}", []).extend(names)
        return found

    # ------------------------------------------------------------------ jobs

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Producer]:
        """Give a producer."""
        async with Producer.connect(self.server.url) as producer:
            yield producer

    async def queue(self) -> QueueStats:
        """Give the queue's figures."""
        async with Inspector.connect(self.server.url, ["faults"]) as inspector:
            return await inspector.queue("faults")

    def release(self, name: str, worker: WorkerProcess | None = None) -> None:
        """Let a held job end, in every worker or in one."""
        (self.folder / (f"release-{name}-{worker.pid}" if worker else f"release-{name}")).touch()

    def sessions(self) -> set[str]:
        """Give the sessions Redis knows."""
        with self.server.client(decode_responses=True) as client:
            return set(client.zrange(KEYS.key("workers"), 0, -1))

    def held(self, worker: WorkerProcess) -> set[str]:
        """Give the ids of the jobs Redis says a worker has."""
        with self.server.client(decode_responses=True) as client:
            return set(client.hkeys(KEYS.key("held", worker.session)))

    # ------------------------------------------------------------------ journal

    def events(self, what: str = "", name: str = "", worker: WorkerProcess | None = None) -> list[Event]:
        """Give the journal, or its lines of one kind, one job, one process."""
        journal = self.folder / "journal"
        lines = journal.read_text().splitlines() if journal.exists() else []
        found = (Event(float(at), w, n, int(t), int(pid)) for at, w, n, t, pid in map(str.split, lines))
        return [
            event
            for event in found
            if what in ("", event.what) and name in ("", event.name) and (worker is None or worker.pid == event.pid)
        ]

    def journal_lines(self) -> int:
        """Give how many lines the journal has; reading them all again and again would take long."""
        journal = self.folder / "journal"
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    def starts(self) -> Counter[str]:
        """Give how many times each job started."""
        return Counter(event.name for event in self.events("start"))

    def running(self, worker: WorkerProcess) -> set[str]:
        """Give the jobs a worker has started and not ended."""
        ended = {event.name for event in self.events(worker=worker) if event.what in ("end", "cancelled")}
        return {event.name for event in self.events("start", worker=worker)} - ended

    # ------------------------------------------------------------------ waiting

    async def until(self, condition: Callable[[], Any], what: str, seconds: float = 10) -> Any:
        """Wait for a condition and give its value; fails with the end of the workers' logs.

        Args:
            seconds: on a machine with nothing else to do (`LENIENCE`).
        """
        deadline = time.monotonic() + seconds * LENIENCE
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {what}\n{self._logs()}")
            await asyncio.sleep(0.02)
        return value

    async def until_started(self, *names: str, worker: WorkerProcess | None = None, seconds: float = 10) -> None:
        """Wait until jobs have started, anywhere or in one worker."""

        def all_started() -> bool:
            return set(names) <= {event.name for event in self.events("start", worker=worker)}

        await self.until(all_started, f"{names} started", seconds)

    async def ended(self, worker: WorkerProcess, seconds: float = 10) -> int:
        """Wait until a process ends by itself and give its exit status."""
        await self.until(lambda: worker.status is not None, f"worker {worker.pid} ends", seconds)
        assert worker.status is not None
        return worker.status

    def _logs(self) -> str:
        tails = (
            f"--- {worker.log.name}\n" + worker.log.read_text()[-1500:]
            for worker in self.workers
            if worker.log.is_file()
        )
        events = "\n".join(map(str, self.events()[-20:]))
        return "\n".join([events, *tails])


async def _nothing(ctx: object) -> None: ...


class CrashCounts:
    """Watches the crash counts of jobs, which are gone when the job has ended: the highest seen of each."""

    def __init__(self, server: Servers) -> None:
        self.highest: dict[str, int] = {}
        self._server = server

    async def __aenter__(self) -> CrashCounts:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _watch(self) -> None:
        async with aclosing(connect(self._server.url, decode_responses=True)) as client:
            while True:
                with suppress(redis.RedisError):
                    for job_id, count in (await client.hgetall(KEYS.key("crashes"))).items():
                        self.highest[job_id] = max(int(count), self.highest.get(job_id, 0))
                await asyncio.sleep(0.02)


def alive(pids: Iterable[int]) -> set[int]:
    """Give the processes that still run; a dead one that nobody has waited for does not."""
    parents = _parents()
    return {pid for pid in pids if parents.get(pid, -1) >= 0}


def children(pid: int) -> set[int]:
    """Give the processes a process has started."""
    return {child for child, parent in _parents().items() if parent == pid}


def _parents() -> dict[int, int]:
    """Give each process's parent; -1 for a dead one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = -1 if state in "ZX" else int(parent)
    return parents
