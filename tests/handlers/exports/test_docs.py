"""What docs/families/exports.md shows is true: a worker runs its dataset, its program prints what stands below it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from daemon.family import load_family
from daemon.settings import load_settings
from handlers.exports.payloads import ExportData, Exported, ExportType
from handlers.exports.settings import ExportsSettings
from handlers.exports.worker import WorkerSettings
from handlers.integrations.database import Database
from tests.docs.pages import ROOT, names, page
from tests.engine import working

PAGE = page("families/exports")


async def test_programs(
    redis_url: str, database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, program in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(program)
    (printed,) = re.findall(r"```console\n\$ [^\n]*\n(.*?)```", PAGE, re.DOTALL)
    async with database.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE orders (id INTEGER, customer TEXT, status TEXT, day DATE)")
        rows = "(1, 'Ada', 'paid', '2026-03-01'), (2, 'Grace', 'open', '2026-03-02'), (3, 'Jean', 'paid', '2026-03-03')"
        await connection.exec_driver_sql(f"INSERT INTO orders VALUES {rows}")
    # The page's dataset is called like the one of the other tests.
    monkeypatch.setattr("handlers.exports.datasets._datasets", {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (datasets,) = re.findall(r"`ARQD_EXPORTS__DATASETS=(\w+) arqd run exports`", PAGE)
    family = load_family(WorkerSettings)
    family.ctx["settings"] = load_settings(
        {
            "ARQD_DATABASE_URL": database_url,
            "ARQD_VAR_DIR": str(tmp_path),
            "ARQD_EXPORTS__DATASETS": datasets,
        }
    )
    async with working(redis_url, family):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "ask.py",
            env=os.environ | {"PYTHONPATH": str(ROOT), "ARQD_REDIS_URL": redis_url},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
    assert said.decode() == printed
    assert [path.name for path in (tmp_path / "var").rglob("*") if path.is_file()] == []


def test_tables() -> None:
    fields = PAGE.partition("## What a job takes")[2].partition("A dataset,")[0]
    assert {name for row in re.findall(r"^\| (`.*?) \|", fields, re.M) for name in names(row)} == set(
        ExportData.model_fields
    )
    assert set(names(PAGE.partition("The result is ")[2].partition(". The link")[0])) == set(Exported.model_fields)
    formats = PAGE.partition("## Formats")[2].partition("Times are")[0]
    told = [name for row in re.findall(r"^\| (`.*?) \|", formats, re.M) for name in names(row)]
    assert told == list(ExportType.__args__)
    assert set(re.findall(r"ARQD_EXPORTS__(\w+)", PAGE)) == {name.upper() for name in ExportsSettings.model_fields}
