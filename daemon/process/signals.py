"""Signals to processes that asyncio watches."""

from __future__ import annotations

import os
from asyncio.subprocess import Process
from contextlib import suppress


def send_signal(process: Process, number: int) -> None:
    """Send a signal to a process unless it has ended.

    Before Python 3.12.5 the process's own method asks for its status first, and so takes it away from the event loop
    where the process has just ended: its status is then 255 for us (python/cpython#87744).
    """
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
