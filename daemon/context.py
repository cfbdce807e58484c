"""What a handler gets as its first argument: the job it runs, and what the family opened at startup."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from daemon.errors import InvalidJob
from daemon.job import from_ms

if TYPE_CHECKING:
    from daemon.producer import Producer
    from daemon.worker import Worker

T = TypeVar("T")

#: The job whose code runs now; every log line takes its fields from here.
current_job: contextvars.ContextVar[JobContext | None] = contextvars.ContextVar("arqd_job", default=None)


class JobContext(dict[Any, Any]):
    """One try of one job. Also the mapping arq handlers expect (``redis``, ``job_id``, ``job_try``,
    ``enqueue_time``, ``score`` and whatever ``on_startup`` put in).

    Attributes:
        worker: the worker that runs it.
        job_id: id in Redis, ``{email}:<uuid>``.
        function: name of the function.
        job_try: which try this is, 1 for the first.
        tags: the tags given at enqueue.
    """

    __slots__ = ("_enqueued_ms", "function", "job_id", "job_try", "tags", "worker")

    def __init__(
        self,
        worker: Worker,
        base: dict[Any, Any],
        job_id: str,
        function: str,
        job_try: int,
        enqueued_ms: int,
        score: int,
        tags: list[str],
    ) -> None:
        super().__init__(base)
        self.worker = worker
        self.job_id = job_id
        self.function = function
        self.job_try = job_try
        self.tags = tags
        self["job_id"] = job_id
        self["job_try"] = job_try
        self["score"] = score
        self._enqueued_ms = enqueued_ms

    def __missing__(self, key: Any) -> Any:
        # Few handlers ask for it, and a datetime is a tenth of what a context costs.
        if key == "enqueue_time":
            return self.enqueue_time
        raise KeyError(key)

    def get(self, key: Any, default: Any = None) -> Any:
        """See ``dict.get``."""
        return self[key] if key in self or key == "enqueue_time" else default

    @property
    def family(self) -> str:
        """Name of the family."""
        return self.worker.family.name

    @property
    def enqueue_time(self) -> datetime:
        """When the job was enqueued, by Redis's clock."""
        return from_ms(self._enqueued_ms)

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
        await self.worker.report_progress(self.job_id, int(percent), note)

    async def run_in_process(self, function: Callable[..., T], *args: Any) -> T:
        """Run CPU work in the process pool, so that the event loop and the lease renewal go on.

        Args:
            function: a module-level function; it and its arguments are pickled to the child.

        Returns:
            What the function returned; its exception is raised here.
        """
        pool = self.worker.process_pool
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, function, *args)
        except BrokenProcessPool:
            self.worker.renew_pool(pool)
            raise
