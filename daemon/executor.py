"""One job: decode, validate, run. What comes out is an `Outcome`; the worker hands it to the broker.

1. `prepare` reads a claim. One that cannot or must not run has its outcome at once. A large body is read in a thread.
2. `execute` runs the handler inside the job's context, with its hooks and its time limit.

What becomes of a job that has ended is for `daemon.decisions`.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, ClassVar

from arq.worker import Retry
from pydantic import ValidationError

from daemon.broker import Claim, Outcome
from daemon.carried import REQUEST, request_id
from daemon.context import JobContext, current_job
from daemon.decisions import Decisions
from daemon.encryption import JobCipher
from daemon.errors import JobExpired, JobFailed, KeyMissing, OtherRelease
from daemon.family import JobFunction
from daemon.running.deadlines import Deadlines
from daemon.running.dialect import Entry
from daemon.running.listeners import tell
from daemon.running.run import Run

if TYPE_CHECKING:
    from daemon.worker import Worker

logger = logging.getLogger("arqd.job")

#: How often a handler that ignores its cancellation is cancelled again, seconds.
INSIST = 5.0
#: A handler that took longer has waited for something, seconds.
WAITED = 0.001
#: How often a job that is to be aborted is looked for, and how long after each other, seconds.
ABORT_LOOKS, ABORT_AGAIN = 50, 0.1
#: What the event loop can still count, seconds.
LONGEST_TIMEOUT = 1e9
#: A longer body is validated in a thread, bytes: its checks, one for each of many addresses perhaps, would hold up all
#: else in the process. For a shorter one the way to a thread and back takes longer than they do.
LARGE = 32_768


class Executor:
    """Runs the jobs of one worker."""

    #: What workers take: one that also tells others of what it runs (`daemon.instruments`), where there are any.
    chosen: ClassVar[type[Executor]]

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.family = worker.family
        self.dialect = worker.dialect
        self.decisions = Decisions(worker)
        self._loop = asyncio.get_running_loop()
        self._hooks = worker.family.hooks
        self.deadlines = Deadlines(self._time_out)
        self._threads: ThreadPoolExecutor | None = None
        self._ring, self._whole = worker.keyring, worker.family.values.encrypted
        self._async = {name: iscoroutinefunction(f.call) for name, f in worker.family.functions.items()}

    # ------------------------------------------------------------------ 1. prepare

    def prepare(self, claim: Claim, number: int, now_ms: int) -> tuple[Run, Callable[[], Any] | Outcome]:
        """Give a claim as a `Run`, with the call to make or the outcome it already has.

        Args:
            number: of the call that claimed it.
            now_ms: Redis's clock.
        """
        run = Run(claim, number, claim.id.decode("utf-8", "surrogateescape"))
        if self._ring:
            run.cipher = JobCipher(self._ring, self.family.keys.family, run.job_id, self._whole)
        try:
            return run, self._judge(run, now_ms)
        except Exception as error:
            # Whatever somebody wrote into the queue: an entry must not end the worker that meets it.
            return run, self._unread(run, error)

    def _unread(self, run: Run, error: Exception) -> Outcome:
        if isinstance(error, OtherRelease):
            return self._park(run, f"{run.name}\x1f{error.lacks}", str(error))
        if isinstance(error, KeyMissing):
            return self._park(run, *self.decisions.need_of(run, error))
        return self.decisions.bury(run, error, "payload" if isinstance(error, ValidationError) else "unreadable")

    def _judge(self, run: Run, now_ms: int) -> Callable[[], Any] | Outcome:
        claim = run.claim
        if claim.tries != b"0":
            run.job_try = (int(claim.tries) if claim.tries.isdigit() else 0) + 1
        if claim.record is not None:
            run.entry = self.dialect.read(claim.record)
        entry = run.entry
        if claim.aborted == b"1":
            return self.decisions.ended(run, "a", asyncio.CancelledError("aborted before it ran"), "aborted")
        if entry is None or 0 < entry.deadline_ms < now_ms:
            why = "its payload is gone" if entry is None else "its deadline passed before it could run"
            return self.decisions.ended(run, "e", JobExpired("JobExpired", why), "expired")
        if claim.child:
            return self.decisions.bury(run, JobFailed("ChildFailed", claim.child.decode()), "child")
        run.function = function = self.family.functions.get(entry.function)
        if function is None:
            return self._park(run, entry.function, f"no worker knows the function {entry.function!r}")
        if claim.crashes != b"0" and self._crashed_too_often(function, crashes := int(claim.crashes)):
            crashed = JobFailed("WorkerCrashed", f"its worker died {crashes} times while it ran")
            return self.decisions.bury(run, crashed, "crashes")
        run.max_tries = function.max_tries or self.family.values.max_tries
        run.timeout = min(
            entry.timeout_ms / 1000 or function.timeout or self.family.values.job_timeout, LONGEST_TIMEOUT
        )
        # One of stock arq's is decoded by now: a tuple.
        if len(entry.body) > LARGE:
            return functools.partial(self._read_large, run, function, entry)
        return self._call(run, function, *self.dialect.bind(entry, run.cipher))

    def _crashed_too_often(self, function: JobFunction, crashes: int) -> bool:
        return crashes >= (1 if function.at_most_once else self.family.values.max_crashes)

    def _call(
        self,
        run: Run,
        function: JobFunction,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Callable[[], Any] | Outcome:
        run.options = options
        if options:
            run.max_tries = options.get("n") or run.max_tries
            if (options.get("t") or 0) > run.job_try:
                run.job_try = options["t"]
        if self.family.stock is not None and run.job_try > run.max_tries:
            # A stock worker puts a job back after its last try, for the next one to find that it was the last.
            run.job_try = run.max_tries
            return self.decisions.bury(run, Retry(), "tries")
        run.args, run.kwargs = args, kwargs
        run.context = JobContext(self.worker, self.worker.ctx, run)
        if self._async[function.name]:
            return functools.partial(function.call, run.context, *args, **kwargs)
        return functools.partial(self._in_thread, run, functools.partial(function.call, run.context, *args, **kwargs))

    def _park(self, run: Run, need: str, why: str) -> Outcome:
        """Leave it to a worker that can run it (``lua/parked.lua``)."""
        logger.warning("parked: %s", why, extra=self.decisions.fields(run))
        return self.decisions.outcome(run, "p", need.encode(), 0, why.encode())

    # ------------------------------------------------------------------ 2. execute

    async def execute(self, run: Run, call: Callable[[], Any]) -> None:
        """Run the handler and give the worker its outcome; never raises."""
        if run.args is None:
            await call()
            return
        current_job.set(run.context)
        if run.options and (serves := run.options.get(REQUEST)):
            request_id.set(serves)
        self.deadlines.watch(run)
        run.begun_at = time.perf_counter()
        outcome: Outcome | None
        run.begun = True
        try:
            if run.stop:
                raise asyncio.CancelledError
            if "on_job_start" in self._hooks:
                await self._hooks["on_job_start"](run.context)
            result = await call()
            run.ended_at = time.perf_counter()
            if run.ended_at - run.begun_at > WAITED and self.worker.prefetch and "on_job_end" not in self._hooks:
                complete = functools.partial(contextvars.copy_context().run, self._complete, run, result)
                if self.worker.prefetch.goes_first(run, complete):
                    return
            outcome = self.decisions.completed(run, result)
        except BaseException as error:
            run.ended_at = time.perf_counter()
            outcome = self.decisions.decided(run, error)
        if "on_job_end" in self._hooks:
            self.deadlines.forget(run)
            await tell("on_job_end", self._hooks["on_job_end"], run.context)
        self._end(run, outcome, self.worker.finished)

    async def _read_large(self, run: Run, function: JobFunction, entry: Entry) -> None:
        """Validate a large body in a thread, within a time limit as long as the handler's; then `execute`."""
        run.context = JobContext(self.worker, self.worker.ctx, run)
        current_job.set(run.context)
        self.deadlines.watch(run)
        run.begun_at = time.perf_counter()
        run.begun = True
        try:
            if run.stop:
                raise asyncio.CancelledError
            bound = await asyncio.to_thread(self.dialect.bind, entry, run.cipher)
            call = self._call(run, function, *bound)
            assert not isinstance(call, Outcome)
        except BaseException as error:
            run.ended_at = time.perf_counter()
            run.begun = False
            if not isinstance(error, Exception):
                self._end(run, self.decisions.decided(run, error), self.worker.finished)
                return
            outcome = self._unread(run, error)
            self.deadlines.forget(run)
            self.worker.finished(run, outcome, run.ended_at - run.begun_at)
            run.task = run.context = None
        else:
            await self.execute(run, call)

    # Not in the job's task any more, so nothing can cancel it; in its context, as its log line belongs to it.
    def _complete(self, run: Run, result: Any) -> None:
        try:
            outcome: Outcome | None = self.decisions.completed(run, result)
        except BaseException as error:
            outcome = self.decisions.decided(run, error)
        self._end(run, outcome, self.worker.settle)

    def _end(self, run: Run, outcome: Outcome | None, settle: Callable[[Run, Outcome | None, float], None]) -> None:
        duration = run.ended_at - run.begun_at
        self.deadlines.forget(run)
        try:
            self.decisions.tell(run, outcome, duration)
        except Exception:
            # A log that cannot be written must not keep a job from ending; told as logging tells of its handlers.
            traceback.print_exc()
        settle(run, outcome, duration)
        # The two refer to the run, each in its way: taken apart here, no garbage collector has to look for them, which
        # would cost more than a quarter of all that a job does.
        run.task = run.context = None

    def cancel(self, run: Run, why: str) -> None:
        """Cancel a running handler; a reason once given stays."""
        run.stop = run.stop or why
        # A task cancelled before its first step never runs, and would settle nothing: execute looks at `stop` itself.
        if run.task is not None and run.begun:
            run.task.cancel()
            # Once may not be enough: a handler may ignore it, and libraries lose a cancellation that comes as they end.
            self._loop.call_later(INSIST, self._insist, run)
            if why:
                self._loop.call_later(self.family.values.max_overrun, self._give_up, run)

    def abort(self, job_id: bytes, number: str, looks: int = ABORT_LOOKS) -> None:
        """Abort a job that runs, or waits here, by the number of the call that claimed it."""
        run = self.worker.running.get(job_id)
        if run is not None:
            if str(run.number) == number and run.stop is None:
                self.cancel(run, "abort")
        elif not self.worker.prefetch.abort(job_id, number) and looks:
            # The claim may be heard of only after that: it comes over another connection.
            self._loop.call_later(ABORT_AGAIN, self.abort, job_id, number, looks - 1)

    def _time_out(self, run: Run) -> None:
        if run.task is not None and not run.task.done() and run.stop is None:
            self.cancel(run, "timeout")

    def _insist(self, run: Run) -> None:
        if run.task is not None and not run.task.done():
            logger.error("does not end when it is cancelled", extra=self.decisions.fields(run))
            self.cancel(run, "")

    def _give_up(self, run: Run) -> None:
        """It does not end: settle it without, and have the process replaced, since nothing else frees its slot."""
        if run.task is None or run.task.done() or self.worker.running.get(run.claim.id) is not run:
            return
        overrun = self.family.values.max_overrun
        logger.error(
            "has not ended %g s after it was cancelled: this process is replaced",
            overrun,
            extra=self.decisions.fields(run),
        )
        self.worker.left_behind = True
        outcome = self.decisions.decided(run, TimeoutError())
        self.worker.finished(run, outcome, time.perf_counter() - run.begun_at)
        self.worker.supervisor.replace()

    async def _in_thread(self, run: Run, call: Callable[[], Any]) -> Any:
        """Run a plain function in a thread; it cannot be interrupted, so past its limit the slot stays taken."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.family.values.max_jobs, "arqd-job")
        context = contextvars.copy_context()
        thread = self._loop.run_in_executor(self._threads, functools.partial(context.run, call))
        while True:
            try:
                result = await asyncio.shield(thread)
                break
            except asyncio.CancelledError:
                if run.stop != "timeout":
                    if not thread.done():
                        self.worker.left_behind = True
                        # It is taken, perhaps for good: what comes next gets others.
                        self._threads = None
                    raise
                if not thread.done():
                    logger.warning("timed out, but its thread cannot be stopped: its slot stays taken until it ends")
        if run.stop == "timeout":
            raise TimeoutError
        return result

    def close(self) -> None:
        """Let the threads end by themselves: they cannot be stopped."""
        self.deadlines.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


Executor.chosen = Executor
