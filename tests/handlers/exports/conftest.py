"""Fixtures of the exports family: rows of every kind on each database, and what the family opens at start."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from handlers.exports.settings import ExportsSettings
from handlers.exports.worker import close_exports, open_exports
from handlers.integrations.database import Database
from handlers.integrations.database_settings import DatabaseSettings
from handlers.integrations.object_store.settings import ObjectStoreSettings
from tests.handlers.exports.datasets import ORDERS
from tests.handlers.exports.support import Opened, Settings, order
from tests.postgres import PostgresServer


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path, sqlite_template: Path) -> str:
    """A SQLite; a test that asks for ``both`` runs on a PostgreSQL, too."""
    if getattr(request, "param", "sqlite") == "sqlite":
        shutil.copyfile(sqlite_template, tmp_path / "arqd.db")
        return f"sqlite:///{tmp_path / 'arqd.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url(server.create(request.getfixturevalue("postgres_template")))


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(
        var_dir=tmp_path,
        exports=ExportsSettings(datasets=("tests.handlers.exports.datasets",), spool_dir=tmp_path / "spool"),
        database=DatabaseSettings(),
        database_url=SecretStr(database_url),
        object_store_url=None,
        object_store=ObjectStoreSettings(),
    )


@pytest.fixture
async def opened(settings: Settings, database: Database) -> AsyncIterator[Opened]:
    """A table of 250 orders, and the family's context."""
    async with database.begin() as connection:
        await connection.run_sync(ORDERS.metadata.create_all)
        await connection.execute(ORDERS.insert(), [order(number) for number in range(1, 251)])
    ctx: dict[Any, Any] = {"settings": settings}
    await open_exports(ctx)
    yield Opened(settings, ctx, database)
    await close_exports(ctx)
