"""Connections to Redis by URL, and its errors in arqd's words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import hiredis
import redis
from redis import exceptions
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import DefaultParser
from redis.asyncio.sentinel import Sentinel

from daemon.errors import ConfigurationError, RedisError, RedisFull, RedisRefused, RedisUnavailable

#: What a lost, refused, restarting or frozen server looks like; waiting and trying again is right.
LOST = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.TryAgainError,
    OSError,
    TimeoutError,
)
SCHEMES = ("redis", "rediss", "unix", "redis+sentinel")


class _Mended:
    """What redis-py's asynchronous connections do slowly or wrongly.

    - Commands are packed by hiredis; redis-py does it in Python, 28 µs for each job settled.
    - A write is limited by ``asyncio.timeout``; redis-py uses ``wait_for``, which loses a cancellation on Python 3.11
      when the write ends in the same moment, and costs a task for each command.
    """

    socket_timeout: float | None

    def pack_command(self, *args: Any) -> list[bytes]:
        if " " in args[0]:
            args = (*args[0].split(), *args[1:])
        return [hiredis.pack_command(args)]

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        limit, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(limit):
                await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except TimeoutError:
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise exceptions.TimeoutError("Timeout writing to socket") from None
        finally:
            self.socket_timeout = limit


class _Parser(DefaultParser):  # type: ignore[misc, valid-type]
    async def can_read_destructive(self) -> bool:
        """Whether an idle connection is unusable; redis-py's own takes a cancellation of just then for its time-out."""
        if not self._connected or self._stream.at_eof():
            raise exceptions.ConnectionError("Connection closed by server.")
        return bool(self._stream._buffer)


class _Plain(_Mended, Connection): ...


class _Tls(_Mended, SSLConnection): ...


class _Unix(_Mended, UnixDomainSocketConnection): ...


_PACKED: dict[type[Any], type[Any]] = {Connection: _Plain, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}


class Channel:
    """A connection of one's own, for calls that are sent at once and read later.

    A client sends a command some turns of the event loop after it was asked to: it takes a connection from its pool
    and checks it first. What is to be done while the server works would then be done before it starts.

    Args:
        client: whose pool's settings it uses.
    """

    def __init__(self, client: Any) -> None:
        self._pool = client.connection_pool
        self._connection: Any = None

    async def send(self, *command: Any) -> None:
        """Send a command, connecting first where necessary."""
        try:
            if self._connection is None:
                self._connection = self._pool.make_connection()
                await self._connection.connect()
            await self._connection.send_command(*command)
        except BaseException:
            await self.close()
            raise

    async def read(self) -> Any:
        """Give the reply of the command sent before; an error reply is raised."""
        try:
            return await self._connection.read_response()
        except exceptions.ResponseError:
            raise
        except BaseException:
            # A reply that may still come would be taken for the next command's.
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.disconnect(nowait=True)


def safe_url(url: str) -> str:
    """Give a Redis URL without its user name and password, for messages."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _checked_scheme(url: str) -> str:
    scheme = url.partition("://")[0]
    if scheme == "redis+cluster":
        raise ConfigurationError("redis+cluster:// is not supported yet: use a single server or Sentinel")
    if scheme not in SCHEMES:
        raise ConfigurationError(f"{safe_url(url)!r} is not a Redis URL: it starts with one of {', '.join(SCHEMES)}")
    return scheme


def connect(url: str, *, redis_class: type[Any] = Redis, timeout: float = 5.0, **options: Any) -> Any:
    """Give an asynchronous client; nothing is sent before the first command.

    Args:
        url: ``redis://``, ``rediss://`` (``?ssl_ca_certs=...``), ``unix://`` or
            ``redis+sentinel://[user:password@]host:port,host:port/<service>/<db>``.
        redis_class: redis-py's class or a subclass, such as ``arq.connections.ArqRedis``.
        timeout: seconds to wait for a connection and for a reply.
        options: passed to redis-py's connection.

    Raises:
        ConfigurationError: for a URL it does not understand; the message never holds the password.
    """
    limits = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    options = {**limits, "socket_keepalive": True, "parser_class": _Parser, **options}
    scheme = _checked_scheme(url)
    if scheme == "unix":
        options.pop("socket_keepalive")
    try:
        if scheme == "redis+sentinel":
            return _sentinel(url, options, redis_class)
        pool = ConnectionPool.from_url(url, **options)
        pool.connection_class = _PACKED[pool.connection_class]
        # from_pool: closing the client closes its connections, too.
        return redis_class.from_pool(pool)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"Redis URL {safe_url(url)!r} cannot be used: {error}") from None


def _sentinel(url: str, options: dict[str, Any], redis_class: type[Any]) -> Any:
    parts = urlsplit(url)
    servers, path = parts.netloc.rpartition("@")[2], [part for part in parts.path.split("/") if part]
    hosts = []
    for server in servers.split(","):
        host, _, port = server.partition(":")
        hosts.append((host, int(port or 26379)))
    login: dict[str, Any] = {}
    if parts.password:
        login = {"username": unquote(parts.username) if parts.username else None, "password": unquote(parts.password)}
    sentinel = Sentinel(hosts, **options)  # type: ignore[no-untyped-call]
    return sentinel.master_for(
        path[0] if path else "mymaster",
        redis_class=redis_class,
        db=int(path[1]) if len(path) > 1 else 0,
        **login,
        **options,
    )


def connect_blocking(url: str, timeout: float) -> redis.Redis:
    """Give a synchronous client for the thread that renews the leases."""
    if _checked_scheme(url) == "redis+sentinel":
        from redis.sentinel import Sentinel as SyncSentinel

        reached = _sentinel(url, {}, Redis).connection_pool
        options = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
        hosts = [
            (s.connection_pool.connection_kwargs["host"], s.connection_pool.connection_kwargs["port"])
            for s in reached.sentinel_manager.sentinels
        ]
        login = {k: v for k, v in reached.connection_kwargs.items() if k in ("db", "username", "password")}
        sentinel: Any = SyncSentinel(hosts, **options)  # type: ignore[no-untyped-call]
        return cast(redis.Redis, sentinel.master_for(reached.service_name, **login, **options))
    return redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)


def translate(error: Exception) -> RedisError:
    """Give arqd's error for one of redis-py's."""
    text = str(error)
    if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError) or text.startswith("NOAUTH"):
        return RedisRefused(f"Redis refuses this user ({text}): check the user name, the password and its permissions")
    if isinstance(error, exceptions.OutOfMemoryError) or "OOM command not allowed" in text:
        return RedisFull()
    if isinstance(error, LOST):
        return RedisUnavailable(f"Redis cannot be reached ({text}): check ARQD_REDIS_URL and that the server runs")
    return RedisError(f"Redis answered: {text}")


@contextmanager
def translated() -> Iterator[None]:
    """Raise redis-py's errors inside as arqd's."""
    try:
        yield
    except (exceptions.RedisError, OSError) as error:
        raise translate(error) from error
