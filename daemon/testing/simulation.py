"""Families on a real Valkey in virtual time: real scripts, workers and handlers, with faults that a seed decides."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack, suppress
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from arq.connections import ArqRedis

from daemon.embedded import EmbeddedServer
from daemon.encryption import KeyRing
from daemon.errors import ArqdError, ConfigurationError
from daemon.family import Family, load_family
from daemon.flows.courier import LEASE_MS
from daemon.inspector import Inspector
from daemon.job import JobInfo, from_ms
from daemon.job import seconds as seconds_of
from daemon.producer import Producer, SyncProducer
from daemon.scheduling.scheduler import WAKE
from daemon.scheduling.ticks import ticks_of
from daemon.testing.clock import VirtualLoop, World
from daemon.testing.process import Process
from daemon.testing.waiting import PARKED, Waiting
from daemon.testing.wire import Wire

T = TypeVar("T")
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong by chance.

    Attributes:
        crash: how likely, 0 to 1, a process dies at a call to Redis (half before it is sent, half before its reply is
            read), and within the ten seconds after it starts a job.
        partition: how likely each call to Redis begins a time without network (half lose the call, half its reply).
        restart: after how many seconds another process takes the place of a dead one, at least and at most.
        outage: how many seconds a partition lasts, at least and at most.
    """

    crash: float = 0.0
    partition: float = 0.0
    restart: tuple[float, float] = (0.1, 120.0)
    outage: tuple[float, float] = (0.1, 120.0)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a simulation.

    Attributes:
        kind: of a job ``claimed``, ``completed``, ``retried``, ``failed``, ``aborted``, ``expired``, ``released``,
            ``told to wait``, ``parked`` (as its worker decided: a crash may come before that is recorded); of a process
            ``started``, ``crashed``, ``cut off``, ``back``, ``stopped``.
    """

    at: datetime
    kind: str
    process: str
    job: str = ""
    detail: str = ""

    def __str__(self) -> str:
        milliseconds = self.at.microsecond // 1000
        line = f"{self.at:%Y-%m-%d %H:%M:%S}.{milliseconds:03} {self.process:4} {self.kind:12} {self.job} {self.detail}"
        return line.rstrip()


class Simulation:
    """A system in virtual time. Use it as a context manager, in a test without an event loop of its own.

        with Simulation(WorkerSettings, url=arqd_redis_url, seed=7) as simulation:
            job = simulation.producer.enqueue(MakeReport(...), delay="1d")
            simulation.run("2d")
            assert job.status() == "completed"

    Args:
        settings: families' ``WorkerSettings`` classes, or what `load_family` gave.
        url: an empty database of a Redis or Valkey, which is emptied again in the end; None starts an embedded one.
        seed: of everything that is decided by chance: the same seed gives the same `trace`.
        processes: how many worker processes start.
        start: when it begins, an aware datetime.
        faults: what goes wrong by chance.
        templates: presets of options for jobs (`Producer.template`).
        keyring: keys for encrypted families and marked fields.

    Attributes:
        trace: what happened, in order.
        processes: those that live.
        producer: a `SyncProducer`.
        redis: an asynchronous client, for `call`.

    Raises:
        ConfigurationError: for a database that is not empty, or a wrong family.
    """

    def __init__(
        self,
        *settings: type | Family,
        url: str | None = None,
        seed: int = 0,
        processes: int = 1,
        start: datetime = START,
        faults: Faults | None = None,
        templates: Mapping[str, Mapping[str, Any]] | None = None,
        keyring: KeyRing | None = None,
    ) -> None:
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            raise ConfigurationError("a simulation has an event loop of its own: use it outside of coroutines")
        self.families = [each if isinstance(each, Family) else load_family(each) for each in settings]
        self.seed = seed
        self.faults = faults or Faults()
        self.templates, self.keyring = templates, keyring
        self.trace: list[Event] = []
        self.processes: list[Process] = []
        self.random = random.Random(f"simulation {seed}")  # noqa: S311
        self._first = processes
        self._dead: list[Process] = []
        self._error: BaseException | None = None
        self._started = 0
        self._open = True
        self._recorded, self._schedules_changed = asyncio.Event(), asyncio.Event()
        self.url = url or ""
        self.waiting = Waiting(self)
        self.loop = VirtualLoop(start.timestamp(), self.waiting.settle, self.waiting.pass_time)
        self._world = World(self.loop, seed)
        # What the simulation itself does later, it does even if the process whose code ran then is dead.
        self.context = copy_context()

    # ------------------------------------------------------------------ begin and end

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self.loop.close)
            if not self.url:
                folder = stack.enter_context(TemporaryDirectory(prefix="arqd-"))
                self.url = stack.enter_context(EmbeddedServer(Path(folder) / "valkey")).url
            self.wire = Wire(self.url, self.loop.time, {WAKE: self._schedules_changed.set})
            stack.callback(self.wire.close)
            if self.wire.run(("DBSIZE",)) != [0]:
                raise ConfigurationError("a simulation needs an empty database: give it one of its own")
            stack.callback(self.wire.run, ("FLUSHDB",))
            stack.callback(lambda: self._complete(self._end()))
            self._stack = stack.pop_all()
        self.redis = ArqRedis(connection_pool=self.wire.pool())
        self.producer: SyncProducer = _Producer(
            self, Producer(self.redis, templates=self.templates, keyring=self.keyring)
        )
        for _ in range(self._first):
            self.start()
        self.loop.create_task(self._lead(), context=self.context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.faults, self._open = Faults(), False
        self._stack.close()

    async def _end(self) -> None:
        living = list(self.processes)
        for process in living:
            process.reconnected()
            # The second time hands back at once.
            process.context.run(process.drain)
            process.context.run(process.drain)
        if works := [process.work for process in living if process.work]:
            await asyncio.wait(works, timeout=60)
        self._dead += [process for process in living if process.work and not process.work.done()]
        for process in self._dead:
            await process.let_go()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    # ------------------------------------------------------------------ time

    @property
    def seconds(self) -> float:
        """The virtual time, seconds since the epoch."""
        return self.loop.time()

    @property
    def now_ms(self) -> int:
        """The virtual time as scripts see it."""
        return round(self.seconds * 1000)

    @property
    def now(self) -> datetime:
        """The virtual time."""
        return datetime.fromtimestamp(self.seconds, UTC)

    def run(self, duration: float | str | timedelta) -> None:
        """Let time pass: seconds, or text such as ``"30d"``.

        Raises:
            Exception: what ended a process, such as an error of ``on_startup``.
        """
        self.call(self._pass(seconds_of(duration)))

    def run_until_idle(self, limit: float | str | timedelta = "365d") -> None:
        """Let time pass until no job waits, is delayed or runs; parked ones do not count.

        Raises:
            TimeoutError: when that takes longer than ``limit``.
        """
        self.call(self._until_idle(seconds_of(limit)))

    def call(self, call: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the simulation, and time with it."""
        result = self._complete(call)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return result

    def _complete(self, call: Coroutine[Any, Any, T]) -> T:
        with self._world.entered():
            return self.loop.run_until_complete(call)

    async def _pass(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.loop.quiet()

    async def _until_idle(self, limit: float) -> None:
        async with asyncio.timeout(limit):
            while any(
                self.wire.run(*(("ZCOUNT", family.keys.queue, "-inf", f"({PARKED}") for family in self.families))
            ):
                self._recorded.clear()
                await self._recorded.wait()

    def recorded(self) -> None:
        """Outcomes were recorded."""
        self._recorded.set()

    # ------------------------------------------------------------------ processes and faults

    def start(self) -> Process:
        """Start a process with all families."""
        self._started += 1
        session = f"{self.random.getrandbits(64):016x}"
        process = Process(self, f"p{self._started}", self.families, session)
        self.processes.append(process)
        self.note("started", process.name)
        process.work = self.loop.create_task(process.run(), context=process.context)
        process.work.add_done_callback(lambda work: self._ended(process, work), context=self.context)
        self._schedules_changed.set()
        return process

    def _ended(self, process: Process, work: asyncio.Task[None]) -> None:
        """A process has ended in good order, or of an error."""
        if process in self.processes:
            self.processes.remove(process)
            self.note("stopped", process.name)
            self._error = self._error or (None if work.cancelled() else work.exception())

    def crash(self, process: Process) -> None:
        """Kill a process; with `Faults.crash` another comes in its place."""
        if process not in self.processes or not self._open:
            return
        self.processes.remove(process)
        self._dead.append(process)
        self.note("crashed", process.name)
        process.crash()
        self._tell_others()
        self._forget_later(process)
        if self.faults.crash:
            self.later(self.random.uniform(*self.faults.restart), self._restart)

    def partition(self, process: Process, duration: float | str | timedelta) -> None:
        """Cut a process off from Redis for a time."""
        if not process.cut_off:
            process.disconnected()
            self.note("cut off", process.name)
            self._tell_others()
            self._forget_later(process)
            self.later(seconds_of(duration), lambda: self._reconnect(process))

    def stop(self, process: Process) -> None:
        """Tell a process to end in good order (SIGTERM): it claims nothing more and waits for what runs."""
        process.context.run(self.loop.call_soon, process.drain)

    def draw(self, process: Process) -> str | None:
        """Decide what happens to a call of a process."""
        if not (self.faults.crash or self.faults.partition) or process.gone or process.cut_off:
            return None
        chance, half = self.random.random(), self.random.random() < 0.5
        if chance < self.faults.crash:
            return "crash before" if half else "crash after"
        if chance < self.faults.crash + self.faults.partition:
            self.partition(process, self.random.uniform(*self.faults.outage))
            return "call lost" if half else "reply lost"
        return None

    def later(self, delay: float, call: Callable[[], None]) -> None:
        """Do something after some seconds."""
        self.loop.call_later(delay, call, context=self.context)

    def job_started(self, process: Process) -> None:
        """A process may die while a job runs, whether or not it calls Redis."""
        if self.faults.crash and self.random.random() < self.faults.crash:
            self.later(self.random.uniform(0, 10), lambda: self.crash(process))

    def _restart(self) -> None:
        if self._open:
            self.start()

    def _reconnect(self, process: Process) -> None:
        if process in self.processes:
            process.reconnected()
            self.note("back", process.name)
            self._schedules_changed.set()

    def _forget_later(self, process: Process) -> None:
        """What a process has to itself for a while, Redis forgets by its own clock: in virtual time we do."""
        for family in self.families:
            for name, owner, seconds in (
                ("drainer", process.session, 2 * family.values.lease),
                ("courier", process.courier._session, LEASE_MS / 1000),
            ):
                self.later(seconds, partial(self._forget, family.keys.key(name), owner.encode()))

    def _forget(self, key: str, owner: bytes) -> None:
        if self.wire.run(("GET", key)) == [owner]:
            self.wire.run(("DEL", key))

    def _tell_others(self) -> None:
        """A lease will end that is not renewed any more: who lives looks when."""
        for process in self.processes:
            for worker in process.workers:
                if worker.started:
                    process.context.run(worker.notify_due)

    # ------------------------------------------------------------------ schedules

    async def _lead(self) -> None:
        """Make due ticks, as long as a process lives that could lead."""
        families = [ticks_of(self.redis, family.name) for family in self.families]
        while True:
            waits = []
            self._schedules_changed.clear()
            for ticks in families if any(not process.cut_off for process in self.processes) else ():
                # One question less: it would ask Redis for the time.
                ticks.broker.now = self.now_ms
                waits.append(await ticks.make_due())
            wait = min((wait for wait in waits if wait is not None), default=None)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._schedules_changed.wait()

    # ------------------------------------------------------------------ look

    def job(self, job_id: str) -> JobInfo:
        """Everything known about a job; raises JobNotFound."""
        return self.call(Inspector(self.redis, [family.name for family in self.families]).job(job_id))

    def note(self, kind: str, process: str, job: str = "", detail: str = "") -> None:
        """Add to the trace."""
        if self._open:
            at = from_ms(self.now_ms)
            self.trace.append(Event(at, kind, process, job, detail))


class _Producer(SyncProducer):
    """A producer whose event loop is the simulation's."""

    def __init__(self, simulation: Simulation, producer: Producer) -> None:
        self._simulation = simulation
        self._producer = producer

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._simulation.call(call)

    def events(self, families: Any, since: Any = "now") -> NoReturn:
        """Not here: nobody could read on while time stands still."""
        raise ArqdError("events are not read in a simulation: look at its trace")

    def close(self) -> None:
        """See `SyncProducer.close`; the simulation closes its connections."""
