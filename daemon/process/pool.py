"""Processes for CPU work: spawned, so they inherit no locks or connections, and dead when their parent is."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from daemon.connecting.channel import forget

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1


def follow_parent(parent: int) -> None:
    """Ignore the terminal's Ctrl-C (the parent drains), and die with the parent even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class ProcessPool:
    """A number of processes, each started when it is first needed.

    A call cannot be stopped alone. Where its job ends before it, what comes next gets processes anew, and these are
    killed when nobody waits for them any more; so it is when one of them has died.

    Args:
        workers: how many; default one per core.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers or os.cpu_count()
        self._present: ProcessPoolExecutor | None = None
        self._calls: Counter[ProcessPoolExecutor] = Counter()

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """See `JobContext.run_in_process`."""
        if self._present is None:
            context = multiprocessing.get_context("spawn")
            self._present = ProcessPoolExecutor(
                self._workers, mp_context=context, initializer=follow_parent, initargs=(os.getpid(),)
            )
        pool = self._present
        self._calls[pool] += 1
        try:
            call = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(pool, function, *args))
            call.add_done_callback(forget)
            # Python's pool does not get over a cancelled call when its processes are killed.
            return await asyncio.shield(call)
        except (BrokenProcessPool, asyncio.CancelledError):
            if self._present is pool:
                self._present = None
            raise
        finally:
            self._calls[pool] -= 1
            if not self._calls[pool]:
                del self._calls[pool]
                if pool is not self._present:
                    _end(pool)

    def close(self) -> None:
        """End all at once: what is still computed belongs to jobs that have been handed back."""
        for pool in {*self._calls, *([self._present] if self._present else [])}:
            _end(pool)
        self._present = None


def _end(pool: ProcessPoolExecutor) -> None:
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
