"""systemd's notification protocol (sd_notify(3)): datagrams to the socket it names; nothing where it names none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping

#: What the processes of a service must not inherit: only its main process speaks to systemd.
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
#: How often something is told where systemd asks for no watchdog, seconds.
USUAL_INTERVAL = 1.0


class Notifier:
    """Speaks to the service manager that started this process, if one did.

    Args:
        environ: the process's environment.

    Attributes:
        interval: seconds between two signs of life; systemd waits twice as long or longer for one.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog = float(environ.get("WATCHDOG_USEC") or 0) / 1e6
        self._watched = watchdog > 0 and environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.interval = min(USUAL_INTERVAL, watchdog / 3) if self._watched else USUAL_INTERVAL

    def send(self, *lines: str) -> None:
        """Send assignments such as ``READY=1``; a manager that has gone away is no reason to stop working."""
        if self._address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.connect(self._address)
                sender.sendall("\n".join(lines).encode())

    def ready(self, status: str) -> None:
        """The service has started, or has taken up its new settings."""
        self.send("READY=1", f"STATUS={status}")

    def alive(self, status: str = "") -> None:
        """The event loop turns."""
        if lines := [*["WATCHDOG=1"] * self._watched, *[f"STATUS={status}"] * bool(status)]:
            self.send(*lines)

    def stopping(self, status: str, seconds: float) -> None:
        """The service ends, and needs at most so many seconds from now on."""
        self.send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}", f"STATUS={status}")

    def reloading(self) -> None:
        """New settings are read; `ready` follows."""
        # systemd compares it with its own clock: signals that cross are told apart by it.
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    @contextlib.contextmanager
    def keeping_alive(self, turns: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Tell that the event loop turns until the block ends, and that the service ends then; called in that loop.

        Args:
            turns: whether what it is there for goes on as well.
        """
        task = asyncio.get_running_loop().create_task(self._keep_telling(turns), name="notify")
        try:
            yield
        finally:
            task.cancel()
            self.send("STOPPING=1")

    async def _keep_telling(self, turns: Callable[[], bool]) -> None:
        while True:
            if turns():
                self.alive()
            await asyncio.sleep(self.interval)
