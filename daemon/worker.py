"""One family's loop: settle what ended and claim what is due in one call, start executors, sleep until woken.

1. `main` registers the session (sync), then goes round: `_round` is one call of the tick script.
2. `start` prepares each claim and runs it in a task; `finished` takes its outcome back.
3. With nothing to settle and nothing to claim it waits (`_idle`) for a job to end, the wake-up mark, or a due time.
4. A lost connection keeps the outcomes; after it, sync comes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from daemon.arq_worker import ArqWorker
from daemon.broker import Broker, Claim, Outcome, Tick, TickSettings
from daemon.claiming.prefetch import Prefetch
from daemon.claiming.progress import Progress
from daemon.claiming.session import SUSPECT_SCORE, Session
from daemon.connecting.connections import LOST, connect
from daemon.executor import Executor
from daemon.family import Family
from daemon.keys import spoken_id
from daemon.limits.permits import Permits
from daemon.metrics import OUTCOME_OF_KIND, FamilyMetrics
from daemon.process.pool import ProcessPool
from daemon.producer import Producer
from daemon.retry import RetryPolicy
from daemon.running.dialect import ArqdDialect, StockDialect
from daemon.running.listeners import Listeners
from daemon.running.run import Run

if TYPE_CHECKING:
    from daemon.supervisor import Supervisor

logger = logging.getLogger("arqd.worker")


class Worker(ArqWorker):
    """Runs one family's jobs in this process.

    Args:
        family: what to run.
        supervisor: the process: session, connections, lease renewal and wake-ups are shared by its workers.
        burst: end when nothing waits any more.
    """

    def __init__(
        self, family: Family, supervisor: Supervisor, *, burst: bool = False, max_burst_jobs: int = -1
    ) -> None:
        self.metrics = FamilyMetrics(family.functions)
        super().__init__(family, supervisor, burst=burst, max_burst_jobs=max_burst_jobs)
        stock, values = family.stock or {}, family.values
        self.broker = Broker(supervisor.redis, family.keys)
        self.producer = Producer(
            supervisor.redis,
            max_payload=values.max_payload,
            open_blocking=lambda timeout: connect(supervisor.url, timeout=timeout),
            templates=supervisor.templates,
            keyring=supervisor.keyring,
        )
        self.policy = RetryPolicy(values.max_tries, values.backoff, family.permanent, family.stock is None)
        self.keyring = supervisor.keyring
        stock_dialect = None if family.stock is None else StockDialect(self.serializer, self.deserializer)
        self.dialect = stock_dialect or ArqdDialect(family, self.keyring)
        self.progress = Progress()
        self.executor: Executor
        ages = [f.keep_result for f in family.functions.values() if f.keep_result is not None]
        forever = family.keep_result_forever or any(f.keep_result_forever for f in family.functions.values())
        self.tick_settings = TickSettings(
            lease=round(values.lease * 1000),
            default_timeout=round(max(f.timeout or values.job_timeout for f in family.functions.values()) * 1000),
            max_crashes=values.max_crashes,
            keep_count=-1 if values.keep_completed is None else values.keep_completed,
            # The index keeps what is kept longest; the expiry of the others' results ends them before.
            keep_age=-1 if forever else round(max([values.keep_result, *ages]) * 1000),
            poll=0 if family.stock is None else max(50, round(stock.get("poll_delay", 0.5) * 1000)),
        )
        self.lease_ms = self.tick_settings.lease
        self.keep_ms = self.tick_settings.keep_age
        self.keep_failed_ms = round(values.keep_failed * 1000)
        self.session = Session(self)
        self.permits = Permits(self) if values.shared_limits else None
        self.prefetch, self.listeners = Prefetch(self), Listeners(self)
        self._claimed: list[tuple[Claim, int, int]] = []
        self._claimable = True
        self._in_call = self._restore_mark = self._heard = self._awoken = False
        self._due: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        #: For CPU work.
        self.processes = ProcessPool()
        self.started = False
        #: Whether code of handed-back jobs still runs here and cannot be stopped.
        self.left_behind = False

    # ------------------------------------------------------------------ what others ask of it

    @property
    def busy(self) -> bool:
        """Whether it runs a job, has one to settle, or is in a call that may bring one."""
        return bool(self.running or self._claimed or self.prefetch.busy or self.session.outcomes or self._in_call)

    @property
    def may_claim(self) -> bool:
        """Whether it has a free slot and nothing forbids to fill it."""
        return self.started and self._free() > 0

    @property
    def slots_left(self) -> int:
        """Slots in which nothing runs and for which no job was claimed."""
        return self.max_jobs - len(self.running) - len(self._claimed)

    @property
    def listening(self) -> bool:
        """Whether it wants to hear of work."""
        return not self._claimable and not self._awoken and self.may_claim

    def notify(self) -> None:
        """There is work to claim: the wake-up mark was taken for it."""
        # Taken while all slots are busy, the mark must go back for another process: one tick without claims does that.
        self._restore_mark = self._free() == 0
        self._claimable = self._heard = True
        self._wake.set()

    def take(self, claim: Claim, number: int, now_ms: int) -> None:
        """Start a job that was claimed in its sleep; it listens again once it has seen if its first step ends it."""
        self._awoken = True
        self.progress.replied(claims=True, waits=False)
        self.start(claim, number, now_ms)
        self._wake.set()

    def nudge(self) -> None:
        """Something changed that it should look at."""
        self._wake.set()

    def control(self, message: str) -> None:
        """Take a message: ``abort <claim number> <id>``, ``parked`` (it may try some), ``layout <found>``."""
        verb, _, rest = message.partition(" ")
        if verb == "parked":
            self.notify_due()
        elif verb == "layout":
            self.session.outdate(rest)
        elif verb == "abort":
            number, _, job_id = rest.partition(" ")
            self.executor.abort(job_id.encode("utf-8", "surrogateescape"), number)

    def drain(self) -> None:
        """Claim nothing more; `main` ends when what runs has ended."""
        self.draining = True
        self.prefetch.start()
        self._wake.set()

    def hand_back(self) -> None:
        """Cancel what runs; the jobs return to their places at once and the try does not count."""
        for run in list(self.running.values()):
            self.executor.cancel(run, "drain")
        self._wake.set()

    def abandon(self) -> None:
        """Give up on handlers that do not end when they are cancelled: their jobs are handed back all the same."""
        for run in list(self.running.values()):
            self.left_behind = True
            fields = self.executor.decisions.fields(run)
            logger.error("does not end when it is cancelled: handed back while it still runs", extra=fields)
            self.finished(run, self.executor.decisions.release(run), 0.0)

    def lost(self) -> None:
        """The lease could not be renewed: Redis does not know this session any more, so register again."""
        self._restore_mark = True
        self._wake.set()

    async def report_progress(self, job_id: str, percent: int, note: str | None) -> None:
        """See `JobContext.progress`; a lost connection is no reason to fail the job."""
        try:
            run = self.running.get(job_id.encode("utf-8", "surrogateescape"))
            detail = f"{run.name}\t{run.job_try}" if run else ""
            await self.broker.progress(self.supervisor.session, job_id, percent, note or "", detail)
        except LOST as error:
            logger.warning("progress of %s not reported: %s", spoken_id(job_id), error)

    # ------------------------------------------------------------------ the loop

    async def main(self) -> None:
        """Work until drained (or, in a burst, until nothing waits)."""
        self.executor = Executor.chosen(self)
        self.ctx["redis"] = self.pool
        async with self.session.kept():
            await self.session.until_reached(self.session.register)
            if "on_startup" in self.family.hooks:
                try:
                    await self.family.hooks["on_startup"](self.ctx)
                except BaseException:
                    # It must not count as a worker until its lease ends.
                    await self.session.leave()
                    raise
            self.started = True
            known = ", ".join(sorted(self.family.functions))
            logger.info("%s: %d slots, functions %s", self.family.name, self.max_jobs, known)
            while True:
                if self._must_tick():
                    await self._round()
                elif (self.draining and not self.busy) or (self.burst and not self.busy and await self._burst_over()):
                    break
                else:
                    await self._idle()

    def _free(self, ahead: int = 0) -> int:
        """Slots it may fill now, with these that do not exist."""
        if self.draining or self.supervisor.isolated_from(self) or (self.permits and self.permits.held_up):
            return 0
        free = self.slots_left + ahead - len(self.prefetch)
        if self.max_burst_jobs >= 0:
            free = min(free, self.max_burst_jobs - self._jobs_started() - len(self.running) - len(self._claimed))
        return max(free, 0)

    def _must_tick(self) -> bool:
        if self.session.outcomes or self.session.carries or self._restore_mark:
            return True
        if self.permits is not None and self.permits.due:
            return True
        return self._claimable and self._free() > 0

    async def _round(self) -> None:
        """One tick. While it waits for its turn, or for the reply, the claims of the one before are started."""
        if self.supervisor.turns.all_taken:
            self.start_claimed()
        turn = await self.supervisor.turns.take()
        alone = self.supervisor.isolates(self)
        ahead = 0 if self.supervisor.turns.all_taken else self.prefetch.size
        slots, wanted = (self._free(), self._free(ahead)) if self._claimable else (0, 0)
        # Of work it hears by its pop: that need not wait for the reply, nor the reply tell of any.
        asleep = not (self._claimable or self._restore_mark or self._claimed or self.prefetch or self.permits)
        self._restore_mark = self._heard = False
        self._in_call = not asleep
        sent = self.loop.time()
        try:
            meanwhile = self._listen if asleep else self.start_claimed
            reply = await self.session.tick(-1 if asleep else wanted, slots, alone, meanwhile)
        finally:
            turn.end()
            self._in_call = False
        if reply is None:
            self._claimable = True
            return
        if reply.told:
            self.supervisor.courier.wake()
        self._plan(reply)
        self.prefetch.observe(sent, self.loop.time())
        self._claimed = [(claim, self.session.number, reply.now) for claim in reply.claims[:slots]]
        if len(reply.claims) > slots:
            self.prefetch.add(reply.claims[slots:], self.session.number, reply.now)
        if alone:
            suspect = any(float(claim.score) >= SUSPECT_SCORE for claim in reply.claims)
            self.supervisor.isolate(self if suspect else None)
        if reply.drain:
            self.supervisor.isolate(self)
        # Only now: whoever isolates claims no more, so no call follows that would start them.
        if not self._must_tick():
            self.start_claimed()

    def _plan(self, reply: Tick) -> None:
        """Decide when to look again; where the call has not looked (``wait`` -1), when it was decided before."""
        if reply.wait < 0:
            return
        waiting = reply.wait == 0
        self.progress.replied(claims=bool(reply.claims), waits=waiting)
        # A mark taken while the call was under way may be of a job that came after it.
        self._claimable = waiting or self._heard
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if wait := reply.wait or self.tick_settings.poll:
            self._due = self.loop.call_later(wait / 1000, self.notify_due)

    def notify_due(self) -> None:
        """A job came due, or a lease may have ended."""
        self._claimable = True
        # On a queue that is shared with stock arq a full worker looks, too: a stock abort() sends no message.
        self._restore_mark = self._restore_mark or (self.tick_settings.poll > 0 and self._free() == 0)
        self._wake.set()

    def start_claimed(self) -> None:
        """Start what the last reply brought."""
        claimed, self._claimed = self._claimed, []
        for claim, number, now in claimed:
            self.start(claim, number, now)
        self.prefetch.start()

    def start(self, claim: Claim, number: int, now_ms: int) -> None:
        """Start a job.

        Args:
            number: of the call that claimed it.
            now_ms: Redis's clock then.
        """
        if self.draining:
            # It came with the last call before the drain.
            self.session.outcomes.append(Outcome("l", claim.id, number, "", -1, score=claim.score))
            return
        run, call = self.executor.prepare(claim, number, now_ms)
        if isinstance(call, Outcome):
            self.ended(run, call, 0.0)
        else:
            self.begin(run, call)

    def begin(self, run: Run, call: Callable[[], Any]) -> None:
        """Run what was prepared, in a slot."""
        self.running[run.claim.id] = run
        run.task = self.loop.create_task(self.executor.execute(run, call))

    def finished(self, run: Run, outcome: Outcome | None, duration: float) -> None:
        """Take the outcome of a job that ran; None when it is not ours to settle any more."""
        if self.running.get(run.claim.id) is not run:
            # It was given up before; what runs under its id now is another claim.
            return
        del self.running[run.claim.id]
        self.prefetch.slot_free()
        self.settle(run, outcome, duration)

    def settle(self, run: Run, outcome: Outcome | None, duration: float) -> None:
        """See `finished`; its slot has been given away."""
        if outcome is not None:
            self.ended(run, outcome, duration)
        else:
            self._count(run, "l", duration)
        if not self.running:
            self.supervisor.job_ended(self)
        self._wake.set()

    def ended(self, run: Run, outcome: Outcome, duration: float) -> None:
        """A claim has this outcome: the next call tells Redis."""
        self.session.outcomes.append(outcome)
        self._count(run, outcome.kind, duration)
        self.listeners.note(run, outcome)

    def _count(self, run: Run, kind: str, duration: float) -> None:
        self.metrics.observe(run.name, OUTCOME_OF_KIND[kind], run.waited, duration)
        if kind == "c":
            self.jobs_complete += 1
        elif kind == "r":
            self.jobs_retried += 1
        elif kind not in "lwp":
            self.jobs_failed += 1

    async def _idle(self) -> None:
        """Sleep until a job ends, work comes, or a time is due."""
        self._wake.clear()
        if self._must_tick() or (self.draining and not self.busy):
            return
        if self.may_claim and not self._claimable:
            if self.running:
                # What has just begun may end in its first step, and is then settled before anything else is sent.
                await asyncio.sleep(0)
                if self._wake.is_set():
                    return
            self._listen()
        await self._wake.wait()

    def _listen(self) -> None:
        self._awoken = False
        self.supervisor.listen()

    async def _burst_over(self) -> bool:
        if 0 <= self.max_burst_jobs <= self._jobs_started():
            return True
        pending, suspects = await self.session.until_reached(self.session.pending)
        if suspects and not pending:
            self.supervisor.isolate(self)
        return not (pending or suspects)

    async def close(self) -> None:
        """Run ``on_shutdown`` and close what it opened."""
        await self.listeners.close()
        if "on_shutdown" in self.family.hooks and self.started:
            await self.family.hooks["on_shutdown"](self.ctx)
        await self.producer.replies.close()
        if hasattr(self, "executor"):
            self.executor.close()
        self.processes.close()
        with contextlib.suppress(*LOST, RedisError):
            if self.supervisor.redis_up:
                await self.client.delete(self.health_check_key)
