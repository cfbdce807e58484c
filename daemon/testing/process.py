"""A worker process of a simulation: the real worker, session and executor, on a connection that can fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError, RedisError

from daemon.broker import Broker, Claim, Tick
from daemon.connecting.connections import LOST
from daemon.executor import Executor
from daemon.family import Family
from daemon.flows.courier import SWEEP_SECONDS, Courier
from daemon.keys import spoken_id
from daemon.metrics import FamilyMetrics
from daemon.producer import Producer
from daemon.running.run import Run
from daemon.supervisor import Supervisor
from daemon.testing.clock import Halting, current_process
from daemon.testing.wire import Command
from daemon.worker import Worker

if TYPE_CHECKING:
    from daemon.testing.simulation import Simulation

#: How long a client waits for a reply that does not come, seconds (`daemon.connecting.connections.connect`).
NO_REPLY = 5.0
#: A wait for which it is worth to work out whether it could be longer.
LONG_MS = 1000

_SEEN = """
if redis.call('EXISTS', KEYS[1]) == 0 and redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HSET', KEYS[2], 'seen', ARGV[1])
end
return 1
"""

_WORDS = {
    "c": "completed",
    "r": "retried",
    "b": "failed",
    "a": "aborted",
    "e": "expired",
    "l": "released",
    "w": "told to wait",
    "p": "parked",
}


class _Broker(Broker):
    """A new session asks the server how long it has been up, which is real time: here it has been there all along."""

    def __init__(self, process: Process, family: Family) -> None:
        super().__init__(process.redis, family.keys)
        self._process = process

    async def sync(self, session: str, *args: Any, **options: Any) -> list[bytes] | None:
        if not self._process.cut_off:
            keys = (self.keys.key("session", session), self.keys.key("clock"))
            self._process.simulation.wire.run(("EVAL", _SEEN, 2, *keys, self._process.simulation.now_ms))
        return await super().sync(session, *args, **options)


class SimulatedWorker(Worker):
    """A family's worker that notes in the trace what it does, and sleeps as long as nothing can happen."""

    supervisor: Process
    #: Whether the last reply told it to wait for long, if nothing wakes it.
    patient = False

    def __init__(self, family: Family, process: Process) -> None:
        super().__init__(family, process)
        self.broker = _Broker(process, family)
        self.metrics = FamilyMetrics(family.functions, clock=self.loop.time)
        # Its own would open connections of the usual kind for results.
        self.producer = Producer(
            self.client,
            max_payload=family.values.max_payload,
            templates=process.templates,
            keyring=process.keyring,
        )

    def start(self, claim: Claim, number: int, now_ms: int) -> None:
        job = spoken_id(claim.id.decode("utf-8", "replace"))
        self.supervisor.simulation.note("claimed", self.supervisor.name, job)
        super().start(claim, number, now_ms)
        self.supervisor.simulation.job_started(self.supervisor)

    def _count(self, run: Run, kind: str, duration: float) -> None:
        super()._count(run, kind, duration)
        if not self.supervisor.gone:
            detail = f"{run.name}, try {run.job_try}"
            self.supervisor.simulation.note(_WORDS[kind], self.supervisor.name, spoken_id(run.job_id), detail)

    def _plan(self, reply: Tick) -> None:
        super()._plan(reply)
        self.supervisor.simulation.recorded()
        self.patient = self._due is not None and reply.wait >= LONG_MS
        if self.patient:
            self.supervisor.simulation.waiting.look_ahead(self.family)

    def sleep(self) -> None:
        """Ask again when woken only."""
        if self.patient and self._due is not None:
            self._due.cancel()
            self._due = None
        if not self.running:
            # It is left by a job that has ended, and nothing would come of it.
            self.executor.deadlines.close()


class _Courier(Courier):
    """Looks at outboxes when it is told to: `Waiting` sees whether there is anything in them."""

    async def run(self) -> None:
        self.wake()
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                busy = await self.sweep() < SWEEP_SECONDS
            except (*LOST, RedisError):
                busy = True
            if busy:
                await asyncio.sleep(SWEEP_SECONDS)
                self.wake()


class Process(Supervisor, Halting):
    """A process. Made by `Simulation.start`.

    Attributes:
        name: ``p1``, ``p2`` ... in the order they started.
    """

    def __init__(self, simulation: Simulation, name: str, families: Sequence[Family], session: str) -> None:
        keyring = simulation.keyring
        Supervisor.__init__(
            self, families, simulation.url, handle_signals=False, templates=simulation.templates, keyring=keyring
        )
        Halting.__init__(self)
        self.simulation = simulation
        self.name = name
        self.session = session
        self.redis = Redis.from_pool(simulation.wire.pool(self._send))
        self.courier = _Courier(self.redis, [family.name for family in families])
        self.courier._session = session
        self.workers: list[SimulatedWorker] = []  # type: ignore[assignment]
        self.work: asyncio.Task[None] | None = None
        self.gone = False
        self._connected = asyncio.Event()
        self._connected.set()
        #: Whether its leases may have ended while it was cut off.
        self.uncertain = False
        self.context: Context = copy_context()
        self.context.run(current_process.set, self)
        self.interval = min(family.values.lease for family in families) / 3
        self._renew_at = simulation.seconds + self.interval

    def __repr__(self) -> str:
        return f"<Process {self.name}>"

    @property
    def memory(self) -> int | None:
        """None: the test's own is not what it would take, nor the same each time."""
        return None

    # ------------------------------------------------------------------ its life

    async def run(self) -> None:
        """Work until it is drained."""
        self.workers = [SimulatedWorker(family, self) for family in self.families]
        loop = asyncio.get_running_loop()
        mains = [loop.create_task(worker.main()) for worker in self.workers]
        side = [loop.create_task(self._introduce()), loop.create_task(self.courier.run())]
        try:
            await asyncio.gather(*mains)
        finally:
            self.gone = True
            for task in side:
                task.cancel()
        if self._draining is not None:
            self._draining.cancel()
        for worker in self.workers:
            await worker.close()
        self.state = "stopped"

    async def _introduce(self) -> None:
        """Do what the process does once a second until it has succeeded once."""
        while not self.gone:
            await self._connected.wait()
            if all(worker.started for worker in self.workers):
                self.state = "running"
                try:
                    for worker in self.workers:
                        await worker.heart_beat()
                    return
                except LOST:
                    pass
            await asyncio.sleep(1 if self.state == "running" else 0.05)

    def crash(self) -> None:
        """Die at once, as by ``kill -9``."""
        self.gone = True
        self.simulation.loop.halt(self)

    async def let_go(self) -> None:
        """After a crash, when the simulation is over: see `VirtualLoop.bury`."""
        for worker in self.workers:
            executor: Executor | None = getattr(worker, "executor", None)
            if executor is not None:
                # What is cancelled now ended long ago.
                executor._hooks = {}
                for run in worker.running.values():
                    run.stop = "lost"
        disabled = logging.root.manager.disable
        logging.disable()
        try:
            await self.simulation.loop.bury(self)
        finally:
            logging.disable(disabled)

    # ------------------------------------------------------------------ its way to Redis

    async def _send(self, call: Callable[[], list[Any]]) -> list[Any]:
        """Make a call, as far as the simulation lets it."""
        fault = self.simulation.draw(self)
        if fault == "crash before":
            await self._die()
        if self.gone:
            raise ConnectionError("this process is dead")
        if self.cut_off or fault == "call lost":
            await self._no_reply()
        replies = call()
        if fault == "crash after":
            await self._die()
        if fault == "reply lost":
            await self._no_reply()
        return replies

    async def _die(self) -> None:
        self.simulation.crash(self)
        await asyncio.get_running_loop().create_future()

    async def _no_reply(self) -> None:
        """The connection is reset, or nothing comes at all."""
        await asyncio.sleep(self.simulation.random.choice((0, NO_REPLY)))
        raise ConnectionError("the network is down")

    @property
    def cut_off(self) -> bool:
        """Whether the network is away."""
        return not self._connected.is_set()

    def disconnected(self) -> None:
        """The network is away."""
        self._connected.clear()

    def reconnected(self) -> None:
        """The network is back: renew at once."""
        self._connected.set()
        self.uncertain = True
        self._renew_at = self.simulation.seconds

    def renewals(self, target: float) -> list[tuple[SimulatedWorker, list[tuple[float, Command]]]]:
        """Give the calls that renew its leases until ``target``, by worker, each with its time.

        Only the last renewal counts, and that the server was seen alive at the one before it.
        """
        workers = [worker for worker in self.workers if worker.started]
        if self._renew_at > target or self.cut_off or self.gone or not workers:
            return []
        self.uncertain = False
        missed = int((target - self._renew_at) // self.interval)
        last = self._renew_at + missed * self.interval
        self._renew_at = last + self.interval
        return [(worker, self._renewal(worker, last, missed)) for worker in workers]

    def _renewal(self, worker: SimulatedWorker, at: float, missed: int) -> list[tuple[float, Command]]:
        worker.published = worker.info()
        ages = (worker.keep_ms, worker.keep_failed_ms)
        calls = [(at, worker.broker.call("renew", self.session, worker.lease_ms, worker.published, *ages))]
        if missed:
            seen = round((at - self.interval) * 1000)
            calls.insert(0, (at, ("HSET", worker.keys.key("clock"), "seen", seen)))
        return calls
