"""Fixtures of the ai family: an endpoint on loopback, and what the family opens at start, on each database."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select

from daemon.settings import load_settings
from daemon.testing.handlers import HandlerRun, run_handler
from handlers.ai.payloads import GenerateText
from handlers.ai.tables import DAYS, USAGE
from handlers.ai.tasks import AiService, generate_text
from handlers.ai.worker import WorkerSettings, close_ai, open_ai
from tests.handlers.ai.endpoint import ModelServer, Says

PRICES = {"tiny": {"input": "1", "output": "4"}}


@dataclass
class Writer:
    """The family with its endpoint and its database."""

    server: ModelServer
    ctx: dict[str, Any]

    @property
    def service(self) -> AiService:
        service: AiService = self.ctx["ai"]
        return service

    async def run(self, *, tries: int = 0, timeout: float = 300, **fields: Any) -> HandlerRun:
        """Run one try of a job."""
        job = GenerateText.model_validate({"prompt": "Say hello", "model": "tiny"} | fields)
        return await run_handler(
            generate_text, job, settings=WorkerSettings, ctx=self.ctx, tries=tries, timeout=timeout
        )

    async def usage(self) -> list[Any]:
        async with self.service.database.read() as connection:
            return list((await connection.execute(select(USAGE).order_by(USAGE.c.id))).all())

    async def spent(self) -> dict[str, Any]:
        async with self.service.database.read() as connection:
            return {row.group: row.spent for row in (await connection.execute(select(DAYS))).all()}


MakeWriter = Callable[..., Any]


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator[MakeWriter]:
    """``await writer(Says(…), BUDGET="1")`` opens the family with these answers and settings."""
    async with AsyncExitStack() as stack:

        async def make(*says: Says, **variables: Any) -> Writer:
            return await stack.enter_async_context(_writing(database_url, says, variables))

        yield make


@asynccontextmanager
async def _writing(database_url: str, says: tuple[Says, ...], variables: dict[str, Any]) -> AsyncIterator[Writer]:
    key = secrets.token_hex(8)
    async with ModelServer(key, *says) as server:
        environ = {
            "ARQD_DATABASE_URL": database_url,
            "ARQD_HTTP__CONNECT_TIMEOUT": "60",
            "ARQD_AI__BASE_URL": f"{server.url}/v1",
            "ARQD_AI__KEY": key,
        }
        environ |= {"ARQD_AI__PRICES": json.dumps(PRICES)}
        environ |= {f"ARQD_AI__{name}": value for name, value in variables.items()}
        ctx: dict[str, Any] = {"settings": load_settings(environ)}
        await open_ai(ctx)
        try:
            yield Writer(server, ctx)
        finally:
            await close_ai(ctx)
