"""Fixtures of the webhooks family: a receiver on loopback, and what the family opens at start, on each database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from handlers.integrations.database import Database
from handlers.integrations.database_settings import DatabaseSettings
from handlers.integrations.http_settings import HttpSettings
from handlers.webhooks.endpoints import Endpoints
from handlers.webhooks.settings import WebhooksSettings
from handlers.webhooks.worker import close_webhooks, open_webhooks
from tests.handlers.receiver import Receiver
from tests.handlers.webhooks.support import NEW, OLD


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as found:
        yield found


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(
        var_dir=tmp_path,
        webhooks=WebhooksSettings(secrets={"SHOP": SecretStr(f"{NEW} {OLD}"), "other": SecretStr(OLD)}),
        http=HttpSettings(allow=("127.0.0.1",), timeout=60, connect_timeout=60),
        database=DatabaseSettings(),
        database_url=SecretStr(database_url),
    )


@pytest.fixture
async def endpoints(database: Database) -> Endpoints:
    return Endpoints(database, 3600)


@pytest.fixture
async def opened(settings: SimpleNamespace) -> AsyncIterator[dict[Any, Any]]:
    """What the family's functions find in their context, for one try at a time."""
    ctx: dict[Any, Any] = {"settings": settings}
    await open_webhooks(ctx)
    yield ctx
    await close_webhooks(ctx)
