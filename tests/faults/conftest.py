"""Fixture of the fault tests: a Valkey of the test's own with real worker processes on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RedisServerFactory
from tests.faults.workshop import Workshop

WorkshopFactory = Callable[..., Workshop]


@pytest.fixture
def workshop(redis_server: RedisServerFactory, tmp_path: Path) -> Iterator[WorkshopFactory]:
    """Give a workshop: ``workshop(lease=2, max_jobs=5, redis={"appendonly": "yes"})``."""
    made: list[Workshop] = []

    def make(*, redis: dict[str, Any] | None = None, **values: Any) -> Workshop:
        made.append(Workshop(redis_server(**redis or {}), tmp_path, values))
        return made[-1]

    yield make
    for shop in made:
        shop.close()
