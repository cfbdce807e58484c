"""Worker and producer processes of the systems: how they are started, spoken to, watched and ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks import driver
from benchmarks.environments import prepared
from benchmarks.systems import System
from daemon.errors import ArqdError

ROOT = Path(__file__).resolve().parents[1]
STOP_SECONDS = 15.0
TICKS = os.sysconf("SC_CLK_TCK")
#: What is installed has been compiled; so are arqd's modules after their first import, whatever this process was told.
COMPILED = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(ROOT / "var" / "bytecode")}


class Program:
    """A process in a session of its own, from start to end; a context manager.

    Args:
        title: for messages.
        command: what to run.
        environ: variables beside those of this process. The server's address goes there, since a process list would
            show its password.
        pipes: whether it takes orders.
    """

    def __init__(self, title: str, command: Sequence[str], environ: Mapping[str, str], *, pipes: bool = False) -> None:
        self._title, self._command, self._pipes = title, tuple(command), pipes
        self._environ = {**os.environ, "PYTHONPATH": str(ROOT), **COMPILED, **environ}

    def __enter__(self) -> Self:
        self._output = tempfile.TemporaryFile()
        pipe = subprocess.PIPE if self._pipes else None
        self.process = subprocess.Popen(
            self._command,
            env=self._environ,
            cwd=ROOT,
            stdin=pipe if pipe else subprocess.DEVNULL,
            stdout=pipe if pipe else self._output,
            stderr=self._output,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        # Children of a worker that was killed, or left them behind, are of its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self._output.close()

    def check(self) -> None:
        """Raise ArqdError when it has ended."""
        if self.process.poll() is not None:
            raise ArqdError(f"{self._title} has ended with status {self.process.returncode}: {self.told()}")

    def told(self) -> str:
        """The last lines it printed: at level WARNING they are what went wrong."""
        self._output.seek(0)
        return "\n".join(self._output.read()[-2000:].decode(errors="replace").strip().splitlines()[-3:])

    def processes(self) -> list[int]:
        """Ids of it and its children."""
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _group(path) == self.process.pid]

    def cpu_seconds(self) -> float | None:
        """Processor time that it and its children have used; None where the system does not tell."""
        if sys.platform != "linux":
            return None
        ticks = 0
        for number in self.processes():
            fields = _stat(Path("/proc", str(number)))
            ticks += sum(int(field) for field in fields[11:15])
        return ticks / TICKS

    def resident(self) -> int | None:
        """Bytes of memory that it and its children hold, shared pages divided among those that share them."""
        if sys.platform != "linux":
            return None
        found = 0
        for number in self.processes():
            # A child may end meanwhile.
            with contextlib.suppress(OSError):
                for line in Path("/proc", str(number), "smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        found += int(line.split()[1]) * 1024
        return found


def _stat(path: Path) -> list[str]:
    """Fields of a process's stat from the third on: the second is a name that may contain anything."""
    try:
        return (path / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _group(path: Path) -> int:
    fields = _stat(path)
    return int(fields[3]) if fields else -1  # the session: children may make groups of their own


class Site:
    """A system where it is measured: its environment, the server, a folder for what its processes tell.

    A context manager, which removes the folder.
    """

    def __init__(self, system: System, cache: Path, url: str) -> None:
        self.system = system
        self._url = url
        self._environment = prepared(system, cache)
        memory = Path("/dev/shm")  # noqa: S108 - not to wait for a disk
        self.folder = Path(tempfile.mkdtemp(prefix="arqd-bench-", dir=memory if memory.is_dir() else None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        self.folder.rmdir()

    def clear(self) -> None:
        """Forget what was told."""
        for path in self.folder.iterdir():
            path.unlink()

    def worker(self, values: Mapping[str, Any], number: int = 0) -> Program:
        """Give a worker, not started yet; ``number`` tells one of several from the others."""
        worker = f"{self.system.title} worker"
        if self.system.command is None:
            return Program(worker, self._own("work"), self._variables(values, number))
        names = {"bin": self._environment / "bin", "worker": number, **values}
        command = [part.format(**names) for part in self.system.command.split()]
        return Program(worker, command, self._variables(values, number))

    def producer(self, values: Mapping[str, Any]) -> ProducerProcess:
        """Give a producer, not started yet."""
        return ProducerProcess(f"{self.system.title} producer", self._own("produce"), self._variables(values, 0))

    def _own(self, role: str) -> list[str]:
        if self.system.module.endswith(".mjs"):
            return ["node", str(ROOT / "benchmarks" / "peers" / self.system.module), role]
        return [str(self._environment / "bin" / "python"), "-m", self.system.module, role]

    def _variables(self, values: Mapping[str, Any], number: int) -> dict[str, str]:
        return {
            driver.URL_VARIABLE: self._url,
            driver.FOLDER_VARIABLE: str(self.folder),
            driver.WORKER_VARIABLE: str(number),
            driver.SETTING_VARIABLE: json.dumps(dict(values)),
            "ARQD_BENCH_MODULES": str(self._environment),
            "RQ_REDIS_URL": self._url,
            **{name: str(values[name]) for name in self.system.variables if name in values},
        }


class ProducerProcess(Program):
    """A producer that takes orders."""

    def __init__(self, title: str, command: Sequence[str], environ: Mapping[str, str]) -> None:
        super().__init__(title, command, environ, pipes=True)

    def order(self, do: str, timeout: float, **values: Any) -> Any:
        """Have something done and give the answer.

        Raises:
            ArqdError: when it ends or gives none in time.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **values}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.process.wait(STOP_SECONDS)
            self.check()
        deadline = time.monotonic() + timeout
        if not select.select([self.process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
            raise ArqdError(f"{self._title}: {do} took more than {timeout:g} s")
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(STOP_SECONDS)
            self.check()
        return json.loads(line)
