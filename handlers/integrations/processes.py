"""Processes for work on files that came from outside: one job each at a time, limited, and killed with their job.

How a family uses it::

    ctx["processes"] = Processes(2, memory=1_000_000_000)                          # on_startup
    async with scratch(folder) as target:
        result = await ctx["processes"].run("handlers.….images:process", {…}, [source, target], tell=…)
    await ctx["processes"].close()                                                 # on_shutdown

A process is started when it is first needed and then kept. It runs at a lower priority than the worker, inherits
nothing of its environment, dies with it, and gets the files of a call as open descriptors: it needs no names, and a
file without a name (`scratch`) is gone whatever becomes of either process. It is killed and replaced when its job is
cancelled or times out, when it breaks its limit of memory, and after `CALLS` calls.

The pool of `JobContext.run_in_process` is for work on data of one's own: it cannot end one job without the others.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from daemon.errors import PermanentError
from daemon.process.signals import send_signal
from handlers.integrations.process_child import LENGTH, LONGEST, message

logger = logging.getLogger("arqd.processes")

#: How a process ends that its input has broken: memory used wrongly, or not to be had where a library insists on it.
CRASHES = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV)
#: Calls of a process before it is replaced: libraries may leak.
CALLS = 500
_START = (
    "import sys; sys.path[:] = {path!r}; from handlers.integrations.process_child import main; main({number}, {parent})"
)


class InputRefused(PermanentError):
    """The input cannot be worked on: another try would end the same way."""


class OutOfMemory(PermanentError):
    """The work needs more memory than a job may have."""


class ProcessCrashed(PermanentError):
    """A library crashed in the process of a job: on this input it would again."""


class ProcessFailed(Exception):
    """The process of a job was killed, or failed of something nobody expected."""


class Processes:
    """A number of processes.

    Args:
        workers: how many; default one per core.
        memory: what a call may use beyond what its process has, bytes (Linux only).
    """

    def __init__(self, workers: int | None = None, *, memory: int) -> None:
        self.workers = workers or os.cpu_count() or 1
        self.memory = memory
        self._free = asyncio.Semaphore(self.workers)
        self._idle: list[_Process] = []
        self._closed = False

    async def run(
        self,
        call: str,
        arguments: Mapping[str, Any],
        files: Sequence[BinaryIO] = (),
        *,
        tell: Callable[[Mapping[str, Any]], Any] | None = None,
        memory: int | None = None,
    ) -> dict[str, Any]:
        """Make a call in a process that does nothing else meanwhile; wait for one first.

        Args:
            call: ``module:function``; the function takes the arguments, the files and a function to tell of progress.
            arguments: JSON.
            files: open files; those opened for writing can be written there.
            tell: coroutine function that is given what the function tells.
            memory: limit in place of the usual one, bytes.

        Returns:
            What the function returned, JSON.

        Raises:
            InputRefused: the function raised a `PermanentError`.
            OutOfMemory: it used more memory than it may.
            ProcessCrashed: a library crashed on the input.
            ProcessFailed: it raised something else, or its process was killed.
        """
        async with self._free:
            process = self._idle.pop() if self._idle else await _Process.started()
            try:
                limit = memory or self.memory
                answer = await process.call({"call": call, "arguments": arguments, "memory": limit}, files, tell)
            except BaseException:
                await process.end()
                raise
            if self._closed or "memory" in answer or process.calls >= CALLS:
                await process.end()
            else:
                self._idle.append(process)
        return _result(answer, limit)

    async def close(self) -> None:
        """End the processes."""
        self._closed = True
        while self._idle:
            await self._idle.pop().end()


class _Process:
    """One of them."""

    def __init__(self, process: asyncio.subprocess.Process, mine: socket.socket) -> None:
        self._process = process
        self._socket = mine
        self.calls = 0

    @classmethod
    async def started(cls) -> _Process:
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        code = _START.format(path=sys.path, number=theirs.fileno(), parent=os.getpid())
        nowhere = asyncio.subprocess.DEVNULL
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", code),
                stdin=nowhere,
                stdout=nowhere,
                stderr=nowhere,
                pass_fds=(theirs.fileno(),),
                env={"PATH": os.defpath},
            )
        except BaseException:
            mine.close()
            raise
        finally:
            theirs.close()
        return cls(process, mine)

    async def call(
        self, request: Mapping[str, Any], files: Sequence[BinaryIO], tell: Callable[[Mapping[str, Any]], Any] | None
    ) -> dict[str, Any]:
        self.calls += 1
        content = message(request)
        for file in files:
            file.flush()
        loop = asyncio.get_running_loop()
        try:
            # The buffer is empty between two calls: so little never has to wait for room.
            socket.send_fds(self._socket, [content[:LENGTH]], [file.fileno() for file in files])
            await loop.sock_sendall(self._socket, content[LENGTH:])
            while "tell" in (answer := await self._answer(loop)):
                if tell is not None:
                    await tell(answer["tell"])
        except (OSError, EOFError):
            status = await self._process.wait()
            kind = ProcessCrashed if -status in CRASHES else ProcessFailed
            raise kind(f"the process of this job ended by itself ({_told(status)})") from None
        for file in files:
            # The descriptor's position is shared: where the process has left it, a buffer of ours would not know.
            file.seek(0, os.SEEK_END)
        return answer

    async def _answer(self, loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
        size = int.from_bytes(await self._exactly(loop, LENGTH), "big")
        if size > LONGEST:
            raise ProcessFailed("the process of this job answers too much")
        answer = json.loads(await self._exactly(loop, size))
        assert isinstance(answer, dict)
        return answer

    async def _exactly(self, loop: asyncio.AbstractEventLoop, size: int) -> bytes:
        held = bytearray()
        while len(held) < size:
            if not (chunk := await loop.sock_recv(self._socket, size - len(held))):
                raise EOFError
            held += chunk
        return bytes(held)

    async def end(self) -> None:
        self._socket.close()
        send_signal(self._process, signal.SIGKILL)
        await asyncio.shield(self._process.wait())


def _result(answer: Mapping[str, Any], limit: int) -> dict[str, Any]:
    if "refused" in answer:
        raise InputRefused(answer["refused"])
    if "memory" in answer:
        raise OutOfMemory(f"this needs more than the {limit / 1e6:,.0f} MB of memory a job may have")
    if "failed" in answer:
        logger.error("failed in the process of a job:\n%s", answer.get("traceback"))
        raise ProcessFailed(answer["failed"])
    result = answer["result"]
    assert isinstance(result, dict)
    return result


def _told(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"


@asynccontextmanager
async def scratch(folder: Path | None = None) -> AsyncIterator[BinaryIO]:
    """Give an empty file without a name, to be read and written: it is gone when it is closed, or its process dies.

    Args:
        folder: whose disk it is on; default the system's for temporary files.
    """
    file = await asyncio.to_thread(tempfile.TemporaryFile, dir=folder)
    try:
        yield cast(BinaryIO, file)
    finally:
        await asyncio.to_thread(file.close)
