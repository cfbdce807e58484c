"""Serves the probe and the console with uvicorn until a signal or a cancellation ends it in good order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from daemon.errors import ConfigurationError


async def serve(
    app: ASGIApp,
    *,
    name: str,
    host: str,
    port: int,
    handle_signals: bool = True,
    on_listening: Callable[[str], None] | None = None,
    on_ending: Callable[[], None] | None = None,
    trusted_proxies: str = "",
) -> None:
    """Serve until SIGTERM, SIGINT or cancellation; requests that run are answered first.

    Args:
        app: what `create_app` gave.
        name: what it is, for messages.
        host: address to listen on; ``0.0.0.0`` or ``::`` where others must reach it, as in a pod.
        port: 0 for any free one.
        handle_signals: False when something else in this process ends it, by cancelling this coroutine.
        on_listening: called with the URL once connections are accepted.
        on_ending: called when it is to end, to finish answers that have no end of their own.
        trusted_proxies: addresses whose ``X-Forwarded-For`` and ``-Proto`` count, ``,`` between them; ``*``: all.

    Raises:
        ConfigurationError: when the address cannot be listened on.
    """
    listener = _listen(name, host, port)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies or None,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,
    )
    server = _Server(config, on_ending)
    if on_listening is not None:
        address = f"[{host}]" if ":" in host else host
        on_listening(f"http://{address}:{listener.getsockname()[1]}")
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    with _stop_on_signals(server) if handle_signals else contextlib.nullcontext():
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            server.should_exit = True
            await serving
            raise


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ending: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._on_ending = on_ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close connections; what is to be told before is told."""
        if self._on_ending is not None:
            self._on_ending()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: uvicorn would raise them again at the end, and the exit status would be a failure."""
        yield


@contextlib.contextmanager
def _stop_on_signals(server: uvicorn.Server) -> Iterator[None]:
    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _listen(name: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # "::" listens on IPv4 too, as a pod may have either.
        listener = socket.create_server((host, port), family=family, dualstack_ipv6=host == "::", backlog=128)
        # Its connections inherit it. asyncio sets it on sockets made with their protocol's number only, and without it
        # a small answer, written in two parts, waits 40 ms for the client's acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise ConfigurationError(f"{name} cannot listen on {host} port {port}: {error.strerror}") from None
