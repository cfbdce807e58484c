"""Connections to Redis by URL, and its errors in arqd's words."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import hiredis
import redis
from redis import exceptions
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.cluster import ClusterParser
from redis.asyncio.connection import DefaultParser, parse_url
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from daemon.errors import ConfigurationError, RedisError, RedisFull, RedisRefused, RedisUnavailable
from daemon.servers import RedisUrl, Servers, Spread, url_of

#: What a lost, refused, restarting or frozen server looks like; waiting and trying again is right.
LOST = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.TryAgainError,
    exceptions.ClusterDownError,
    exceptions.AskError,  # and MovedError: of a connection of one's own to a node that has the slot no more
    OSError,
    TimeoutError,
)
SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


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


class _Unlocked(ConnectionPool):
    """redis-py opens one connection after the other: on a server that hangs each caller waits for all before it."""

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        connection = self.get_available_connection()  # type: ignore[no-untyped-call]
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection


class _WatchedPool(_Unlocked, SentinelConnectionPool): ...


class _Parser(DefaultParser):  # type: ignore[misc, valid-type]
    # A cluster's redirections have errors of their own, which redis-py reads in its cluster client only.
    EXCEPTION_CLASSES = ClusterParser.EXCEPTION_CLASSES

    async def can_read_destructive(self) -> bool:
        """Whether an idle connection is unusable; redis-py's own takes a cancellation of just then for its time-out."""
        if not self._connected or self._stream.at_eof():
            raise exceptions.ConnectionError("Connection closed by server.")
        return bool(self._stream._buffer)


class _Plain(_Mended, Connection): ...


class _Tls(_Mended, SSLConnection): ...


class _Unix(_Mended, UnixDomainSocketConnection): ...


class _Watched(_Mended, SentinelManagedConnection): ...


class _WatchedTls(_Mended, SentinelManagedSSLConnection): ...


_PACKED: dict[type[Any], type[Any]] = {Connection: _Plain, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}


class _BlockingParser(redis.connection.DefaultParser):  # type: ignore[misc, valid-type]
    EXCEPTION_CLASSES = ClusterParser.EXCEPTION_CLASSES


def safe_url(url: RedisUrl) -> str:
    """Give a Redis URL without its user name and password, for messages."""
    if isinstance(url, Servers):
        others = [f"{safe_url(other)} ({', '.join(names)})" for other, names in url.by_url().items() if names]
        return ", ".join([safe_url(url.default), *others])
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


@dataclass(frozen=True, slots=True)
class _Address:
    """A URL taken apart: ``topology`` is "", ``sentinel`` or ``cluster``; the rest only where there is one."""

    topology: str
    hosts: list[tuple[str, int]]
    service: str
    options: dict[str, Any]


def _address(url: str) -> _Address:
    scheme, topology = url.partition("://")[0], ""
    if scheme not in SCHEMES:
        raise ConfigurationError(f"{safe_url(url)!r} is not a Redis URL: it starts with one of {', '.join(SCHEMES)}")
    scheme, _, topology = scheme.partition("+")
    if not topology:
        return _Address("", [], "", {})
    parts = urlsplit(url)
    try:
        hosts = [_host(server, topology) for server in parts.netloc.rpartition("@")[2].split(",")]
        # What is behind ``?`` is read as redis-py reads it in its own URLs.
        options = dict(parse_url(f"{scheme}://host?{parts.query}"))
        path = [part for part in parts.path.split("/") if part]
        if topology == "cluster" and path not in ([], ["0"]):
            raise ValueError("a cluster has no databases")
        if topology == "sentinel":
            options["db"] = int(path[1]) if len(path) > 1 else 0
    except ValueError as error:
        raise ConfigurationError(f"Redis URL {safe_url(url)!r} cannot be used: {error}") from None
    options.pop("host")
    options["ssl"] = options.pop("connection_class", None) is not None
    if parts.password:
        options["username"] = unquote(parts.username) if parts.username else None
        options["password"] = unquote(parts.password)
    return _Address(topology, hosts, path[0] if path else "mymaster", options)


def _host(server: str, topology: str) -> tuple[str, int]:
    host, colon, port = server.rpartition(":") if not server.endswith("]") else (server, "", "")
    name = (host if colon else server).strip("[]")
    if not name:
        raise ValueError("it names no host")
    return name, int(port) if port else 26379 if topology == "sentinel" else 6379


def connect(url: RedisUrl, *, redis_class: type[Any] = Redis, timeout: float = 5.0, **options: Any) -> Any:
    """Give an asynchronous client; nothing is sent before the first command.

    Args:
        url: ``redis://``, ``rediss://`` (``?ssl_ca_certs=...``), ``unix://``,
            ``redis+sentinel://[user:password@]host:port,host:port/<service>/<db>`` or
            ``redis+cluster://[user:password@]host:port,host:port``, the latter two with ``rediss+`` for TLS; `Servers`
            for several.
        redis_class: redis-py's class or a subclass, such as ``arq.connections.ArqRedis``; of a cluster, its nodes'.
        timeout: seconds to wait for a connection and for a reply.
        options: passed to redis-py's connection.

    Raises:
        ConfigurationError: for a URL it does not understand; the message never holds the password.
    """
    if isinstance(url, Servers):
        made = {each: connect(each, redis_class=redis_class, timeout=timeout, **options) for each in url.by_url()}
        return Spread(made[url.default], {family: made[each] for family, each in url.families.items()})
    limits = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    options = {**limits, "socket_keepalive": True, "parser_class": _Parser, **options}
    address = _address(url)
    if url.startswith("unix:"):
        options.pop("socket_keepalive")
    try:
        if address.topology == "sentinel":
            return _sentinel(address, options, redis_class)
        if address.topology == "cluster":
            return _cluster(address, options, redis_class, timeout)
        pool = _Unlocked.from_url(url, **options)
        pool.connection_class = _PACKED[pool.connection_class]
        # from_pool: closing the client closes its connections, too.
        return redis_class.from_pool(pool)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"Redis URL {safe_url(url)!r} cannot be used: {error}") from None


def _sentinel(address: _Address, options: dict[str, Any], redis_class: type[Any]) -> Any:
    sentinel = Sentinel(address.hosts, **options)  # type: ignore[no-untyped-call]
    asking = {name: value for name, value in options.items() if name.startswith("socket_") or name == "parser_class"}
    # Connections to them are mended, too: whoever is cancelled while the primary is being looked for has to hear of it.
    sentinel.sentinels = [
        Redis.from_pool(ConnectionPool(connection_class=_Plain, host=host, port=port, **asking))
        for host, port in address.hosts
    ]
    kind = _WatchedTls if address.options["ssl"] else _Watched
    own = {name: value for name, value in address.options.items() if name != "ssl"}
    classes = {"redis_class": redis_class, "connection_pool_class": _WatchedPool, "connection_class": kind}
    return sentinel.master_for(address.service, **classes, **{**options, **own})


def _cluster(address: _Address, options: dict[str, Any], redis_class: type[Any], timeout: float) -> Any:
    # A producer that has one server does not read it.
    from daemon.connecting.cluster import Cluster

    kind = _Tls if address.options["ssl"] else _Plain
    own = {name: value for name, value in address.options.items() if name != "ssl"}

    def open_node(node: tuple[str, int]) -> Any:
        host, port = node
        return redis_class.from_pool(_Unlocked(connection_class=kind, host=host, port=port, **{**options, **own}))

    return Cluster(address.hosts, open_node, timeout)


def connect_blocking(url: RedisUrl, timeout: float, key: str = "") -> redis.Redis:
    """Give a synchronous client for a thread that renews leases, of the server that has this key now."""
    url = url_of(url, key)
    address = _address(url)
    options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    options["parser_class"] = _BlockingParser
    if address.topology == "sentinel":
        from redis.sentinel import Sentinel as SyncSentinel

        sentinel: Any = SyncSentinel(address.hosts, **options)  # type: ignore[no-untyped-call]
        return cast(redis.Redis, sentinel.master_for(address.service, **{**options, **address.options}))
    if address.topology == "cluster":
        return _blocking_node(_owner(address, options, key), address, options)
    return redis.Redis.from_url(url, **options)


def _blocking_node(node: tuple[str, int], address: _Address, options: dict[str, Any]) -> redis.Redis:
    own = {name: value for name, value in address.options.items() if name != "ssl"}
    kind = redis.SSLConnection if address.options["ssl"] else redis.Connection
    pool = redis.ConnectionPool(connection_class=kind, host=node[0], port=node[1], **{**options, **own})
    return redis.Redis.from_pool(pool)


def _owner(address: _Address, options: dict[str, Any], key: str) -> tuple[str, int]:
    from daemon.connecting.cluster import owner_of

    failure: Exception = exceptions.ConnectionError("no node of the cluster answers")
    for host, port in address.hosts:
        try:
            with _blocking_node((host, port), address, options) as client:
                return owner_of(client.execute_command("CLUSTER SLOTS"), (host, port), key)
        except LOST as error:
            failure = error
    raise failure


def translate(error: Exception) -> RedisError:
    """Give arqd's error for one of redis-py's."""
    text = str(error)
    # Redis before 8 answers a long command of a client that has not logged in by "unauthenticated multibulk length".
    unknown = text.startswith("NOAUTH") or "unauthenticated" in text
    if unknown or isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError):
        return RedisRefused(f"Redis refuses this user ({text}): check the user name, the password and its permissions")
    if isinstance(error, exceptions.OutOfMemoryError) or "OOM command not allowed" in text:
        return RedisFull()
    if isinstance(error, exceptions.ClusterCrossSlotError | exceptions.MovedError):
        return RedisError(f"this server is a node of a Redis Cluster ({text}): use redis+cluster:// in its URL")
    if isinstance(error, LOST):
        return RedisUnavailable(f"Redis cannot be reached ({text}): check ARQD_REDIS_URL and that the server runs")
    return RedisError(f"Redis answered: {text}")


class _Translated:
    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and isinstance(error, exceptions.RedisError | OSError):
            raise translate(error) from error


_TRANSLATED = _Translated()


def translated() -> _Translated:
    """Raise redis-py's errors inside as arqd's. (A class: a generator costs each enqueue five more calls.)"""
    return _TRANSLATED
