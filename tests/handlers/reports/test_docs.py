"""What docs/families/reports.md shows is true: a worker has its metric, its program prints what stands below it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from daemon.family import load_family
from daemon.settings import load_settings
from handlers.reports.metrics import wanted
from handlers.reports.payloads import GeneratedReport, GenerateReport
from handlers.reports.settings import ReportsSettings
from handlers.reports.worker import WorkerSettings
from tests.docs.pages import ROOT, names, page
from tests.engine import working

PAGE = page("families/reports")


async def test_programs(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, program in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(program)
    (printed,) = re.findall(r"```console\n\$ [^\n]*\n(.*?)```", PAGE, re.DOTALL)
    (modules,) = re.findall(r"`ARQD_REPORTS__METRICS=(\w+) arqd run reports`", PAGE)
    # The page's metric is called like the one of the other tests.
    monkeypatch.setattr("handlers.reports.metrics._metrics", {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    family = load_family(WorkerSettings)
    family.ctx["settings"] = load_settings({"ARQD_VAR_DIR": str(tmp_path), "ARQD_REPORTS__METRICS": modules})
    async with working(redis_url, family):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "report.py",
            env=os.environ | {"PYTHONPATH": str(ROOT), "ARQD_REDIS_URL": redis_url},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
    assert said.decode() == printed


def test_tables() -> None:
    fields = PAGE.partition("## What a job takes")[2].partition("The result is")[0]
    told = {name for row in re.findall(r"^\| (`.*?) \|", fields, re.M) for name in names(row)}
    assert told == set(GenerateReport.model_fields)
    result = PAGE.partition("The result is ")[2].partition(". Progress")[0]
    assert set(names(result)) == set(GeneratedReport.model_fields)
    assert set(re.findall(r"ARQD_REPORTS__(\w+)", PAGE)) == {name.upper() for name in ReportsSettings.model_fields}
    built_in = names(PAGE.partition("Built in are ")[2].partition(", by family")[0])
    assert [each.about.name for each in wanted(built_in)] == built_in
