"""The server everything runs on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from benchmarks.side import NAME
from daemon.connections import safe_url
from daemon.embedded import EmbeddedServer
from daemon.errors import ConfigurationError


@contextmanager
def measured_server(url: str | None, *, force: bool) -> Iterator[tuple[str, str]]:
    """Give the URL of a server and what it is; for None one of our own, without persistence.

    On a named one only keys with `NAME` are written, and they are removed before and after; the workers' lease for
    schedules (``arqd:scheduler``) ends within a second.

    Raises:
        ConfigurationError: when it holds other data, unless ``force``.
    """
    if url is None:
        with (
            tempfile.TemporaryDirectory() as folder,
            EmbeddedServer(Path(folder) / "valkey") as own,
            redis.Redis.from_url(own.url) as client,
        ):
            client.config_set("appendonly", "no")
            yield own.url, _describe(client)
        return
    with redis.Redis.from_url(url, socket_timeout=30) as client:
        _remove_own(client)
        count = client.dbsize()
        if count and not force:
            raise ConfigurationError(
                f"{safe_url(url)} holds {count} keys: name an empty database, or give --force "
                f"(only keys *{NAME}* are written and removed, but whatever else it does disturbs the figures)"
            )
        try:
            yield url, _describe(client)
        finally:
            _remove_own(client)


def _describe(client: redis.Redis) -> str:
    info: Any = client.info("server")
    return f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}"


def _remove_own(client: redis.Redis) -> None:
    keys: list[bytes] = []
    for key in client.scan_iter(match=f"*{NAME}*", count=1000):
        keys.append(key)
        if len(keys) == 1000:
            client.unlink(*keys)
            keys.clear()
    if keys:
        client.unlink(*keys)
