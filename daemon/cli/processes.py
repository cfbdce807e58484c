"""``arqd run --processes N`` and ``--watch``: the same command in child processes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.probe.settings import worker_file
from daemon.process.ending import REPLACE_STATUS
from daemon.process.heartbeat import read_heartbeat, resident_bytes
from daemon.process.notify import VARIABLES
from daemon.process.service import DRAIN_AHEAD, START_PATIENCE
from daemon.process.signals import send_signal

if TYPE_CHECKING:
    from daemon.process.notify import Notifier

POLL_SECONDS = 0.5
LOOK_SECONDS = 1.0
#: Pauses before a process that died is started again, seconds; one that lived so long begins anew.
FIRST_PAUSE, LONGEST_PAUSE, STEADY = 0.5, 30.0, 60.0
#: Wrong usage, and a wrong configuration: another process would end the same way.
FATAL = (2, 78)
_PR_SET_PDEATHSIG = 1
_NOT_CODE = {"__pycache__", "node_modules", "site-packages"}


@dataclass(frozen=True, slots=True)
class Recycling:
    """When a worker process is drained and replaced: after so many jobs, at so many bytes of memory; None: never."""

    jobs: int | None = None
    memory: int | None = None

    def due(self, beat: Mapping[str, Any]) -> str:
        """Say why a process with this heartbeat is to be replaced, nothing when it is not."""
        functions = [each for family in beat["families"].values() for each in family["metrics"]["functions"].values()]
        ended = sum(sum(each["outcomes"].values()) for each in functions)
        if self.jobs is not None and ended >= self.jobs:
            return f"has ended {ended} jobs"
        taken = resident_bytes(beat["pid"]) if self.memory is not None else None
        if taken is not None and self.memory is not None and taken >= self.memory:
            return f"takes {taken // 1_000_000} MB"
        return ""


class Processes:
    """Runs a command in several processes and keeps them alive; signals go to each of them.

    1. One that dies is started again, after a pause that doubles while it keeps dying.
    2. One that asks to be replaced (`REPLACE_STATUS`) or is due for recycling is; recycling drains one at a time.
    3. SIGTERM and SIGINT drain all of them, once; SIGHUP is passed on.
    4. A wrong configuration (`FATAL`), or in a burst any failure, ends all in good order: a restart would not help.

    Args:
        arguments: of the command.
        count: how many.
        heartbeat: file of a single worker; each process has one of its own beside it.
        burst: they end by themselves.
        recycling: when a process is replaced though it is well.
        notifier: the service manager, which these processes do not speak to.
    """

    def __init__(
        self, arguments: list[str], count: int, heartbeat: Path, *, burst: bool, recycling: Recycling,
        notifier: Notifier,
    ) -> None:  # fmt: skip
        self._arguments = arguments
        self._files = {place: worker_file(heartbeat, place) for place in range(1, count + 1)}
        self._burst, self._recycling, self._notifier = burst, recycling, notifier
        self._children: dict[int, Process] = {}
        self._leaving: int | None = None
        self._left = 0
        self._ready = False
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Run until a signal, or until all have ended by themselves.

        Returns:
            The status of the first that failed, else 0.
        """
        _on_signal(self._stop)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._send, signal.SIGHUP)
        looking = asyncio.create_task(self._look(), name="look")
        status = 0
        for ended in asyncio.as_completed([self._keep(place) for place in self._files]):
            if (ended_with := await ended) and not status:
                status = ended_with if ended_with > 0 else 1
        looking.cancel()
        return status

    def _stop(self, number: int) -> None:
        self._stopping.set()
        self._send(number)

    def _send(self, number: int) -> None:
        for child in self._children.values():
            send_signal(child, number)

    async def _keep(self, place: int) -> int:
        """Keep one place filled; give the status of the last process in it."""
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            child = self._children[place] = await _spawn(self._arguments, self._files[place])
            if self._stopping.is_set():
                # The signal came before the process was known.
                send_signal(child, signal.SIGTERM)
            status = await child.wait()
            if self._stopping.is_set():
                # One that had not begun yet does not know the signal.
                return 0 if status == -signal.SIGTERM else status
            if status in FATAL or (self._burst and status != REPLACE_STATUS):
                if status:
                    _tell(f"a worker process ended with status {status}: stopping the others")
                    self._stop(signal.SIGTERM)
                return status
            if status in (0, REPLACE_STATUS):
                _tell("a worker process has to be replaced: starting another")
                continue
            pause = FIRST_PAUSE if time.monotonic() - began > STEADY else pause
            _tell(f"worker process {place} ended with status {status}: starting another in {pause:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
                return status if status > 0 else 1
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _look(self) -> None:
        """Look at the heartbeats each second: for what the service manager is told, and for what is to be recycled."""
        began = time.monotonic()
        while True:
            beats = {place: self._beat(place) for place in self._files}
            running = [place for place, beat in beats.items() if beat and beat["state"] == "running"]
            self._report(len(running), time.monotonic() - began)
            if self._leaving is None:
                self._recycle([beats[place] or {} for place in running], running)
            elif self._leaving in running:
                self._leaving = None
            await asyncio.sleep(min(LOOK_SECONDS, self._notifier.interval))

    def _report(self, running: int, waited: float) -> None:
        status = f"{running} of {len(self._files)} processes run"
        self._notifier.alive(status)
        if self._stopping.is_set():
            self._notifier.stopping(f"draining: {status}", DRAIN_AHEAD)
        elif not self._ready and (running == len(self._files) or waited > START_PATIENCE):
            self._ready = True
            self._notifier.ready(status)

    def _recycle(self, beats: list[Mapping[str, Any]], places: list[int]) -> None:
        # In turn: one that is soon due again must not keep the others from it.
        for place, beat in sorted(zip(places, beats, strict=True), key=lambda each: (each[0] <= self._left, each[0])):
            if not self._stopping.is_set() and (why := self._recycling.due(beat)):
                _tell(f"worker process {place} {why}: draining it")
                self._leaving = self._left = place
                send_signal(self._children[place], signal.SIGTERM)
                return

    def _beat(self, place: int) -> Mapping[str, Any] | None:
        """Give the heartbeat of the process that has this place now."""
        beat, child = read_heartbeat(self._files[place]), self._children.get(place)
        return beat if beat is not None and child is not None and beat["pid"] == child.pid else None


async def run_watched(arguments: list[str], folder: Path) -> int:
    """Run a command in a process and start it anew, drained, when Python files in a folder change.

    Returns:
        Its status after a signal has ended it.
    """
    stopping = False
    children: list[Process] = []

    def stop(number: int) -> None:
        nonlocal stopping
        stopping = True
        for child in children:
            send_signal(child, number)

    _on_signal(stop)
    while True:
        seen = _stamps(folder)
        children[:] = [await _spawn(arguments)]
        # A signal that came before the process was known did not reach it.
        unknown = stopping
        ended = asyncio.create_task(children[0].wait())
        told = False
        while not stopping and _stamps(folder) == seen:
            await asyncio.wait({ended}, timeout=POLL_SECONDS)
            if ended.done():
                if not told:
                    print(f"arqd: ended with status {ended.result()}; waiting for a change", file=sys.stderr)
                    told = True
                await asyncio.sleep(POLL_SECONDS)
        if not stopping:
            print("arqd: the code has changed: starting anew", file=sys.stderr)
        if not stopping or unknown:
            send_signal(children[0], signal.SIGTERM)
        status = await ended
        if stopping:
            return max(status, 0)


async def _spawn(arguments: list[str], heartbeat: Path | None = None) -> Process:
    environ = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    if heartbeat:
        environ["ARQD_HEARTBEAT_FILE"] = str(heartbeat)
    # A process group of its own: Ctrl-C would reach it twice, from the terminal and from us, and the second one
    # means "at once".
    command = (sys.executable, "-m", "daemon", *arguments)
    return await asyncio.create_subprocess_exec(*command, env=environ, process_group=0, preexec_fn=_follow_parent)


def _follow_parent() -> None:
    """In a new process: be drained when the parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _tell(text: str) -> None:
    print(f"arqd: {text}", file=sys.stderr, flush=True)


def _on_signal(call: Callable[[int], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, call, number)


def _stamps(folder: Path) -> dict[str, int]:
    """Give the modification times of the Python files below a folder; looking is cheaper than a library for it."""
    stamps: dict[str, int] = {}
    for parent, folders, files in os.walk(folder):
        if "pyvenv.cfg" in files:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _NOT_CODE]
        for name in files:
            if name.endswith(".py"):
                path = Path(parent, name)
                with suppress(FileNotFoundError):
                    stamps[str(path)] = path.stat().st_mtime_ns
    return stamps
