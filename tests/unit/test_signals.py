"""Signals to processes that the event loop watches (daemon/process/signals.py)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading

import pytest

from daemon.process.signals import send_signal


async def test_the_status_of_a_process_that_has_just_ended_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting, asked = os.waitpid, threading.Event()

    def late(pid: int, options: int) -> tuple[int, int]:
        if not options:
            # The event loop's own thread reads the status only after the signal was sent.
            asked.wait(60)
        return waiting(pid, options)

    monkeypatch.setattr(os, "waitpid", late)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "raise SystemExit(3)")
    await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    send_signal(process, signal.SIGTERM)
    asked.set()
    assert await process.wait() == 3
    send_signal(process, signal.SIGTERM)


async def test_a_running_process_gets_the_signal() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(60)")
    send_signal(process, signal.SIGTERM)
    assert await process.wait() == -signal.SIGTERM
