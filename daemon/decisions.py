"""What becomes of a job after its try: an `Outcome`, which the worker hands to the broker.

`completed`, `decided` (after an error) and `release` turn the end of a run into an outcome, `bury` and `ended` that of
a claim that cannot or must not run; `tell` writes the log line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from arq.worker import Retry, RetryJob

from daemon import codec
from daemon.broker import Outcome
from daemon.carried import REQUEST
from daemon.causes import cause_of
from daemon.encryption import MASK, is_sealed
from daemon.errors import ClaimLost, InvalidJob, JobFailed, KeyMissing, RetryAfter, TooLarge, Unreadable
from daemon.family import LISTENERS, JobFunction
from daemon.keys import spoken_id
from daemon.retry import Backoff
from daemon.running.observer import Observer
from daemon.running.run import Run

if TYPE_CHECKING:
    from daemon.worker import Worker

logger = logging.getLogger("arqd.job")


class Decisions:
    """Decides for the jobs of one worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.family = worker.family
        self.dialect = worker.dialect
        self._observer = Observer(worker.family.values)
        self._queue = worker.keys.queue
        self._encrypted = worker.family.values.encrypted
        self._listened = not worker.family.hooks.keys().isdisjoint(LISTENERS)
        self._keep_ms = self._keep_of(None)
        self._keeps = {name: self._keep_of(function) for name, function in worker.family.functions.items()}

    def completed(self, run: Run, result: Any) -> Outcome:
        """Completed; a result that cannot be kept makes it a dead letter."""
        ended = self._describe(run)
        try:
            record = self.dialect.result(ended, run.entry, result, run.cipher)
        except (InvalidJob, JobFailed) as error:
            return self.bury(run, error, "too_large" if isinstance(error, TooLarge) else "permanent")
        keep: int | str = self._keep(run)
        if run.options and (own := run.options.get("k")):
            keep = own.get("c") or keep
        return self.outcome(run, "c", record, keep, b"1" if run.claim.tries == b"0" else b"")

    def decided(self, run: Run, error: BaseException) -> Outcome | None:
        """Decide without raising: an outcome that is never given would keep the slot for good."""
        try:
            return self._stopped(run) if run.stop in ("abort", "drain", "lost") else self._failed(run, error)
        except Exception as broken:
            text, fields = "the outcome of a failed try cannot be decided", self._logged(broken)
            logger.error("%s: %s", text, fields.pop("text"), **fields)
            return self.bury(run, broken, "permanent")

    def _failed(self, run: Run, error: BaseException) -> Outcome:
        """After a failed try: once more, or the dead letters."""
        function = run.function
        if isinstance(error, TimeoutError | asyncio.CancelledError) and run.stop == "timeout":
            error = TimeoutError(f"timed out after {run.timeout:g} s").with_traceback(error.__traceback__)
        if isinstance(error, RetryAfter) and not _out_of_patience(run, error):
            return self._told_to_wait(run, error)
        if isinstance(error, ClaimLost):
            # Refused if another has it; after a failover it may be ours all the same, and must not stay so.
            return self.release(run)
        if isinstance(error, KeyMissing):
            # Of what an earlier try left, a receipt perhaps: it runs where that key is.
            need, why = self.need_of(run, error)
            return self.outcome(run, "p", need.encode(), 0, why.encode())
        asked = isinstance(error, Retry | RetryJob | RetryAfter)
        policy = self.worker.policy
        if not asked and (policy.is_permanent(error) or isinstance(error, function.permanent if function else ())):
            return self.bury(run, error, "permanent" if policy.retry_any else "tries")
        if run.job_try >= run.max_tries:
            return self.bury(run, error, "tries")
        if isinstance(error, RetryAfter):
            delay = round(error.seconds * 1000)
        elif asked:
            delay = getattr(error, "defer_score", None) or 0
        else:
            carried = (run.options or {}).get("b")
            own = function.backoff if function else None
            backoff = Backoff.from_json(carried) if carried else own or policy.backoff
            delay = round(backoff.wait(run.job_try) * 1000)
        self._note(run, error)
        return self.outcome(run, "r", delay, run.job_try, self._history(run, error))

    def _told_to_wait(self, run: Run, error: RetryAfter) -> Outcome:
        till = datetime.fromtimestamp(time.time() + error.seconds, UTC)
        delay, note = round(error.seconds * 1000), f"told to wait until {till:%Y-%m-%d %H:%M:%S} UTC".encode()
        if error.scope == "job":
            return self.outcome(run, "l", delay, 0, note)
        return self.outcome(run, "w", delay, error.scope, note)

    def _stopped(self, run: Run) -> Outcome | None:
        """After we cancelled it ourselves: aborted, handed back uncounted, or no longer ours to settle."""
        if run.stop == "abort":
            return self.ended(run, "a", asyncio.CancelledError("aborted while it ran"), "aborted")
        return self.release(run) if run.stop == "drain" else None

    def release(self, run: Run) -> Outcome:
        """Back to its place in the queue; the try does not count."""
        return self.outcome(run, "l", -1)

    def bury(self, run: Run, error: BaseException, reason: str) -> Outcome:
        """To the dead letters."""
        self._note(run, error)
        record = self.dialect.failure(self._describe(run), run.entry, error, reason, run.cipher)
        keep = self._own_keep(run).get("b") or round(self.family.values.keep_failed * 1000) + 60_000
        logged = self._logged(error)
        text = logged.pop("text")
        if run.context is None:
            logger.error("dead letter without a run (%s): %s", reason, text, extra=self.fields(run))
        else:
            spent = {"duration": round(time.perf_counter() - run.begun_at, 6)}
            logger.error("dead letter (%s): %s", reason, text, extra=spent, **logged)
        outcome = self.outcome(run, "b", record, keep, self._history(run, error))
        return outcome._replace(c=outcome.c + b"\n" + self._cause(run, error))

    def _cause(self, run: Run, error: BaseException) -> bytes:
        function = run.entry.function if run.entry else ""
        module = getattr(run.function.call, "__module__", None) if run.function else None
        return cause_of(error, self.family.name, function, module or "", hidden=self._encrypted).line(function)

    def _note(self, run: Run, error: BaseException) -> None:
        # Only for listeners: an error holds its traceback, and that the run.
        if self._listened:
            run.error = error

    def ended(self, run: Run, kind: str, error: BaseException, reason: str) -> Outcome:
        """Aborted or expired: an end without a result that is not a failure."""
        record = self.dialect.failure(self._describe(run), run.entry, error, reason, run.cipher)
        if run.context is None:
            logger.warning("%s without a run: %s", reason, codec.text_of(error), extra=self.fields(run))
        return self.outcome(run, kind, record, self._keep(run))

    def outcome(self, run: Run, kind: str, a: bytes | int, b: int | str = 0, c: bytes = b"") -> Outcome:
        """Any outcome; see ``lua/tick.lua`` for what a, b and c mean."""
        detail, share = self._observer.observe(run, kind, a, c)
        claim, entry = run.claim, run.entry
        stamp = entry.stamp if entry else ""
        # Without the Python function that a named tuple's class has for it: one is made for every job.
        return tuple.__new__(Outcome, (kind, claim.id, run.number, stamp, a, b, c, detail, claim.score, share))

    @staticmethod
    def _own_keep(run: Run) -> Mapping[str, str]:
        """What the job brings of its own; also one whose arguments could not be read."""
        options = run.options
        if options is None and run.entry is not None and isinstance(run.entry.body, bytes):
            with contextlib.suppress(Unreadable):
                _, _, options = codec.decode_body(run.entry.body)
        own = options.get("k") if isinstance(options, dict) else None
        return own if isinstance(own, dict) else {}

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
        job_id = run.job_id if run.job_id.isascii() else run.job_id.encode("utf-8", "backslashreplace").decode()
        function, enqueued = (entry.function, entry.enqueued_ms) if entry else ("", started)
        queue, now = self._queue, int(time.time() * 1000)
        return tuple.__new__(codec.Ended, (job_id, function, queue, run.job_try, enqueued, started, now))

    @staticmethod
    def _history(run: Run, error: BaseException) -> bytes:
        line = codec.encode({"at": int(time.time() * 1000), "try": run.job_try, "type": codec.type_of(error)})
        return line[:-1] + b',"message":' + run.kept("history", codec.encode(codec.text_of(error)[:500])) + b"}"

    def _logged(self, error: BaseException) -> dict[str, Any]:
        """What the log may tell of an error: of an encrypted family only its type, and where it was raised."""
        kind = type(error).__name__
        if not self._encrypted:
            return {"text": f"{kind}: {codec.text_of(error)}", "exc_info": error}
        frames = traceback.extract_tb(error.__traceback__)
        where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        return {"text": f"{kind}{where} (its text is encrypted: arqd job ID --reveal)"}

    @staticmethod
    def need_of(run: Run, error: KeyMissing) -> tuple[str, str]:
        """Give what a job without its key is parked for, and why in words."""
        return f"{run.name}\x1fkey {error.key}", str(error)

    def tell(self, run: Run, outcome: Outcome | None, duration: float) -> None:
        """Write the log line of the end; None: no longer ours."""
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
                MASK if is_sealed(error["message"]) else error["message"],
                extra={"duration": round(duration, 6)},
            )
        elif kind != "b":
            words = {
                "a": "aborted",
                "l": "handed back",
                "w": "told to wait",
                "p": "parked: it needs a key that this process does not have",
                "lost": "cancelled: another worker has it",
            }
            logger.warning(words[kind], extra={"duration": round(duration, 6)})

    def fields(self, run: Run) -> dict[str, Any]:
        """The job's log fields, for lines outside its context."""
        fields = {"job_id": spoken_id(run.job_id), "family": self.family.name, "function": run.name, "try": run.job_try}
        if run.options and (serves := run.options.get(REQUEST)):
            fields["request_id"] = serves
        return fields


def _out_of_patience(run: Run, error: RetryAfter) -> bool:
    """Whether a job has been told to wait for so long that it counts as a try."""
    if error.patience is None or run.entry is None or not run.entry.enqueued_ms:
        return False
    return time.time() - run.entry.enqueued_ms / 1000 > error.patience
