"""Orders to export, and exporting them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from daemon.testing.handlers import HandlerRun, run_handler
from handlers.exports.payloads import ExportData
from handlers.exports.tasks import export_data
from handlers.exports.worker import WorkerSettings
from handlers.integrations.database import Database

Settings = SimpleNamespace
both = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
CUSTOMERS = (
    "Ada",
    "Grace, Hopper",
    'Jean "Le" Mètre',
    "două\nrânduri",
    "=1+1",
    "+33 6 12",
    "-5",
    "@SUM(A1)",
    "\tx",
    "",
)


def order(number: int) -> dict[str, Any]:
    """An order whose every column follows from its number."""
    begin = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)
    return {
        "id": number,
        "customer": CUSTOMERS[number % len(CUSTOMERS)],
        "status": "paid" if number % 2 else "open",
        "placed_at": begin + timedelta(hours=number),
        "total": Decimal(number) / 8,
        "tax": Decimal(number) / 4,
        "weight": number / 3,
        "gift": number % 3 == 0,
        "day": date(2026, 1, 1) + timedelta(days=number % 300),
        "reference": UUID(int=number),
        "photo": bytes([number % 256, 0, 255]),
        "more": {"tags": ["é", number]} if number % 5 else None,
    }


@dataclass(frozen=True, slots=True)
class Opened:
    settings: Settings
    ctx: dict[Any, Any]
    database: Database

    async def run(self, job: ExportData, **options: Any) -> HandlerRun:
        """Run one try of a job."""
        return await run_handler(export_data, job, settings=WorkerSettings, ctx=self.ctx, **options)

    async def file(self, job: ExportData, **options: Any) -> Path:
        """Run a job that completes, and give its file."""
        return self.path((await self.run(job, **options)).value())

    def path(self, result: Any) -> Path:
        return Path(self.settings.var_dir / "objects" / result.key)

    @property
    def left_over(self) -> list[Path]:
        """What lies about in the spool folder."""
        folder = self.settings.exports.spool_dir
        return list(folder.iterdir()) if folder.exists() else []
