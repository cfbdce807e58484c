"""What the reports family opens at start, and metrics as an operator's module registers them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.family import load_family
from daemon.producer import Producer
from handlers.integrations.object_store.settings import ObjectStoreSettings
from handlers.reports.payloads import GeneratedReport, GenerateReport
from handlers.reports.settings import ReportsSettings
from handlers.reports.worker import WorkerSettings
from tests.engine import working


class Press:
    """A worker of the family, and what it has made."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self.progress: list[int] = []

    async def make(self, job: GenerateReport) -> tuple[GeneratedReport, dict[str, bytes]]:
        """Make a report, and give its files by format."""
        result = await (await self._producer.enqueue(job)).result(40)
        assert isinstance(result, GeneratedReport)
        paths = {kind: Path(url.removeprefix("file://")) for kind, url in result.report_urls.items()}
        return result, {kind: await asyncio.to_thread(path.read_bytes) for kind, path in paths.items()}

    async def data(self, job: GenerateReport) -> Any:
        """Make a report as JSON."""
        _, files = await self.make(job)
        return json.loads(files["json"])


@pytest.fixture
def settings(tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(
        var_dir=tmp_path,
        reports=ReportsSettings(metrics=("tests.handlers.reports.metrics",)),
        families={"reports": "", "email": "", "push": ""},
        has_database=False,
        object_store_url=None,
        object_store=ObjectStoreSettings(),
    )


@pytest.fixture
async def press(redis_url: str, producer: Producer, settings: SimpleNamespace) -> AsyncIterator[Press]:
    family = load_family(WorkerSettings)
    family.ctx["settings"] = settings
    async with working(redis_url, family):
        yield Press(producer)
