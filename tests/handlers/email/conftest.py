"""Fixtures of the email family: a mail server, a transport to it, a job's context."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from daemon.connecting.connections import connect
from handlers.email.message import Composer
from handlers.email.settings import EmailSettings
from handlers.email.tasks import MailService
from handlers.integrations.smtp import SmtpPool
from handlers.integrations.smtp_settings import SmtpSettings
from tests.handlers.email.support import Certificate, Context, MailServer, make_certificate

ServerFactory = Callable[..., Awaitable[MailServer]]
PoolFactory = Callable[..., SmtpPool]
ContextFactory = Callable[..., Context]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
async def mail_server(certificate: Certificate) -> AsyncIterator[ServerFactory]:
    """Start a mail server: ``await mail_server(tls="starttls", password="...")``."""
    started: list[MailServer] = []

    async def start(**options: Any) -> MailServer:
        server = await MailServer(certificate=certificate, **options).start()
        started.append(server)
        return server

    yield start
    for server in started:
        await server.stop()


@pytest.fixture
async def pool(certificate: Certificate) -> AsyncIterator[PoolFactory]:
    """Give a pool to a mail server, with the settings that fit it: ``pool(server, pool_size=1)``."""
    opened: list[SmtpPool] = []

    def open_pool(server: MailServer, **changed: Any) -> SmtpPool:
        settings: dict[str, Any] = {
            "host": "localhost",
            "port": server.port,
            "tls": server.tls,
            "ca_file": certificate.file,
            "timeout": 60,
        }
        if server.password:
            settings |= {"username": "mailer", "password": SecretStr(server.password)}
        opened.append(SmtpPool(SmtpSettings(**settings | changed)))
        return opened[-1]

    yield open_pool
    for each in opened:
        await each.close()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with aclosing(connect(redis_url)) as client:
        yield client


@pytest.fixture
def context(redis: Redis, pool: PoolFactory) -> ContextFactory:
    """Give the context of a job that sends to a server: ``context(server, "job-1", reply_to=...)``."""

    def make(server: MailServer, name: str = "job-1", **settings: Any) -> Context:
        composer = Composer(EmailSettings(**settings), "Shop <shop@example.org>")
        return Context(redis, name, mail=MailService(composer, pool(server)))

    return make
