"""The server everything runs on, and what it tells of itself."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks.systems import Probe
from daemon.embedded import EmbeddedServer
from daemon.errors import ArqdError

REWRITE_SECONDS = 60.0


@contextmanager
def measured_server() -> Iterator[tuple[str, str]]:
    """Give the URL of an empty server on loopback, started for this, and what it is; nothing is written to disk."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder) / "valkey") as own,
        redis.Redis.from_url(own.url) as client,
    ):
        client.config_set("appendonly", "no")
        info: Any = client.info("server")
        yield own.url, f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}"


@contextmanager
def append_only(client: redis.Redis) -> Iterator[None]:
    """Write an append-only file, synced every second, meanwhile.

    Raises:
        ArqdError: when its first part is not written in time.
    """
    client.config_set("appendfsync", "everysec")
    client.config_set("appendonly", "yes")
    try:
        deadline = time.monotonic() + REWRITE_SECONDS
        while True:
            info: Any = client.info("persistence")
            if info["aof_enabled"] and not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]:
                break
            if time.monotonic() > deadline:
                raise ArqdError("the server does not begin its append-only file")
            time.sleep(0.05)
        yield
    finally:
        client.config_set("appendonly", "no")


@dataclass(frozen=True, slots=True)
class Usage:
    """What the server has done so far: commands (those inside scripts too), reads from sockets, bytes, CPU seconds."""

    commands: int
    reads: int
    bytes_in: int
    bytes_out: int
    cpu: float


@dataclass(frozen=True, slots=True)
class Look:
    """How many jobs had ended at a time (`time.perf_counter`), and what it took to look."""

    at: float
    ended: int
    usage: Usage | None = None


class Watch:
    """Counts ended jobs as a system's keys tell, and leaves its own share out of what the server has done."""

    def __init__(self, url: str, probe: Probe) -> None:
        self._client = redis.Redis.from_url(
            url.rpartition("/")[0] + f"/{probe.database}", single_connection_client=True
        )
        assert self._client.connection is not None
        self._connection = self._client.connection
        self._probe = probe
        self._packed = b"".join(self._connection.pack_commands(probe.commands))
        self._info = b"".join(self._connection.pack_command("INFO", "all"))
        self._own = [0, 0, 0, 0]
        self._before = 0
        self._before = self._count()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def look(self) -> Look:
        """Count once."""
        counted = self._count()
        return Look(time.perf_counter(), self._before - counted if self._probe.left else counted - self._before)

    def look_closely(self) -> Look:
        """Count once, and ask what the server has done."""
        look = self.look()
        self._connection.send_packed_command([self._info])
        raw: bytes = self._connection.read_response()
        info = dict(line.split(":", 1) for line in raw.decode().splitlines() if ":" in line)
        calls = sum(
            int(value.split("=")[1].split(",")[0]) for name, value in info.items() if name.startswith("cmdstat_")
        )
        commands, reads, bytes_in, bytes_out = self._own
        # The INFO itself has been read by now, but is not counted as a call, nor its reply as sent.
        usage = Usage(
            calls - commands,
            int(info["total_reads_processed"]) - reads - 1,
            int(info["total_net_input_bytes"]) - bytes_in - len(self._info),
            int(info["total_net_output_bytes"]) - bytes_out,
            float(info["used_cpu_user"]) + float(info["used_cpu_sys"]),
        )
        self._add(1, 1, len(self._info), len(raw) + len(f"${len(raw)}\r\n\r\n"))
        return Look(look.at, look.ended, usage)

    def _count(self) -> int:
        self._connection.send_packed_command([self._packed])
        replies = [int(self._connection.read_response()) for _ in self._probe.commands]
        self._add(len(replies), 1, len(self._packed), sum(len(f":{reply}\r\n") for reply in replies))
        return sum(replies)

    def _add(self, *own: int) -> None:
        self._own = [before + more for before, more in zip(self._own, own, strict=True)]
