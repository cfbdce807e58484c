"""Fixture of the fault tests: a Valkey of the test's own with real worker processes on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RedisServerFactory
from tests.faults.workshop import Workshop

WorkshopFactory = Callable[..., Workshop]


@pytest.fixture
async def workshop(redis_server: RedisServerFactory, tmp_path: Path) -> AsyncIterator[WorkshopFactory]:
    """Give a workshop: ``workshop(lease=2, max_jobs=5, redis={"appendonly": "yes"})``.

    After every test nothing may be left in Redis that belongs to no job.
    """
    made: list[Workshop] = []

    def make(*, redis: dict[str, Any] | None = None, **values: Any) -> Workshop:
        made.append(Workshop(redis_server(**redis or {}), tmp_path, values))
        return made[-1]

    yield make
    for shop in made:
        shop.close()
        assert await shop.leaks() == {}
