"""The heartbeat file: a worker's event loop writes it each second, the probe beside the worker reads it.

A file, so that liveness depends on nothing but the loop: neither on Redis nor on a port of the worker's own.

The document (times are Unix seconds)::

    {"version": "0.1.0", "pid": 12, "session": "…", "time": 1700000000.0, "started": 1700000000.0,
     "state": "starting|running|draining|stopped", "loop_lag_seconds": 0.001, "redis_up": true,
     "memory_bytes": 80000000,
     "tasks": 12,
     "families": {"email": {"slots": 10, "running": 3, "claimable_since": null, "last_claim": 1700000000.0,
                            "metrics": <FamilyMetrics.snapshot()>}}}

``claimable_since`` is since when work it could take has been known to wait; null when there is none, or when the
queue is paused or at one of its limits. ``last_claim`` is when it last took a job, null if never.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from daemon.errors import ConfigurationError

logger = logging.getLogger(__name__)

# The gauge is scraped every 15 s or more seldom: a lag of the last second alone would hardly ever be seen.
_LAGS_KEPT = 15


def default_path(environ: Mapping[str, str]) -> Path:
    """Give where the heartbeat file belongs when no setting says: systemd's runtime directory, the user's, or /tmp."""
    if runtime := environ.get("RUNTIME_DIRECTORY"):
        return Path(runtime.split(":")[0]) / "heartbeat.json"
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "arqd" / "heartbeat.json"
    # A directory of the user's own, written without following links: see Heartbeat._write.
    return Path(environ.get("TMPDIR", "/tmp")) / f"arqd-{os.getuid()}" / "heartbeat.json"  # noqa: S108


def scheduler_file(path: Path) -> Path:
    """Give the file of ``arqd scheduler``, beside that of a worker: a document without families."""
    return path.with_name("scheduler.json")


def read_heartbeat(path: Path) -> dict[str, Any] | None:
    """Read a heartbeat file; None when there is none or it is not one.

    Raises:
        OSError: when it is there but cannot be read.
    """
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return document if isinstance(document, dict) and isinstance(document.get("time"), int | float) else None


def resident_bytes(pid: int | Literal["self"] = "self") -> int | None:
    """Give how many bytes of memory a process takes, None where the system does not tell (it is no Linux)."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


class Heartbeat:
    """Writes the heartbeat file while `run` runs.

    Args:
        path: the file; its directory is made when missing. One per process.
        snapshot: gives the document but for ``time``, ``loop_lag_seconds`` and ``memory_bytes``; must not block.
        interval: seconds between two beats.
        beats: whether to write it now: False when something else than the event loop stands still.
        clock: gives Unix seconds.
    """

    def __init__(
        self,
        path: Path,
        snapshot: Callable[[], dict[str, Any]],
        interval: float = 1.0,
        *,
        beats: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._snapshot = snapshot
        self._interval = interval
        self._beats = beats
        self._clock = clock
        self._lags: deque[float] = deque(maxlen=_LAGS_KEPT)
        self._failing = False

    @property
    def loop_lag(self) -> float:
        """How many seconds late the event loop woke this up, the worst of the last 15 beats."""
        return max(self._lags, default=0.0)

    async def run(self) -> None:
        """Write at once and then each interval, until cancelled; then remove the file.

        Raises:
            ConfigurationError: when the first beat cannot be written.
        """
        loop = asyncio.get_running_loop()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write()
        except OSError as error:
            raise ConfigurationError(
                f"heartbeat file {self.path} cannot be written ({error.strerror}): set ARQD_HEARTBEAT_FILE"
            ) from None
        try:
            while True:
                due = loop.time() + self._interval
                await asyncio.sleep(self._interval)
                self._lags.append(max(0.0, loop.time() - due))
                if self._beats():
                    self.beat()
        finally:
            self.path.unlink(missing_ok=True)

    def beat(self) -> None:
        """Write the file now, e.g. when the state has changed.

        A full disk is told once and tried again; the file's own time of modification then shows that the loop turns.
        """
        try:
            self._write()
        except OSError as error:
            # The loop turns all the same; a time stamp needs no room on the disk.
            with contextlib.suppress(OSError):
                os.utime(self.path)
            if not self._failing:
                logger.warning("heartbeat file %s cannot be written: %s", self.path, error.strerror)
            self._failing = True
        else:
            self._failing = False

    def _write(self) -> None:
        document = {**self._snapshot(), "time": self._clock(), "loop_lag_seconds": self.loop_lag}
        document["memory_bytes"] = resident_bytes()
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        # O_NOFOLLOW: the directory may be under /tmp.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "w") as file:
            # The probe may run as another user, whatever the umask here.
            os.fchmod(descriptor, 0o644)
            file.write(json.dumps(document))
        temporary.replace(self.path)
