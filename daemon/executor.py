"""One job: decode, validate, run, decide. What comes out is an `Outcome`; the worker hands it to the broker.

1. `prepare` reads a claim. One that cannot or must not run has its outcome at once.
2. `execute` runs the handler inside the job's context, with its hooks and its time limit.
3. `_completed`, `_failed` and `_stopped` turn the end into an outcome.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from arq.worker import Retry, RetryJob
from pydantic import ValidationError

from daemon import codec
from daemon.broker import Claim, Outcome
from daemon.context import JobContext, current_job
from daemon.dialect import Entry
from daemon.errors import InvalidJob, JobExpired, JobFailed, OtherRelease, RetryAfter, TooLarge
from daemon.family import JobFunction
from daemon.keys import spoken_id
from daemon.retry import Backoff

if TYPE_CHECKING:
    from daemon.worker import Worker

logger = logging.getLogger("arqd.job")

#: How often a handler that ignores its cancellation is cancelled again, seconds.
INSIST = 5.0
#: What the event loop can still count, seconds.
LONGEST_TIMEOUT = 1e9


@dataclass(slots=True)
class Run:
    """A claimed job on its way.

    Attributes:
        number: the call that claimed it; session and number are its token.
        job_try: which try this is, 1 for the first.
        stop: why it was cancelled: ``timeout``, ``abort``, ``drain`` (handed back) or ``lost`` (another worker has it).
    """

    claim: Claim
    number: int
    job_id: str
    entry: Entry | None = None
    function: JobFunction | None = None
    job_try: int = 1
    max_tries: int = 1
    options: Mapping[str, Any] | None = None
    context: JobContext | None = None
    task: asyncio.Task[None] | None = None
    stop: str | None = None
    started: float = 0.0
    begun_at: float = 0.0
    timeout: float = 0.0
    begun: bool = False

    @property
    def stamp(self) -> str:
        """The enqueue stamp, as the scripts compare it."""
        return self.entry.stamp if self.entry else ""

    @property
    def name(self) -> str:
        """The function's name, ``?`` where it could not be read."""
        return self.entry.function if self.entry else "?"


class Executor:
    """Runs the jobs of one worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.family = worker.family
        self.dialect = worker.dialect
        self._loop = asyncio.get_running_loop()
        self._hooks = worker.family.hooks
        self._threads: ThreadPoolExecutor | None = None
        self._async = {name: iscoroutinefunction(f.call) for name, f in worker.family.functions.items()}
        self._keep_ms = self._keep_of(None)
        self._keeps = {name: self._keep_of(function) for name, function in worker.family.functions.items()}

    # ------------------------------------------------------------------ 1. prepare

    def prepare(self, claim: Claim, number: int, now_ms: int) -> tuple[Run, Callable[[], Any] | Outcome]:
        """Give a claim as a `Run`, with the call to make or the outcome it already has.

        Args:
            number: of the call that claimed it.
            now_ms: Redis's clock.
        """
        run = Run(claim, number, claim.id.decode("utf-8", "surrogateescape"))
        run.started = time.time()
        try:
            return run, self._judge(run, now_ms)
        except OtherRelease as error:
            return run, self._park(run, f"{run.name}\x1f{error.lacks}", str(error))
        except ValidationError as error:
            return run, self._bury(run, error, "payload")
        except Exception as error:
            # Whatever somebody wrote into the queue: an entry must not end the worker that meets it.
            return run, self._bury(run, error, "unreadable")

    def _judge(self, run: Run, now_ms: int) -> Callable[[], Any] | Outcome:
        claim = run.claim
        run.job_try = (int(claim.tries) if claim.tries.isdigit() else 0) + 1
        if claim.record is not None:
            run.entry = self.dialect.read(claim.record)
        entry = run.entry
        if claim.aborted == b"1":
            return self._ended(run, "a", asyncio.CancelledError("aborted before it ran"), "aborted")
        if entry is None or 0 < entry.deadline_ms < now_ms:
            why = "its payload is gone" if entry is None else "its deadline passed before it could run"
            return self._ended(run, "e", JobExpired("JobExpired", why), "expired")
        run.function = function = self.family.functions.get(entry.function)
        if function is None:
            return self._park(run, entry.function, f"no worker knows the function {entry.function!r}")
        crashes = int(claim.crashes)
        if crashes >= (1 if function.at_most_once else self.family.values.max_crashes):
            crashed = JobFailed("WorkerCrashed", f"its worker died {crashes} times while it ran")
            return self._bury(run, crashed, "crashes")
        return self._call(run, function, entry, *self.dialect.bind(entry))

    def _call(
        self,
        run: Run,
        function: JobFunction,
        entry: Entry,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Callable[[], Any]:
        values = self.family.values
        run.options = options
        run.max_tries = options.get("n") or function.max_tries or values.max_tries
        if (options.get("t") or 0) > run.job_try:
            run.job_try = options["t"]
        run.timeout = min(entry.timeout_ms / 1000 or function.timeout or values.job_timeout, LONGEST_TIMEOUT)
        run.context = JobContext(
            self.worker,
            self.worker.ctx,
            run.job_id,
            function.name,
            run.job_try,
            entry.enqueued_ms,
            _whole(run.claim.score),
            options.get("g") or [],
        )
        if self._async[function.name]:
            return functools.partial(function.call, run.context, *args, **kwargs)
        return functools.partial(self._in_thread, run, functools.partial(function.call, run.context, *args, **kwargs))

    def _park(self, run: Run, need: str, why: str) -> Outcome:
        """Leave it to a worker that can run it (``lua/parked.lua``)."""
        logger.warning("parked: %s", why, extra=self.fields(run))
        return self._outcome(run, "p", need.encode(), 0, why.encode())

    def fields(self, run: Run) -> dict[str, Any]:
        """The job's log fields, for lines outside its context."""
        return {"job_id": spoken_id(run.job_id), "family": self.family.name, "function": run.name, "try": run.job_try}

    # ------------------------------------------------------------------ 2. execute

    async def execute(self, run: Run, call: Callable[[], Any]) -> None:
        """Run the handler and give the worker its outcome; never raises."""
        current_job.set(run.context)
        timer = self._loop.call_later(run.timeout, self._time_out, run)
        started = run.begun_at = time.perf_counter()
        outcome: Outcome | None
        run.begun = True
        try:
            if run.stop:
                raise asyncio.CancelledError
            if "on_job_start" in self._hooks:
                await self._hooks["on_job_start"](run.context)
            result = await call()
            outcome = self._completed(run, result)
        except BaseException as error:
            outcome = self._decided(run, error)
        timer.cancel()
        duration = time.perf_counter() - started
        await self._hook("on_job_end", run)
        self._tell(run, outcome, duration)
        self.worker.finished(run, outcome, duration)

    async def _hook(self, name: str, run: Run) -> None:
        """Run a hook after the work is done: what it raises is told, but changes nothing for the job."""
        if name in self._hooks:
            try:
                await self._hooks[name](run.context)
            except Exception:
                logger.exception("%s failed", name)

    async def after(self, run: Run) -> None:
        """Run ``after_job_end``, once the outcome is recorded."""
        current_job.set(run.context)
        await self._hook("after_job_end", run)

    def cancel(self, run: Run, why: str) -> None:
        """Cancel a running handler; a reason once given stays."""
        run.stop = run.stop or why
        # A task cancelled before its first step never runs, and would settle nothing: execute looks at `stop` itself.
        if run.task is not None and run.begun:
            run.task.cancel()
            # Once may not be enough: a handler may ignore it, and libraries lose a cancellation that comes as they end.
            self._loop.call_later(INSIST, self._insist, run)

    def _time_out(self, run: Run) -> None:
        if run.task is not None and not run.task.done() and run.stop is None:
            self.cancel(run, "timeout")

    def _insist(self, run: Run) -> None:
        if run.task is not None and not run.task.done():
            logger.error("does not end when it is cancelled", extra=self.fields(run))
            self.cancel(run, "")

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
                    self.worker.left_behind |= not thread.done()
                    raise
                if not thread.done():
                    logger.warning("timed out, but its thread cannot be stopped: its slot stays taken until it ends")
        if run.stop == "timeout":
            raise TimeoutError
        return result

    # ------------------------------------------------------------------ 3. decide

    def _completed(self, run: Run, result: Any) -> Outcome:
        ended = self._describe(run)
        try:
            record = self.dialect.result(ended, run.entry, result)
        except (InvalidJob, JobFailed) as error:
            return self._bury(run, error, "too_large" if isinstance(error, TooLarge) else "permanent")
        return self._outcome(run, "c", record, self._keep(run))

    def _decided(self, run: Run, error: BaseException) -> Outcome | None:
        """Decide without raising: an outcome that is never given would keep the slot for good."""
        try:
            return self._stopped(run) if run.stop in ("abort", "drain", "lost") else self._failed(run, error)
        except Exception as broken:
            logger.exception("the outcome of a failed try cannot be decided")
            return self._bury(run, broken, "permanent")

    def _failed(self, run: Run, error: BaseException) -> Outcome:
        """After a failed try: once more, or the dead letters."""
        function = run.function
        if isinstance(error, TimeoutError | asyncio.CancelledError) and run.stop == "timeout":
            error = TimeoutError(f"timed out after {run.timeout:g} s").with_traceback(error.__traceback__)
        if isinstance(error, RetryAfter):
            return self._told_to_wait(run, error)
        asked = isinstance(error, Retry | RetryJob)
        policy = self.worker.policy
        if not asked and (policy.is_permanent(error) or isinstance(error, function.permanent if function else ())):
            return self._bury(run, error, "permanent" if policy.retry_any else "tries")
        if run.job_try >= run.max_tries:
            return self._bury(run, error, "tries")
        if asked:
            delay = getattr(error, "defer_score", None) or 0
        else:
            carried = (run.options or {}).get("b")
            own = function.backoff if function else None
            backoff = Backoff.from_json(carried) if carried else own or policy.backoff
            delay = round(backoff.wait(run.job_try) * 1000)
        return self._outcome(run, "r", delay, run.job_try, self._history(run, error))

    def _told_to_wait(self, run: Run, error: RetryAfter) -> Outcome:
        till = datetime.fromtimestamp(time.time() + error.seconds, UTC)
        delay, note = round(error.seconds * 1000), f"told to wait until {till:%Y-%m-%d %H:%M:%S} UTC".encode()
        if error.scope == "job":
            return self._outcome(run, "l", delay, 0, note)
        return self._outcome(run, "w", delay, error.scope, note)

    def _stopped(self, run: Run) -> Outcome | None:
        """After we cancelled it ourselves: aborted, handed back uncounted, or no longer ours to settle."""
        if run.stop == "abort":
            return self._ended(run, "a", asyncio.CancelledError("aborted while it ran"), "aborted")
        return self.release(run) if run.stop == "drain" else None

    def release(self, run: Run) -> Outcome:
        """Back to its place in the queue; the try does not count."""
        return self._outcome(run, "l", -1)

    def _bury(self, run: Run, error: BaseException, reason: str) -> Outcome:
        record = self.dialect.failure(self._describe(run), run.entry, error, reason)
        keep = round(self.family.values.keep_failed * 1000) + 60_000
        kind, text = type(error).__name__, codec.text_of(error)
        if run.context is None:
            logger.error("dead letter without a run (%s): %s: %s", reason, kind, text, extra=self.fields(run))
        else:
            spent = {"duration": round(time.perf_counter() - run.begun_at, 6)}
            logger.error("dead letter (%s): %s: %s", reason, kind, text, exc_info=error, extra=spent)
        return self._outcome(run, "b", record, keep, self._history(run, error))

    def _ended(self, run: Run, kind: str, error: BaseException, reason: str) -> Outcome:
        return self._outcome(
            run, kind, self.dialect.failure(self._describe(run), run.entry, error, reason), self._keep(run)
        )

    def _outcome(self, run: Run, kind: str, a: bytes | int, b: int | str = 0, c: bytes = b"") -> Outcome:
        return Outcome(kind, run.claim.id, run.number, run.stamp, a, b, c, run.claim.score)

    def _keep(self, run: Run) -> int:
        return self._keeps[run.function.name] if run.function else self._keep_ms

    def _keep_of(self, function: JobFunction | None) -> int:
        """How long results are kept, ms: what is kept as long as the family's is trimmed through the index first."""
        own = function.keep_result if function else None
        forever = function.keep_result_forever if function else None
        if self.family.keep_result_forever if forever is None else forever:
            return -1
        ms = round((self.family.values.keep_result if own is None else own) * 1000)
        return ms + 60_000 if ms and own is None else ms

    def _describe(self, run: Run) -> codec.Ended:
        entry = run.entry
        started = int(run.started * 1000)
        return codec.Ended(
            run.job_id.encode("utf-8", "backslashreplace").decode(),
            entry.function if entry else "",
            self.worker.keys.queue,
            run.job_try,
            entry.enqueued_ms if entry else started,
            started,
            int(time.time() * 1000),
        )

    @staticmethod
    def _history(run: Run, error: BaseException) -> bytes:
        kind = error.type if isinstance(error, JobFailed) else type(error).__qualname__
        line = {"at": int(time.time() * 1000), "try": run.job_try, "type": kind, "message": codec.text_of(error)[:500]}
        return codec.encode(line)

    def _tell(self, run: Run, outcome: Outcome | None, duration: float) -> None:
        kind = outcome.kind if outcome else "lost"
        if outcome is not None and kind == "c":
            if logger.isEnabledFor(logging.INFO):
                logger.info("completed", extra={"duration": round(duration, 6)})
        elif outcome is not None and kind == "r":
            error = json.loads(outcome.c)
            logger.warning(
                "try %d of %d failed, again in %.1f s: %s: %s",
                run.job_try,
                run.max_tries,
                int(outcome.a) / 1000,
                error["type"],
                error["message"],
                extra={"duration": round(duration, 6)},
            )
        elif kind != "b":
            words = {
                "a": "aborted",
                "l": "handed back",
                "w": "told to wait",
                "lost": "cancelled: another worker has it",
            }
            logger.warning(words[kind], extra={"duration": round(duration, 6)})

    def close(self) -> None:
        """Let the threads end by themselves: they cannot be stopped."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


def _whole(score: bytes) -> int:
    """Give a score as arq's handlers expect it; 0 for one that no integer holds."""
    value = float(score)
    return int(value) if abs(value) < 2**62 else 0
