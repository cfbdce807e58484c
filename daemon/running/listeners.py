"""Who is told when an outcome is recorded: a family's ``after_job_end``, ``on_failure`` and ``on_dead``.

They run beside the worker's loop and change nothing for the job: what they raise goes to the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container, Iterable
from typing import TYPE_CHECKING, Any

from daemon.context import JobContext, current_job

if TYPE_CHECKING:
    from daemon.broker import Outcome
    from daemon.running.run import Run
    from daemon.worker import Worker

logger = logging.getLogger("arqd.job")

#: How long each hook behind a try may take, seconds: its job holds a slot as long, or the worker's end waits for it.
LIMIT = 10.0


async def tell(name: str, hook: Callable[..., Awaitable[None]], *args: Any) -> None:
    """Call a hook that has `LIMIT`; what it raises is logged."""
    try:
        async with asyncio.timeout(LIMIT) as scope:
            await hook(*args)
    except (Exception, asyncio.CancelledError) as error:
        if scope.expired():
            logger.error("%s took longer than %g s and was cancelled", name, LIMIT)
        else:
            job = current_job.get()
            if job is None or not job.worker.family.values.encrypted:
                logger.exception("%s failed", name)
            else:
                logger.error("%s failed: %s (its text may tell what is encrypted)", name, type(error).__name__)


class Listeners:
    """The listeners of one worker's family."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._hooks = worker.family.hooks
        self._waiting: dict[tuple[bytes, int], tuple[Run, JobContext | None]] = {}
        self._running: set[asyncio.Task[None]] = set()

    def note(self, run: Run, outcome: Outcome) -> None:
        """A run has this outcome, which is not recorded yet."""
        if run.error is not None or (run.begun and "after_job_end" in self._hooks):
            self._waiting[outcome.id, outcome.claim] = (run, run.context)

    def settled(self, outcomes: Iterable[Outcome], late: Container[tuple[bytes, int]]) -> None:
        """These outcomes are recorded, but those (by id and claim) that were refused: another worker has the job."""
        if not self._waiting:
            return
        for outcome in outcomes:
            key = outcome.id, outcome.claim
            found = self._waiting.pop(key, None)
            if found is not None:
                task = asyncio.create_task(self._tell(*found, outcome.kind, key not in late))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _tell(self, run: Run, context: JobContext | None, kind: str, recorded: bool) -> None:
        context = context or JobContext(self._worker, self._worker.ctx, run)
        current_job.set(context)
        if run.begun and "after_job_end" in self._hooks:
            await tell("after_job_end", self._hooks["after_job_end"], context)
        error, run.error = run.error, None
        if error is not None and recorded:
            names = [*(["on_failure"] if run.begun and kind in "rb" else []), *(["on_dead"] if kind == "b" else [])]
            for name in names:
                if name in self._hooks:
                    await tell(name, self._hooks[name], context, error)

    async def close(self) -> None:
        """Wait for those that run."""
        await asyncio.gather(*self._running)
