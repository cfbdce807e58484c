"""Runs the console: connections, application and server, until a signal or a cancellation."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from daemon.console import accounts
from daemon.console.app import create_app
from daemon.console.pages.dashboard import Dashboard
from daemon.console.roles import Actor, Role
from daemon.console.services import Services
from daemon.errors import RedisError
from daemon.family import Family
from daemon.process.serving import serve
from daemon.servers import RedisUrl

if TYPE_CHECKING:
    from daemon.settings import Settings

#: Who logs in with the link that is printed.
LINK_NAME = "login-link"
#: The token that is made with it, where there is none yet; it may stand in somebody's log.
FIRST_TOKEN, FIRST_EXPIRES = "first", "30d"


async def _first_token(services: Services) -> str:
    """Make a token where there is none yet; gives its text."""
    if await services.tokens.list():
        return ""
    actor = Actor(LINK_NAME, Role.ADMIN, "cli", socket.gethostname())
    return (await accounts.add(services.tokens, services.audit, actor, FIRST_TOKEN, Role.ADMIN, FIRST_EXPIRES))[1]


async def run_console(
    url: RedisUrl,
    settings: Settings,
    families: Sequence[Family],
    *,
    handle_signals: bool = True,
    login_link: bool = False,
    on_listening: Callable[[str, str, str], None] | None = None,
) -> None:
    """Serve the console until SIGTERM, SIGINT or cancellation.

    Args:
        url: Redis.
        families: those it knows, loaded.
        login_link: make a link with which one can log in once, as admin.
        on_listening: called with its address, that link, and a first token, where there was none yet and a link is made
            ("" for none, or while Redis is away).

    Raises:
        ConfigurationError: when it cannot listen, or a setting cannot be used.
    """
    console = settings.console
    async with Services.of(url, settings, families) as services:
        app = create_app(services, Dashboard())
        if settings.traces.endpoint:
            from daemon.tracing import TracedRequests

            app.add_middleware(TracedRequests)
        code = token = ""
        if login_link:
            with suppress(RedisError):
                code = await services.sessions.make_link(LINK_NAME, Role.ADMIN)
                token = await _first_token(services)

        def tell(address: str) -> None:
            home = f"{address}{console.base_path}/"
            if on_listening is not None:
                on_listening(home, f"{home}login/{code}" if code else "", token)

        await serve(
            app,
            name="the console",
            host=console.host,
            port=console.port,
            handle_signals=handle_signals,
            on_listening=tell,
            on_ending=services.live.close,
            trusted_proxies=console.trusted_proxies,
        )
