"""The files family, with a real clamd, an object store in a folder and an allowed folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.console.settings import ConsoleSettings
from handlers.files.settings import FilesSettings
from handlers.files.worker import close_files, open_files
from handlers.integrations.http_settings import HttpSettings
from handlers.integrations.object_store.settings import ObjectStoreSettings
from tests.scanner import Scanner

EVERYTHING = "image/jpeg,image/png,image/gif,image/webp,image/avif,pdf,docx,xlsx,zip,gz,zst,text/plain,text/html"


@pytest.fixture(scope="session")
def clamd() -> Iterator[Scanner]:
    found = Scanner()
    try:
        yield found.start()
    finally:
        found.stop()


def settings_in(folder: Path, **files: Any) -> SimpleNamespace:
    for name in ("in", "temp"):
        (folder / name).mkdir(exist_ok=True)
    given = {"source_dirs": (folder / "in",), "temp_dir": folder / "temp", "processes": 1, **files}
    return SimpleNamespace(
        var_dir=folder,
        object_store_url=None,
        object_store=ObjectStoreSettings(),
        http=HttpSettings(allow=("127.0.0.1",), timeout=60, connect_timeout=60),
        console=ConsoleSettings(),
        files=FilesSettings.model_validate(given),
    )


@pytest.fixture
def settings(tmp_path: Path, clamd: Scanner) -> SimpleNamespace:
    return settings_in(tmp_path, clamd=clamd.addresses["unix"], types=EVERYTHING)


@pytest.fixture
async def opened(settings: SimpleNamespace) -> AsyncIterator[dict[Any, Any]]:
    """What the family's function finds in its context, for one try at a time."""
    ctx: dict[Any, Any] = {"settings": settings}
    await open_files(ctx)
    yield ctx
    await close_files(ctx)
