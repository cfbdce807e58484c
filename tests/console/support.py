"""The console over a real Valkey, called in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from daemon.archive.archiver import Archiver
from daemon.archive.database import Archive
from daemon.console.app import Pages, create_app
from daemon.console.roles import Role
from daemon.console.services import Services
from daemon.console.settings import ConsoleSettings
from daemon.family import Family
from daemon.process.serving import serve
from tests.asking import FUNCTIONS
from tests.engine import make_family

API = "/api/v1"


@dataclass(slots=True)
class Console:
    """A console and clients of it: ``anyone`` sends nothing, `of` a role sends a token of it."""

    services: Services
    app: Any
    anyone: httpx.AsyncClient
    _clients: dict[Role, httpx.AsyncClient] = field(default_factory=dict)

    async def of(self, role: Role | str) -> httpx.AsyncClient:
        """Give the client of a role."""
        role = Role(role)
        if role not in self._clients:
            _, token = await self.services.tokens.add(f"test-{role}", role)
            self._clients[role] = self.client(token)
        return self._clients[role]

    def client(self, bearer: str | None = None, **headers: str) -> httpx.AsyncClient:
        """Give a client of its own."""
        if bearer is not None:
            headers["authorization"] = f"Bearer {bearer}"
        # An error nobody foresaw is to be answered, too.
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=("192.0.2.7", 4711))
        return httpx.AsyncClient(transport=transport, base_url="http://console", headers=headers)

    async def browser(self, role: Role = Role.ADMIN) -> tuple[httpx.AsyncClient, str]:
        """Give a client that is logged in with a cookie, and its CSRF token."""
        client = self.client()
        answer = await client.get(f"/login/{await self.services.sessions.make_link('ada', role)}")
        assert answer.status_code == 303, answer.text
        session = await self.services.sessions.find(client.cookies["arqd_session"])
        assert session is not None
        return client, session.csrf


@asynccontextmanager
async def console(
    url: str, *families: Family, keyring: Any = None, pages: Pages | None = None, database: Any = None, **settings: Any
) -> AsyncIterator[Console]:
    """Serve some families (one called ``t``, if none is given) with some settings, with pages if any are given."""
    names = [family.name for family in families]
    archiver = None if database is None else lambda redis: Archiver(redis, names, Archive(database))
    known = families or (make_family("t", *FUNCTIONS),)
    async with Services.open(url, ConsoleSettings(**settings), known, keyring=keyring, archiver=archiver) as services:
        app = create_app(services, pages)
        found = Console(services, app, httpx.AsyncClient())
        found.anyone = found.client()
        yield found


@asynccontextmanager
async def served(found: Console, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serve it on a real port; gives a client without a token.

    The transport of `Console.client` gives an answer when it has ended, and a stream has no end.
    """
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    where: dict[str, Any] = {"name": "the console", "host": "127.0.0.1", "port": 0, "handle_signals": False, **options}
    task = asyncio.create_task(
        serve(found.app, **where, on_listening=listening.set_result, on_ending=found.services.live.close)
    )
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=await listening, limits=limits, timeout=60, trust_env=False) as client:
        yield client
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
