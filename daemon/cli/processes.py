"""``arqd run --processes N`` and ``--watch``: the same command in child processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from daemon.probe.settings import worker_file
from daemon.supervisor import REPLACE_STATUS

POLL_SECONDS = 0.5
_NOT_CODE = {"__pycache__", "node_modules", "site-packages"}


async def run_processes(arguments: list[str], count: int, heartbeat: Path) -> int:
    """Run a command in several processes until all have ended; signals go to each of them.

    One that asks to be replaced (`REPLACE_STATUS`) is. One that fails ends the others in good order, so that whoever
    supervises this process starts all of them anew.

    Returns:
        The status of the first that failed, else 0.
    """
    children: dict[int, Process] = {}
    stopping = False

    def send(number: int) -> None:
        nonlocal stopping
        stopping = True
        _send(children.values(), number)

    async def keep(place: int) -> int:
        """Run one, and another after each that asks for it; give the last one's status."""
        while True:
            children[place] = await _spawn(arguments, worker_file(heartbeat, place))
            ended_with = await children[place].wait()
            if ended_with != REPLACE_STATUS or stopping:
                return ended_with
            print("arqd: a worker process has to be replaced: starting another", file=sys.stderr)

    _on_signal(send)
    status = 0
    for ended in asyncio.as_completed([keep(place) for place in range(1, count + 1)]):
        ended_with = await ended
        if ended_with and not status:
            status = ended_with if ended_with > 0 else 1
            print(f"arqd: a worker process ended with status {ended_with}: stopping the others", file=sys.stderr)
            send(signal.SIGTERM)
    return status


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
        _send(children, number)

    _on_signal(stop)
    while True:
        seen = _stamps(folder)
        children[:] = [await _spawn(arguments)]
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
            _send(children, signal.SIGTERM)
        status = await ended
        if stopping:
            return max(status, 0)


async def _spawn(arguments: list[str], heartbeat: Path | None = None) -> Process:
    environ = {**os.environ, **({"ARQD_HEARTBEAT_FILE": str(heartbeat)} if heartbeat else {})}
    # A process group of its own: Ctrl-C would reach it twice, from the terminal and from us, and the second one
    # means "at once".
    command = (sys.executable, "-m", "daemon", *arguments)
    return await asyncio.create_subprocess_exec(*command, env=environ, process_group=0)


def _send(children: Iterable[Process], number: int) -> None:
    for child in children:
        if child.returncode is None:
            child.send_signal(number)


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
