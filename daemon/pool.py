"""Processes for CPU work: spawned, so they inherit no locks or connections, and dead when their parent is."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor

_PR_SET_PDEATHSIG = 1


def follow_parent(parent: int) -> None:
    """Ignore the terminal's Ctrl-C (the parent drains), and die with the parent even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def process_pool(workers: int | None = None) -> ProcessPoolExecutor:
    """Give a pool of ``workers`` processes (default: one per core), each started when first needed."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        workers or os.cpu_count(), mp_context=context, initializer=follow_parent, initargs=(os.getpid(),)
    )


def end_pool(pool: ProcessPoolExecutor) -> None:
    """End a pool at once: what its processes still compute belongs to jobs that have been handed back."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
