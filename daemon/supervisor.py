"""One process: its session, connections and side tasks, the workers of its families, signals and the drain.

Side tasks (lease renewal in a thread, wake-ups, scheduler, heartbeat file, housekeeping) keep the workers working; one
that dies takes the process down loudly, since a worker without it would only look alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

import daemon
from daemon.broker import Broker, Outcome
from daemon.claiming.leases import LeaseKeeper
from daemon.claiming.turns import Turns
from daemon.claiming.wakeups import Wakeups
from daemon.connecting.connections import LOST, connect, safe_url, translated
from daemon.connecting.routed import in_cluster, place_of
from daemon.encryption import KeyRing
from daemon.errors import ArqdError, ConfigurationError
from daemon.family import Family
from daemon.flows.courier import SWEEP_SECONDS, Courier
from daemon.process.collector import spare_collector
from daemon.process.ending import REPLACE_STATUS, end_process
from daemon.process.heartbeat import Heartbeat, resident_bytes
from daemon.process.watchdog import Watchdog
from daemon.running.run import Run
from daemon.scheduling.scheduler import Scheduler
from daemon.servers import RedisUrl, Servers
from daemon.worker import Worker

logger = logging.getLogger("arqd.supervisor")

#: How long handlers cancelled at the end of a drain may clean up, and how long the last calls to Redis may take.
CLEAN_UP_SECONDS = 1.0
LAST_CALLS_SECONDS = 5.0


class Supervisor:
    """Runs the workers of several families in one process.

    Args:
        families: what to run, each name once.
        url: Redis, as `daemon.connecting.connections.connect` takes it.
        burst: end when nothing waits any more.
        heartbeat: file the probe reads, None for none.
        handle_signals: drain on SIGTERM and SIGINT, at once on a second one.
        templates: presets of options for jobs that handlers enqueue (`Producer.template`).
        keyring: keys for encrypted families and marked fields (docs/encryption.md).
        beside: side tasks of the caller's.

    Raises:
        ConfigurationError: for no family or a repeated one.
    """

    def __init__(
        self,
        families: Sequence[Family],
        url: RedisUrl,
        *,
        burst: bool = False,
        heartbeat: Path | None = None,
        handle_signals: bool = True,
        max_burst_jobs: int = -1,
        templates: Mapping[str, Mapping[str, Any]] | None = None,
        keyring: KeyRing | None = None,
        beside: Sequence[Callable[[Supervisor], Coroutine[Any, Any, None]]] = (),
    ) -> None:
        names = [family.name for family in families]
        if not names or len(set(names)) != len(names):
            raise ConfigurationError(f"run each family once, and at least one, not {names}")
        self.families = list(families)
        self.url = url
        self.session = secrets.token_hex(8)
        self.started = time.time()
        self.state = "starting"
        self.redis_up = False
        self.redis = connect(url)
        self._refuse_stock()
        self.courier = Courier(self.redis, names, told=self._courier_done)
        self.templates = templates
        self.keyring = keyring
        self._beside = beside
        self.workers: list[Worker] = []
        self.scheduler = Scheduler(url)
        self.scheduler.every(SWEEP_SECONDS, functools.partial(Courier(self.redis).sweep_all, self.scheduler.noted))
        self.patient, self.turns = True, Turns(len(families))
        self._burst, self._max_burst_jobs = burst, max_burst_jobs
        self._heartbeat = Heartbeat(heartbeat, self.snapshot) if heartbeat else None
        self._handle_signals = handle_signals
        #: Whether this process ends because a job of it does not: it has to be replaced.
        self.replaced = False
        self._isolating: Worker | None = None
        self._wakeups: Wakeups | None = None
        self._draining: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    def _refuse_stock(self) -> None:
        for family in self.families:
            if family.stock is not None and in_cluster(self.redis, family.keys.queue):
                raise ConfigurationError(
                    f"{family.name} is a plain arq class, which cannot work in a Redis Cluster: give it a single server"
                )
            if family.stock is not None and isinstance(self.url, Servers) and family.name in self.url.families:
                raise ConfigurationError(f"{family.name}, a plain arq class, stays on ARQD_REDIS_URL: unset its own")

    # ------------------------------------------------------------------ what its workers ask

    @property
    def idle(self) -> bool:
        """Whether no worker of this process runs anything."""
        return not any(worker.busy for worker in self.workers)

    @property
    def loop_lag(self) -> float:
        """Seconds the event loop was late, at worst, in the last beats."""
        return self._heartbeat.loop_lag if self._heartbeat else 0.0

    @property
    def memory(self) -> int | None:
        """Bytes of memory the process takes (its resident set), None where the system does not tell."""
        return resident_bytes()

    def listen(self) -> None:
        """Wake workers when there is work for them, or there are permits they wait for."""
        if self._wakeups is not None:
            self._wakeups.listen()

    def isolate(self, worker: Worker | None) -> None:
        """Reserve the process for one job of this worker that may kill it; None ends it."""
        if worker is not self._isolating:
            self._isolating = worker
            for other in self.workers:
                other.notify_due()

    def isolates(self, worker: Worker) -> bool:
        """Whether this worker may take a suspect job now: nothing else runs here."""
        return self._isolating is worker and self.idle

    def isolated_from(self, worker: Worker) -> bool:
        """Whether this worker has to claim nothing while a suspect job runs or is awaited."""
        return self._isolating is not None and not self.isolates(worker)

    def _courier_done(self) -> None:
        """Outboxes were emptied: a burst may be over."""
        for worker in self.workers:
            worker.nudge()

    def job_ended(self, worker: Worker) -> None:
        """A worker runs nothing any more."""
        if self._isolating is worker:
            self.isolate(None)
        elif self._isolating is not None:
            self._isolating.nudge()

    @property
    def left_behind(self) -> bool:
        """Whether handlers or threads of handed-back jobs still run and cannot be stopped (`daemon.process.ending`)."""
        return any(worker.left_behind for worker in self.workers)

    # ------------------------------------------------------------------ run

    async def run(self) -> None:
        """Run until drained, or in a burst until nothing waits.

        Raises:
            RedisRefused: when Redis refuses this user at start.
            ArqdError, Exception: what a hook raised at start, or what killed a side task.
        """
        loop = asyncio.get_running_loop()
        make = functools.partial(Worker, supervisor=self, burst=self._burst, max_burst_jobs=self._max_burst_jobs)
        self.workers = [make(family) for family in self.families]
        self._wakeups = Wakeups(self, self.url)
        keepers = self._keepers()
        for keeper in keepers:
            keeper.start()
        watchdog = Watchdog(self.workers, self._replace_blocked)
        watchdog.start()
        if self._handle_signals:
            spare_collector()  # the process is ours
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._on_signal, number)
        side = [asyncio.create_task(call(self), name="beside") for call in self._beside]
        side.append(asyncio.create_task(self._wakeups.run(), name="wakeups"))
        side.append(asyncio.create_task(self._housekeeping(keepers, watchdog), name="housekeeping"))
        side.append(asyncio.create_task(self.courier.run(), name="courier"))
        if not self._burst:
            side.append(asyncio.create_task(self.scheduler.run(lambda: self.state != "starting"), name="scheduler"))
        if self._heartbeat:
            side.append(asyncio.create_task(self._heartbeat.run(), name="heartbeat"))
        mains = [asyncio.create_task(worker.main(), name=worker.family.name) for worker in self.workers]
        logger.info("arqd %s on %s, session %s", daemon.__version__, safe_url(self.url), self.session)
        for family in self.families:
            for line in family.warnings:
                logger.warning("%s: %s", family.name, line)
        try:
            await self._watch(mains, side)
        finally:
            watchdog.stop()
            await self._close(keepers, [*mains, *side])

    def _keepers(self) -> list[LeaseKeeper]:
        """Give a keeper of leases for each place that families are in."""
        place = functools.partial(place_of, self.redis)
        places: dict[Hashable, list[Worker]] = {}
        for worker in self.workers:
            places.setdefault(place(worker.keys.queue), []).append(worker)
        call = asyncio.get_running_loop().call_soon_threadsafe
        return [LeaseKeeper(self.url, self.session, workers, call, place) for workers in places.values()]

    async def _watch(self, mains: list[asyncio.Task[None]], side: list[asyncio.Task[None]]) -> None:
        """Wait for the workers; what ends before its time ends the process with its error."""
        pending: set[asyncio.Task[None]] = {*mains}
        while pending:
            done, _ = await asyncio.wait({*pending, *side}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task in side:
                    await self._give_back(mains)
                    with translated():
                        if not task.cancelled():
                            task.result()
                    raise ArqdError(f"the side task {task.get_name()} has ended: the process cannot go on")
                pending.discard(task)
                error = task.exception()
                if error is not None:
                    await self._give_back([other for other in mains if other is not task])
                    with translated():
                        raise error

    async def _give_back(self, mains: list[asyncio.Task[None]]) -> None:
        """Hand back what runs before the process ends with an error."""
        for worker in self.workers:
            worker.drain()
            worker.hand_back()
        self.patient = False
        if mains:
            await asyncio.wait(mains, timeout=LAST_CALLS_SECONDS)

    async def _close(self, keepers: list[LeaseKeeper], tasks: list[asyncio.Task[None]]) -> None:
        self.state = "stopped"
        for keeper in keepers:
            keeper.stop()
        if self._draining is not None:
            self._draining.cancel()
        # Once is not enough: a cancellation that comes while redis-py opens a connection may be lost in it.
        while waiting := [task for task in tasks if not task.done()]:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting, timeout=0.1)
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*map(self._end, keepers))
        for worker in self.workers:
            try:
                await worker.close()
            except Exception:
                logger.exception("%s: on_shutdown failed", worker.family.name)
        await self.redis.aclose()
        if self._handle_signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().remove_signal_handler(number)
        logger.info("stopped")

    async def _end(self, keeper: LeaseKeeper) -> None:
        # An entry on a control list ends the thread's blocking pop.
        with contextlib.suppress(*LOST, RedisError):
            if self.redis_up:
                await self.redis.rpush(keeper.wake, "stop")
        await asyncio.to_thread(keeper.join, 3.0)
        with contextlib.suppress(*LOST, RedisError):
            if self.redis_up:
                await self.redis.delete(keeper.wake)

    async def _housekeeping(self, keepers: list[LeaseKeeper], watchdog: Watchdog) -> None:
        while True:
            if self.state == "starting" and all(worker.started for worker in self.workers):
                self.state = "running"
            if not all(keeper.alive for keeper in keepers):
                raise ArqdError("a thread that renews the leases has died")
            if not watchdog.alive:
                raise ArqdError("the thread that watches the event loop has died")
            for worker in self.workers:
                if worker.started:
                    try:
                        await worker.heart_beat()
                    except (*LOST, RedisError) as error:
                        logger.debug("%s: health check not recorded: %s", worker.family.name, error)
            await asyncio.sleep(1 if self.state == "running" else 0.05)

    # ------------------------------------------------------------------ drain

    def _on_signal(self, number: signal.Signals) -> None:
        logger.info("%s: %s", number.name, "handing back at once" if self._draining else "draining")
        self.drain()

    def drain(self) -> None:
        """Claim nothing more, wait for what runs, hand the rest back. A second call hands back at once."""
        if self._draining is not None:
            self._hurry.set()
            return
        self.state = "draining"
        if self._heartbeat:
            self._heartbeat.beat()
        self._draining = asyncio.get_running_loop().create_task(self._drain(), name="drain")

    async def _drain(self) -> None:
        for worker in self.workers:
            worker.drain()
        limit = max(family.values.drain_timeout for family in self.families)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._hurry.wait()
        for worker in self.workers:
            worker.hand_back()
        await asyncio.sleep(CLEAN_UP_SECONDS)
        for worker in self.workers:
            worker.abandon()
        self.patient = False

    # ------------------------------------------------------------------ jobs that do not end

    def replace(self) -> None:
        """A job ignores its cancellation: let the others end, and the process with `REPLACE_STATUS`."""
        self.replaced = True
        if self._draining is None:
            self.drain()

    def _replace_blocked(self, worker: Worker, run: Run, where: str) -> None:
        """A job blocks the event loop for good: charge it a try, hand the others back and end this process.

        Called in the watchdog's thread, the only one that can.
        """
        run.stop = run.stop or "overrun"
        late = time.perf_counter() - run.begun_at - run.timeout
        error = TimeoutError(
            f"{late:.0f} s past its time limit of {run.timeout:g} s it blocked the event loop, {where}"
        )
        outcome = worker.executor.decisions.decided(run, error)
        text = "%s: this process is replaced, and its other jobs are handed back"
        logger.error(text, error, extra=worker.executor.decisions.fields(run))
        try:
            asyncio.run(self._hand_over(worker, outcome))
        except (*LOST, RedisError) as lost:
            logger.error("not handed back: the jobs of this process run again when its lease has ended: %s", lost)
        end_process(REPLACE_STATUS)

    async def _hand_over(self, culprit: Worker, outcome: Outcome | None) -> None:
        client = connect(self.url)
        async with asyncio.timeout(LAST_CALLS_SECONDS):
            for worker in self.workers:
                last = [outcome] if worker is culprit and outcome else []
                await worker.session.hand_over(Broker(client, worker.keys), *last)

    # ------------------------------------------------------------------ heartbeat

    def snapshot(self) -> dict[str, Any]:
        """What the heartbeat file tells of this process (see `daemon.process.heartbeat`)."""
        return {
            "version": daemon.__version__,
            "pid": os.getpid(),
            "session": self.session,
            "started": self.started,
            "state": self.state,
            "redis_up": self.redis_up,
            "tasks": len(asyncio.all_tasks()),
            "families": {
                worker.family.name: {
                    "slots": worker.max_jobs,
                    "running": len(worker.running),
                    "claimable_since": worker.progress.claimable_since if worker.may_claim else None,
                    "last_claim": worker.progress.last_claim,
                    "metrics": worker.metrics.snapshot(),
                }
                for worker in self.workers
            },
        }
