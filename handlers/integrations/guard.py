"""The network under the HTTP client: a host is resolved once, each address is checked, then connected to by number.

So nothing is sent, and no connection opened, to an address that was not checked, whatever a name resolves to the next
moment. TLS still checks the certificate against the name.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import httpcore

from handlers.integrations.allow_list import AllowList

#: Gives the addresses of a host, as text.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Forbidden(Exception):
    """The URL does not lead to the public internet, and the operator does not allow where it leads."""


async def resolve(host: str, port: int) -> list[str]:
    """Ask the system for a host's addresses; numbers in any notation are understood too.

    Raises:
        OSError: when it has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only.

    Args:
        allow: what is allowed; None allows everything, for URLs that an operator wrote.
        resolve: what finds the addresses of a host.
    """

    def __init__(self, allow: AllowList | None, resolve: Resolve = resolve) -> None:
        self._allow = allow
        self._resolve = resolve
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers.

        Raises:
            Forbidden: when one of the host's addresses is not allowed; then none is connected to.
            httpcore.ConnectError, httpcore.ConnectTimeout: when none answers in time.
        """
        ends = None if timeout is None else time.monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"the name {host} was not resolved in time") from None
        except (OSError, UnicodeError):
            raise httpcore.ConnectError(f"the name {host} cannot be resolved") from None
        if self._allow is not None and not all(self._allow.allows(host, address) for address in addresses):
            raise Forbidden(f"{host} is not on the public internet (ARQD_HTTP__ALLOW names what is allowed beside it)")
        failed: Exception = httpcore.ConnectError(f"the name {host} has no address")
        for index, address in enumerate(addresses):
            # What is left is shared by the addresses that are left, so that one that is silent does not use it up.
            left = None if ends is None else max(0.001, (ends - time.monotonic()) / (len(addresses) - index))
            try:
                return await self._network.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """No URL leads to a socket of this machine."""
        raise Forbidden("sockets of this machine are not connected to")

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts; the client makes one only."""
        await asyncio.sleep(seconds)
