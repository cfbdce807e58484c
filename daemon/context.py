"""What a handler gets as its first argument: the job it runs, and what the family opened at startup."""

from __future__ import annotations

import contextvars
import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from daemon import codec
from daemon.carried import REQUEST
from daemon.connecting.connections import LOST
from daemon.encryption import NO_KEYS, shown
from daemon.errors import InvalidJob
from daemon.flows import ChildResult, read_children
from daemon.job import from_ms
from daemon.keys import spoken_id
from daemon.running.receipts import Receipts, check_step

if TYPE_CHECKING:
    from daemon.producer import Producer
    from daemon.running.run import Run
    from daemon.worker import Worker

T = TypeVar("T")
#: What arq's handlers find in a context and is worked out when they look.
_LAZY = ("enqueue_time", "score")
logger = logging.getLogger("arqd.job")

#: Longest line `JobContext.log` keeps with the job, characters.
LONGEST_LINE = 2000

#: The job whose code runs now; every log line takes its fields from here.
current_job: contextvars.ContextVar[JobContext | None] = contextvars.ContextVar("arqd_job", default=None)


class JobContext(dict[Any, Any]):
    """One try of one job. Also the mapping arq handlers expect (``redis``, ``job_id``, ``job_try``,
    ``enqueue_time``, ``score`` and whatever ``on_startup`` put in).

    Attributes:
        worker: the worker that runs it.
        job_id: id in Redis, ``{email}:<name>``.
        function: name of the function, ``?`` where it could not be read.
        job_try: which try this is, 1 for the first.
    """

    __slots__ = ("_deadline", "_receipts", "_run", "function", "job_id", "job_try", "worker")

    # Set when they are first asked for: a context is made for every job.
    _deadline: datetime
    _receipts: Receipts

    def __init__(self, worker: Worker, base: dict[Any, Any], run: Run) -> None:
        self.update(base)
        self._run = run
        self.worker = worker
        self.function = run.name
        self["job_id"] = self.job_id = run.job_id
        self["job_try"] = self.job_try = run.job_try

    def __missing__(self, key: Any) -> Any:
        # Few handlers ask for them, and together they are a fifth of what a context costs.
        if key == "enqueue_time":
            return self.enqueue_time
        if key == "score":
            return _whole(self._run.claim.score)
        raise KeyError(key)

    def get(self, key: Any, default: Any = None) -> Any:
        """See ``dict.get``."""
        return self[key] if key in self or key in _LAZY else default

    @property
    def family(self) -> str:
        """Name of the family."""
        return self.worker.family.name

    @property
    def enqueue_time(self) -> datetime:
        """When the job was enqueued, by Redis's clock."""
        entry = self._run.entry
        return from_ms(entry.enqueued_ms if entry else 0)

    @property
    def tags(self) -> list[str]:
        """The tags given at enqueue."""
        return (self._run.options or {}).get("g") or []

    @property
    def request_id(self) -> str | None:
        """What the request is called that it serves, as it was given at enqueue; None where none was."""
        return (self._run.options or {}).get(REQUEST)

    @property
    def payload(self) -> Any:
        """What the job carries, as the handler gets it: its payload, else its positional or keyword arguments.

        None where it could not be read, which only listeners meet.
        """
        args, kwargs = self._run.args, self._run.kwargs
        if args is None:
            return None
        if len(args) == 1 and not kwargs:
            return args[0]
        return {"args": args, "kwargs": kwargs} if args and kwargs else kwargs or args

    # ------------------------------------------------------------------ tries and time, without a round trip

    @property
    def max_tries(self) -> int:
        """How many tries the job has in all."""
        return self._run.max_tries

    @property
    def is_last_try(self) -> bool:
        """Whether the job becomes a dead letter if this try fails."""
        return self.job_try >= self._run.max_tries

    @property
    def tries(self) -> int:
        """How many tries ended before this one."""
        return self.job_try - 1

    @property
    def crashes(self) -> int:
        """How many workers died while they ran the job."""
        return int(self._run.claim.crashes)

    @property
    def previous_error(self) -> dict[str, Any] | None:
        """What the last failed try failed of, None before: ``{"at", "try", "type", "message"}``, as in ``JobInfo``."""
        line = self._run.claim.failure
        if not isinstance(line, bytes) or not line:
            return None
        failed: dict[str, Any] = json.loads(line)
        failed["at"] = from_ms(failed["at"])
        failed["message"] = shown(failed["message"], "history", self._run.cipher)
        return failed

    @property
    def remaining(self) -> float:
        """Seconds until this try's time limit, 0 when it is over."""
        run = self._run
        if run.stop == "timeout":
            # The loop's timers may be a moment early.
            return 0.0
        return max(0.0, run.timeout - (time.perf_counter() - run.begun_at)) if run.begun_at else run.timeout

    @property
    def deadline(self) -> datetime:
        """When this try's time limit ends and it is cancelled, by this machine's clock."""
        try:
            return self._deadline
        except AttributeError:
            self._deadline = datetime.now(UTC) + timedelta(seconds=self.remaining)
            return self._deadline

    @property
    def stopped_by(self) -> str | None:
        """Why this try is being cancelled, None while it is not.

        ``timeout`` (tried again, if it has a try left), ``abort``, ``drain`` (handed back), ``lost`` (another has it).
        """
        return self._run.stop

    @property
    def expires_at(self) -> datetime | None:
        """When the job expires, by Redis's clock: no try starts after it, one that runs goes on. None: never."""
        entry = self._run.entry
        return from_ms(entry.deadline_ms) if entry and entry.deadline_ms else None

    # ------------------------------------------------------------------ what the family opened

    @property
    def redis(self) -> Any:
        """The worker's asynchronous Redis client (arq's ``ArqRedis``)."""
        return self["redis"]

    @property
    def producer(self) -> Producer:
        """A producer on the worker's own connection, for follow-up jobs."""
        return self.worker.producer

    def key(self, *parts: str) -> str:
        """A Redis key for the handler's own data, in the family's cluster slot: ``{email}:data:<parts>``."""
        return self.worker.keys.key("data", *parts)

    # ------------------------------------------------------------------ what a handler does with its job

    async def once(self, step: str, call: Callable[[], Any], *, returns: Any = None) -> Any:
        """Run a step of the job and keep its result; in later tries give that result instead of repeating the effect.

        A step that raises keeps nothing. Should the worker die after the effect and before the receipt is stored, the
        step runs again: give `idempotency_key` to whoever takes it (docs/once.md).

        Args:
            step: its name, plain text of at most 100 characters, once in this job.
            call: a coroutine function without arguments; a plain function is called in the event loop.
            returns: type of the result (a pydantic model or any type pydantic knows); default plain JSON data. It is
                the same whether the step ran now or in an earlier try.

        Raises:
            InvalidJob: for a name that is none.
            ClaimLost: when the job is not this worker's any more; do not go on.
            TooLarge, PermanentError: when the result cannot be kept (too large with those before, not JSON); the job
                becomes a dead letter, since another try would repeat the effect.
        """
        try:
            receipts = self._receipts
        except AttributeError:
            receipts = self._receipts = Receipts(self.worker, self._run)
        return await receipts.once(step, call, returns)

    def idempotency_key(self, step: str) -> str:
        """Give a text that is the same for a step in every try of this job and differs from any other's.

        Raises:
            InvalidJob: for a step's name that is none.
        """
        return f"{self.job_id}:{check_step(step)}"

    async def log(self, text: str) -> None:
        """Write a line to the process's log, and keep it with the job, for people (``arqd job ID --logs``).

        The newest 16 KB are kept, of a line 2,000 characters, as long as the job's result. Of an encrypted family the
        line is encrypted, and the process's log does not get it.
        """
        text = codec.plain(str(text))
        run, worker = self._run, self.worker
        if not worker.family.values.encrypted:
            logger.info("%s", text)
        line = b"%d %s" % (self.job_try, run.kept("log", codec.encode(text[:LONGEST_LINE])))
        try:
            if not await worker.broker.log(worker.supervisor.session, run.claim.id, run.number, line):
                logger.warning("a line was not kept with the job: it is not this worker's any more")
        except LOST as error:
            logger.warning("a line was not kept with the job: %s", error)

    async def progress(self, percent: float, note: str | None = None) -> None:
        """Tell how far the job is.

        Args:
            percent: 0 to 100.
            note: one short line, e.g. ``"12 of 40 pages"``.

        Raises:
            InvalidJob: when ``percent`` is out of range.
        """
        if not 0 <= percent <= 100:
            raise InvalidJob(f"progress {percent!r} is not 0 to 100")
        if note:
            note = codec.plain(note).replace("\n", " ")[:200]
            if self.worker.family.values.encrypted:
                note = self._run.kept("note", codec.encode(note)).decode()
        await self.worker.report_progress(self.job_id, int(percent), note)

    async def children(self) -> dict[str, ChildResult]:
        """Give the children of this job that have ended, by id, in the order they were given.

        A parent that runs since all have ended gets them all; see `daemon.flows` for what is in a result.
        """
        return await read_children(self.worker.broker.redis, self.job_id, self.worker.keyring or NO_KEYS)

    async def previous(self) -> Any:
        """Give the result of the step before in a chain, plain JSON data.

        Raises:
            InvalidJob: when this job waited for none or for several others: then use `children`.
        """
        found = list((await self.children()).values())
        if len(found) != 1:
            raise InvalidJob(f"{spoken_id(self.job_id)} had {len(found)} jobs before it, not one: use ctx.children()")
        return found[0].result

    async def run_in_process(self, function: Callable[..., T], *args: Any) -> T:
        """Run CPU work in the process pool, so that the event loop and the lease renewal go on.

        Args:
            function: a module-level function; it and its arguments are pickled to the child.

        Returns:
            What the function returned; its exception is raised here.
        """
        return await self.worker.processes.run(function, *args)


def _whole(score: bytes) -> int:
    """Give a score as arq's handlers expect it; 0 for one that no integer holds."""
    value = float(score)
    return int(value) if abs(value) < 2**62 else 0
