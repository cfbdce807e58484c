"""Fixtures of the push family: OneSignal on loopback, and what the family opens at start, on each database."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from daemon.settings import load_settings
from daemon.testing.handlers import HandlerRun, run_handler
from handlers.integrations.users.store import Users
from handlers.push.payloads import SendPush
from handlers.push.tasks import send_push
from handlers.push.worker import WorkerSettings, close_push, open_push
from tests.handlers.push.onesignal import OneSignalServer


@dataclass
class Phones:
    """The family with OneSignal and its database."""

    onesignal: OneSignalServer
    users: Users
    ctx: dict[str, Any]

    async def run(self, job: SendPush, job_id: str = "job", **more: Any) -> HandlerRun:
        """Run one try of a job."""
        return await run_handler(send_push, job, settings=WorkerSettings, ctx=self.ctx, job_id=job_id, **more)


@pytest.fixture
async def onesignal() -> AsyncIterator[OneSignalServer]:
    async with OneSignalServer(str(uuid.uuid4()), secrets.token_hex(16)) as server:
        yield server


@pytest.fixture
async def phones(onesignal: OneSignalServer, database_url: str) -> AsyncIterator[Phones]:
    settings = load_settings(
        {
            "ARQD_DATABASE_URL": database_url,
            "ARQD_HTTP__CONNECT_TIMEOUT": "60",
            "ARQD_PUSH__APP_ID": onesignal.app_id,
            "ARQD_PUSH__API_KEY": onesignal.api_key,
            "ARQD_PUSH__URL": f"{onesignal.url}/",
        }
    )
    ctx: dict[str, Any] = {"settings": settings}
    await open_push(ctx)
    yield Phones(onesignal, ctx["push"].users, ctx)
    await close_push(ctx)
