"""What docs/families/analytics.md shows is true: its program runs, its tables name what there is."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import get_args

from daemon.family import load_family
from daemon.settings import load_settings
from handlers.analytics.payloads import (
    MOST_EVENTS,
    MOST_PERIODS,
    Aggregate,
    Aggregated,
    Collected,
    CollectMetrics,
    Event,
    Metric,
    Tracked,
)
from handlers.analytics.rollups import MEANING
from handlers.analytics.settings import AnalyticsSettings
from handlers.analytics.tasks import _page
from handlers.analytics.worker import WorkerSettings
from handlers.integrations.database import Database
from tests.engine import working

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "families" / "analytics.md").read_text(encoding="utf-8")


async def test_program(redis_url: str, database: Database, database_url: str, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (printed,) = re.findall(r"```console\n\$ [^\n]*\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "count.py").write_text(program)
    family = load_family(WorkerSettings)
    family.ctx["settings"] = load_settings({"ARQD_DATABASE_URL": database_url})
    async with working(redis_url, family):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(tmp_path / "count.py"),
            env=os.environ | {"PYTHONPATH": str(ROOT), "ARQD_REDIS_URL": redis_url},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
    assert said.decode() == printed


def named(section: str) -> set[str]:
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


def test_tables_and_results() -> None:
    _, track, aggregate, collect = re.split(r"^## .*$", PAGE, flags=re.MULTILINE)
    assert named(track) == Event.model_fields.keys()
    assert named(aggregate) == Aggregate.model_fields.keys()
    assert named(collect) == CollectMetrics.model_fields.keys()
    for section, model in ((track, Tracked), (aggregate, Aggregated), (collect, Collected)):
        (told,) = re.findall(r"The\s+result is\s+`\{(.*)\}`", section)
        assert set(re.findall(r'"(\w+)"', told)) == model.model_fields.keys()
    assert MEANING.keys() == set(get_args(Metric))
    assert all(f"`{metric}`" in aggregate for metric in MEANING)
    schedules = {each.schedule.expression for each in load_family(WorkerSettings).schedules}
    assert set(re.findall(r"at\s+`([^`]+)`", aggregate)) == schedules
    assert f"{MOST_EVENTS:,}" in track
    assert f"more than {MOST_PERIODS} periods" in aggregate
    (reply,) = re.findall(r"```json\n(.*?)```", collect, re.DOTALL)
    assert len(_page(json.loads(reply))[0]) == 1
    variables = {name.partition("__")[0] for name in re.findall(r"ARQD_ANALYTICS__(\w+)", PAGE)}
    assert variables == {name.upper() for name in AnalyticsSettings.model_fields}
