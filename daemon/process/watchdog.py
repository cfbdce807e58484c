"""A thread that watches the event loop: it names the job and the line that block it, and ends what never comes back.

A handler that never yields stops everything in its process but the threads: the leases are renewed, so no other worker
takes its jobs, and nobody would ever know. Code that keeps the interpreter lock stops this thread, too; then the leases
end by themselves.
"""

from __future__ import annotations

import asyncio
import linecache
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from daemon import executor
from daemon.process.stacks import Frame, Stacks

if TYPE_CHECKING:
    from daemon.running.run import Run
    from daemon.worker import Worker

logger = logging.getLogger("arqd.watchdog")

#: How often the loop shows that it turns and the thread looks; from when on it counts as blocked. Seconds.
BEAT = 0.25
BLOCKED = 1.0
#: Frames of a stack that are kept, the innermost.
LONGEST_STACK = 30
#: Where the code is that is not a handler's.
_OWN = str(Path(__file__).parents[1]) + os.sep


class Culprit(NamedTuple):
    """What the loop's thread does now: the job's worker and run, None where none is seen, and the line."""

    worker: Worker | None
    run: Run | None
    where: str
    stack: str = ""


class Watchdog:
    """Watches the loop of the thread that starts it, until `stop`.

    Args:
        workers: of its loop.
        replace: called in the watching thread once a job has blocked the loop for longer than its time limit and
            ``max_overrun`` allow, with its worker, its run and the line.
    """

    def __init__(self, workers: Sequence[Worker], replace: Callable[[Worker, Run, str], None]) -> None:
        self._workers, self._replace = workers, replace
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arqd-watchdog", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin; called in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._turn()
        self._thread.start()

    def stop(self) -> None:
        """End; called in the event loop."""
        self._stopped.set()
        self._timer.cancel()

    def _turn(self) -> None:
        self._turned = time.monotonic()
        self._timer = self._loop.call_later(BEAT, self._turn)

    def _run(self) -> None:
        looked, told = time.monotonic(), False
        while not self._stopped.wait(BEAT):
            now = time.monotonic()
            if now - looked > BLOCKED:
                # The whole process stood still (SIGSTOP, a suspended machine): the loop gets its time to turn, too.
                self._turned = now
            looked, late = now, now - self._turned
            if late >= BLOCKED:
                culprit = self._culprit()
                if not told:
                    self._tell(culprit, late)
                told = True
                if culprit.worker is not None and culprit.run is not None and _overdue(culprit.worker, culprit.run):
                    self._replace(culprit.worker, culprit.run, culprit.where)
            elif told:
                told = False
                logger.warning("the event loop turns again")

    def _tell(self, culprit: Culprit, late: float) -> None:
        fields = {}
        whose = "no job's own code"
        if culprit.worker is not None and culprit.run is not None:
            fields = culprit.worker.executor.decisions.fields(culprit.run)
            whose = f"job {fields['job_id']} ({fields['function']})"
            # Published with the next renewal of the lease, which is the work of a thread: the loop need not turn.
            culprit.worker.stalled = {
                "at": round(time.time() - late, 3), "seconds": round(late, 3), "job_id": fields["job_id"],
                "function": fields["function"], "where": culprit.where, "stack": culprit.stack,
            }  # fmt: skip
            culprit.worker.published = culprit.worker.info()
        text = "the event loop has been blocked for %.1f s by %s, %s: every job of this process waits"
        logger.error(text, late, whose, culprit.where, extra=fields)

    def _culprit(self) -> Culprit:
        """See what the loop's thread does: whose task it is at, and where it is in a job's code."""
        task = asyncio.current_task(self._loop)
        with Stacks() as stacks:
            frames = stacks.read().get(self._watched, [])
        if task is None or task is not asyncio.current_task(self._loop):
            # The loop has gone on meanwhile, or a callback blocks it.
            return Culprit(None, None, _where(frames[:1]))
        for worker in self._workers:
            for run in list(worker.running.values()):
                if run.task is task:
                    return Culprit(worker, run, _where(_of_job(frames)), _text(frames[:LONGEST_STACK]))
        return Culprit(None, None, _where(frames[:1]))


def _of_job(frames: list[Frame]) -> list[Frame]:
    """Give what is below the executor: a job's code."""
    for number, frame in enumerate(frames):
        if (frame.file, frame.name) == (executor.__file__, executor.Executor.execute.__name__):
            return frames[:number]
    return frames


def _overdue(worker: Worker, run: Run) -> bool:
    return time.perf_counter() - run.begun_at > run.timeout + worker.family.values.max_overrun


def _where(frames: list[Frame]) -> str:
    """Name the outermost line that is not arqd's own (the handler's), and the innermost where it is another."""
    theirs = [frame for frame in frames if not frame.file.startswith(_OWN)] or frames
    if not theirs:
        return "in the executor"
    inner, outer = theirs[0], theirs[-1]
    source = linecache.getline(outer.file, outer.line).strip()
    where = f"{outer.file}:{outer.line} in {outer.name}: {source}"
    if inner is not outer:
        where += f" (now at {inner.file}:{inner.line} in {inner.name})"
    return where


def _text(frames: list[Frame]) -> str:
    """Write a stack as Python does, the outermost first."""
    return "".join(traceback.format_list([(*frame, None) for frame in reversed(frames)]))
