"""What an export takes: ``python -m benchmarks.exports_at_size --format csv --rows 1000000``.

A table of ten columns in a SQLite or a PostgreSQL of this run's own is exported by the family's function, in a process
of its own for each number of rows. Told are rows a second and the process's peak memory, which ought to be the same
however many rows there are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Boolean, Column, Float, Integer, MetaData, Numeric, Select, Table, Text, select, text

from handlers.exports.datasets import Filters, dataset
from handlers.exports.formats import CONTENT_TYPES
from handlers.exports.payloads import ExportData
from handlers.exports.settings import ExportsSettings
from handlers.integrations.database import Database, Utc
from handlers.integrations.database_settings import DatabaseSettings
from handlers.integrations.object_store.settings import ObjectStoreSettings

ROWS = Table(
    "bench_rows",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("customer", Text),
    Column("email", Text),
    Column("status", Text),
    Column("quantity", Integer),
    Column("price", Numeric(12, 2)),
    Column("weight", Float),
    Column("gift", Boolean),
    Column("placed_at", Utc),
    Column("note", Text),
)
#: The rows, made by the database itself.
FILL = """
INSERT INTO bench_rows
SELECT n, 'customer ' || n, 'c' || n || '@example.com', CASE n % 3 WHEN 0 THEN 'open' ELSE 'paid' END, n % 17, n / 7.0,
       n * 0.37, n % 2 = 0, {moment}, CASE n % 4 WHEN 0 THEN NULL ELSE 'a note of some length, ' || n END
FROM {numbers}
"""
SQLITE = FILL.format(
    moment="'2026-03-01 12:30:15.250000'",
    numbers="(WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < :rows) SELECT n FROM t)",
)
POSTGRESQL = FILL.format(
    moment="timestamptz '2026-03-01 12:30:15.25+00' + n * interval '1 second'",
    numbers="generate_series(1, :rows) AS n",
)


@dataset("bench", key="id")
def bench(filters: Filters) -> Select[Any]:
    """Give every row."""
    return select(ROWS)


async def fill(url: str, rows: int) -> None:
    """Make the table."""
    database = Database(url, DatabaseSettings(statement_timeout=300))
    async with database.begin() as connection:
        await connection.run_sync(ROWS.metadata.create_all)
        statement = SQLITE if database.is_sqlite else POSTGRESQL
        await connection.execute(text(statement), {"rows": rows})
    await database.close()


async def export(url: str, folder: Path, kind: str) -> dict[str, Any]:
    """Run one job, and give its figures."""
    from daemon.testing.handlers import run_handler
    from handlers.exports.tasks import export_data
    from handlers.exports.worker import WorkerSettings, close_exports, open_exports

    settings = SimpleNamespace(
        var_dir=folder,
        exports=ExportsSettings(spool_dir=folder / "spool"),
        database=DatabaseSettings(),
        database_url=SecretStr(url),
        object_store_url=None,
        object_store=ObjectStoreSettings(),
    )
    ctx: dict[Any, Any] = {"settings": settings}
    await open_exports(ctx)
    lags = asyncio.create_task(_lags())
    job = ExportData.model_validate({"dataset": "bench", "export_type": kind})
    began = time.perf_counter()
    run = await run_handler(export_data, job, settings=WorkerSettings, ctx=ctx, timeout=280)
    seconds = time.perf_counter() - began
    lags.cancel()
    result = run.value()
    await close_exports(ctx)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": result.rows, "seconds": seconds, "peak": peak, "size": result.size, "lags": sorted(_found)}


_found: list[float] = []


async def _lags() -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.01)
        _found.append(time.perf_counter() - before - 0.01)


def measured(url: str, folder: Path, kind: str) -> dict[str, Any]:
    """Export in a process of its own."""
    words = [
        sys.executable,
        "-m",
        "benchmarks.exports_at_size",
        "--format",
        kind,
        "--url",
        url,
        "--folder",
        str(folder),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", action="append", choices=list(CONTENT_TYPES))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=100_000, help="rows whose peak memory it is compared with")
    parser.add_argument("--database", default="sqlite", help="sqlite, or the URL of an empty PostgreSQL database")
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.url:
        print(json.dumps(asyncio.run(export(options.url, options.folder, options.format[0]))))
        return 0
    print(f"{'format':8} {'rows':>9} {'seconds':>8} {'rows/s':>8} {'MB':>7} {'peak MB':>8} {'lag p99 ms':>10}")
    for rows in (options.small, options.rows):
        with tempfile.TemporaryDirectory(prefix="arqd-bench-") as name:
            url = f"sqlite:///{name}/rows.db" if options.database == "sqlite" else options.database
            asyncio.run(fill(url, rows))
            for kind in options.format or CONTENT_TYPES:
                found = measured(url, Path(name), kind)
                lag = found["lags"][int(len(found["lags"]) * 0.99)] * 1000 if found["lags"] else 0
                print(
                    f"{kind:8} {found['rows']:9,} {found['seconds']:8.1f} {found['rows'] / found['seconds']:8,.0f} "
                    f"{found['size'] / 1e6:7.1f} {found['peak']:8.0f} {lag:10.1f}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
