"""A store of each kind: a folder, and two real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from handlers.integrations.object_store.local import LocalStore
from handlers.integrations.object_store.settings import ObjectStoreSettings
from handlers.integrations.object_store.store import ObjectStore
from tests.object_stores import S3Server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server("rclone", tmp_path_factory.mktemp("rclone")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server("moto", tmp_path_factory.mktemp("moto")).start()
    yield server
    server.stop()


@pytest.fixture(params=["local", "rclone", "moto"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    """A store of each kind."""
    found = await opened(request, tmp_path)
    yield found
    await found.close()


@pytest.fixture(params=["local", "moto"])
async def careful(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    """A store of each kind that knows conditions."""
    found = await opened(request, tmp_path)
    yield found
    await found.close()


async def opened(request: pytest.FixtureRequest, folder: Path) -> ObjectStore:
    if request.param == "local":
        return LocalStore(folder / "objects", ObjectStoreSettings())
    server: S3Server = request.getfixturevalue(request.param)
    return server.store(prefix=folder.name)
