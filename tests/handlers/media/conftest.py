"""The media family, with an object store in a folder and allowed folders."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.family import Family, load_family
from handlers.integrations.http_settings import HttpSettings
from handlers.integrations.object_store.settings import ObjectStoreSettings
from handlers.media.settings import MediaSettings
from handlers.media.worker import WorkerSettings


@pytest.fixture
def settings(tmp_path: Path) -> SimpleNamespace:
    for name in ("in", "out", "temp"):
        (tmp_path / name).mkdir()
    return SimpleNamespace(
        var_dir=tmp_path,
        object_store_url=None,
        object_store=ObjectStoreSettings(),
        http=HttpSettings(allow=("127.0.0.1",), timeout=60, connect_timeout=60),
        media=MediaSettings(
            source_dirs=(tmp_path / "in",),
            target_dirs=(tmp_path / "out",),
            temp_dir=tmp_path / "temp",
            processes=1,
        ),
    )


@pytest.fixture
def family(settings: SimpleNamespace) -> Family:
    return family_with(settings)


def family_with(settings: SimpleNamespace, **values: Any) -> Family:
    found = load_family(WorkerSettings, {"backoff": "fixed 10ms", **values})
    found.ctx["settings"] = settings
    return found
