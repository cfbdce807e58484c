"""One try of one handler, without Redis: bound, limited and decided on as a worker does it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic_core import from_json

from daemon import codec
from daemon.broker import Claim, NewJob, Outcome
from daemon.decisions import Decisions
from daemon.encryption import SEALED_JSON, JobCipher, KeyRing, shown
from daemon.errors import ConfigurationError
from daemon.executor import Executor
from daemon.family import Family, FamilySettings, JobFunction, func, load_family
from daemon.payload import Payload
from daemon.process.pool import ProcessPool
from daemon.records import header
from daemon.retry import RetryPolicy
from daemon.running.dialect import ArqdDialect
from daemon.running.run import Run
from daemon.testing.recording import RecordedJob, RecordingProducer

Ending = Literal["completed", "retried", "failed", "told_to_wait", "released", "parked", "expired"]
_ENDINGS: dict[str, Ending] = {
    "c": "completed",
    "r": "retried",
    "b": "failed",
    "l": "released",
    "w": "told_to_wait",
    "p": "parked",
    "e": "expired",
}
_SCORE = str(-(2**52)).encode()


@dataclass(slots=True)
class HandlerRun:
    """What came of a try.

    Attributes:
        ending: ``completed``; ``retried`` (it would be tried again); ``failed`` (a dead letter); ``told_to_wait``
            (`RetryAfter`); ``released``, ``parked`` and ``expired`` as in a worker.
        result: what the handler returned, as a caller gets it from ``job.result()``.
        error: what it raised, or why it could not run.
        reason: of a dead letter: ``tries``, ``permanent``, ``payload``, ``too_large``, ``crashes`` ...
        retry_in: seconds until the next try; None where there is none.
        progress: what it told of its progress: percent and note.
        logs: the lines it kept with the job.
        enqueued: the jobs it handed over.
        receipts: results of its steps (`JobContext.once`), those of earlier tries included; plain JSON data.
    """

    ending: Ending
    result: Any = None
    error: BaseException | None = None
    reason: str | None = None
    retry_in: float | None = None
    progress: list[tuple[int, str | None]] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    enqueued: list[RecordedJob] = field(default_factory=list)
    receipts: dict[str, Any] = field(default_factory=dict)

    def value(self) -> Any:
        """Give the result; raise the error where it has not completed."""
        if self.ending != "completed":
            raise self.error or AssertionError(f"the handler's job is {self.ending}")
        return self.result


async def run_handler(
    handler: Callable[..., Any] | JobFunction,
    payload: Any = None,
    *,
    settings: type[FamilySettings] | Family | None = None,
    tries: int = 0,
    crashes: int = 0,
    previous_error: BaseException | None = None,
    receipts: Mapping[str, Any] | None = None,
    ctx: Mapping[str, Any] | None = None,
    redis: Any = None,
    templates: Mapping[str, Mapping[str, Any]] | None = None,
    keyring: KeyRing | None = None,
    **options: Any,
) -> HandlerRun:
    """Run a handler once.

    The payload goes the way of a real one: checked and written by a producer, read and bound as in a worker. Its time
    limit, its hooks ``on_job_start`` and ``on_job_end``, and what is decided after it are the family's; ``on_startup``
    is not run.

    Args:
        handler: the function, or what `daemon.family.func` gave.
        payload: a `Payload`; or the payload's fields as a mapping, or a list of positional arguments, which only the
            worker's side validates.
        settings: the family's ``WorkerSettings``; default a family with this function alone and the usual values.
        tries: how many tries ended before this one (``ctx.job_try`` is one more).
        crashes: how many workers died while they ran it.
        previous_error: what the last try failed of.
        receipts: results that steps left in earlier tries.
        ctx: what ``on_startup`` would have put into the context.
        redis: a client for a handler that uses ``ctx.redis``.
        templates: presets of options for the jobs it hands over.
        keyring: keys for an encrypted family or marked fields.
        options: of the job (`JobOptions`): ``max_tries``, ``timeout``, ``backoff``, ``tags``, ``group`` ...

    Raises:
        InvalidJob: for a payload or an option that a producer would not accept.
        ConfigurationError: when the family does not have this function.
    """
    family, function = _family_of(handler, payload, settings)
    if isinstance(payload, Payload) and payload.__job__.function != function.name:
        name = payload.__job__.function
        raise ConfigurationError(f"{type(payload).__name__} is for the function {name!r}, not for {function.name!r}")
    producer = RecordingProducer(max_payload=family.values.max_payload, templates=templates, keyring=keyring)
    by_name = () if isinstance(payload, Payload) else (payload,)
    job = payload if isinstance(payload, Payload) else function.name
    await producer.enqueue(job, *by_name, family=family.name, **options)
    (written,) = producer.written.values()
    producer.jobs.clear()
    bench = _Bench(family, producer, dict(ctx or {}), redis, receipts or {})
    try:
        tried = await bench.run(_claim(written, tries, crashes, previous_error))
    finally:
        bench.close()
    returns = payload.__job__.returns if isinstance(payload, Payload) else None
    if returns is not None and tried.ending == "completed":
        tried.result = codec.typed(returns).validate_json(codec.encode(tried.result))
    return tried


def _family_of(
    handler: Callable[..., Any] | JobFunction, payload: Any, settings: type[FamilySettings] | Family | None
) -> tuple[Family, JobFunction]:
    if settings is None:
        name = payload.__job__.family if isinstance(payload, Payload) else "test"
        family = load_family(type("WorkerSettings", (FamilySettings,), {"family": name, "functions": [handler]}))
    else:
        family = settings if isinstance(settings, Family) else load_family(settings)
    call = func(handler).call
    for function in family.functions.values():
        if function is handler or function.call == call:
            return family, function
    raise ConfigurationError(f"family {family.name!r} has no function {func(handler).name!r}")


def _claim(job: NewJob, tries: int, crashes: int, previous: BaseException | None) -> Claim:
    now = int(time.time() * 1000)
    deadline = now + job.expires_ms if job.expires_ms else 0
    record = header(job.level, now, job.timeout_ms, deadline) + job.tail
    failure: bytes | int = 0
    if previous is not None:
        line = {"at": now, "try": tries, "type": type(previous).__qualname__, "message": codec.text_of(previous)}
        failure = codec.encode(line)
    return Claim(job.id.encode(), record, _SCORE, b"%d" % tries, b"%d" % crashes, b"0", failure)


class _Decisions(Decisions):
    """Remembers what was raised."""

    raised: BaseException | None = None
    reason: str | None = None

    def decided(self, run: Run, error: BaseException) -> Outcome | None:
        timed_out = run.stop == "timeout" and isinstance(error, TimeoutError | asyncio.CancelledError)
        self.raised = TimeoutError(f"timed out after {run.timeout:g} s") if timed_out else error
        return super().decided(run, error)

    def bury(self, run: Run, error: BaseException, reason: str) -> Outcome:
        self.raised, self.reason = error, reason
        return super().bury(run, error, reason)

    def ended(self, run: Run, kind: str, error: BaseException, reason: str) -> Outcome:
        self.raised, self.reason = error, reason
        return super().ended(run, kind, error, reason)


class _Bench:
    """What an executor and a context need of a worker, without Redis: it stands for worker, session and broker."""

    def __init__(
        self, family: Family, producer: RecordingProducer, ctx: dict[Any, Any], redis: Any, receipts: Mapping[str, Any]
    ) -> None:
        self.family, self.keys, self.producer = family, family.keys, producer
        self.ctx = {**family.ctx, **ctx, "redis": producer.redis if redis is None else redis}
        self.client = self.ctx["redis"]
        self.policy = RetryPolicy(family.values.max_tries, family.values.backoff, family.permanent)
        self.keyring = producer.keyring
        self.dialect = ArqdDialect(family, self.keyring)
        self.cipher: JobCipher | None = None
        self.broker = self.supervisor = self
        self.session: Any = self
        self.left_behind, self.prefetch = False, ()
        self.steps = b"\n".join(name.encode() + b"\t" + codec.encode(value) for name, value in receipts.items())
        self.logs: list[str] = []
        self.progressed: list[tuple[int, str | None]] = []
        self.outcome: Outcome | None = None
        self.processes = ProcessPool(1)
        self.executor = Executor(self)  # type: ignore[arg-type]
        self.decisions = self.executor.decisions = _Decisions(self)  # type: ignore[arg-type]

    async def run(self, claim: Claim) -> HandlerRun:
        run, call = self.executor.prepare(claim, 1, int(time.time() * 1000))
        self.cipher = run.cipher
        if isinstance(call, Outcome):
            self.outcome = call
        else:
            # A task of its own: its time limit cancels it.
            run.task = asyncio.create_task(self.executor.execute(run, call))
            try:
                await asyncio.shield(run.task)
            except asyncio.CancelledError:
                self.executor.cancel(run, "lost")
                raise
        assert self.outcome is not None
        return self._described(self.outcome)

    def _described(self, outcome: Outcome) -> HandlerRun:
        waits = outcome.kind in "rlw" and int(outcome.a) >= 0
        result = None
        if outcome.kind == "c" and isinstance(outcome.a, bytes):
            result = shown(codec.decode_result(outcome.a)["r"], "result", self.cipher)
        return HandlerRun(
            ending="told_to_wait" if outcome.kind == "l" and waits else _ENDINGS[outcome.kind],
            result=result,
            error=None if outcome.kind == "c" else self.decisions.raised,
            reason=self.decisions.reason,
            retry_in=int(outcome.a) / 1000 if waits else None,
            progress=self.progressed,
            logs=self.logs,
            enqueued=self.producer.jobs,
            receipts={
                name.decode(): shown(from_json(raw), f"receipt {name.decode()}", self.cipher)
                for name, _, raw in map(_parted, self.steps.splitlines())
            },
        )

    def close(self) -> None:
        self.executor.close()
        self.processes.close()

    # ------------------------------------------------------------------ as a worker

    def finished(self, run: Run, outcome: Outcome | None, duration: float) -> None:
        self.outcome = outcome

    async def report_progress(self, job_id: str, percent: int, note: str | None) -> None:
        if note and note.startswith(SEALED_JSON.decode()):
            note = str(shown(json.loads(note), "note", self.cipher))
        self.progressed.append((percent, note))

    # ------------------------------------------------------------------ as a session and a broker

    async def until_reached(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()

    async def once(self, session: Any, job_id: bytes, number: int, receipt: bytes) -> bytes:
        if receipt:
            self.steps += (b"\n" if self.steps else b"") + receipt
        return self.steps

    async def log(self, session: Any, job_id: bytes, number: int, line: bytes) -> bool:
        self.logs.append(shown(json.loads(line.partition(b" ")[2]), "log", self.cipher))
        return True


def _parted(line: bytes) -> tuple[bytes, bytes, bytes]:
    return line.partition(b"\t")
