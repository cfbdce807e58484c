"""What docs/families/maintenance.md shows is true: its commands are taken, its tables name what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

from daemon.family import load_family
from handlers.maintenance.payloads import AGES, CleanedJobs, CleanedUp, CleanJobs, Cleanup, WarmCache, Warmed
from handlers.maintenance.settings import MaintenanceSettings
from handlers.maintenance.worker import WorkerSettings

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "families" / "maintenance.md").read_text(encoding="utf-8")
MODELS = {"cleanup": Cleanup, "warm_cache": WarmCache, "clean_jobs": CleanJobs}


def first_column(section: str) -> set[str]:
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


def test_commands() -> None:
    given = re.findall(r"^arqd enqueue (\w+) --json '(.*)'$", PAGE, re.MULTILINE)
    assert [name for name, _ in given] == list(MODELS)
    for name, payload in given:
        MODELS[name].model_validate(json.loads(payload))


def test_tables_and_results() -> None:
    top, cleanup, warm, clean = re.split(r"^## .*$", PAGE, flags=re.MULTILINE)
    schedules = {each.schedule.expression for each in load_family(WorkerSettings).schedules}
    assert first_column(top) == schedules
    assert first_column(cleanup) == AGES.keys() | Cleanup.model_fields.keys()
    assert first_column(clean) == CleanJobs.model_fields.keys()
    for section, model in ((cleanup, CleanedUp), (warm, Warmed), (clean, CleanedJobs)):
        (told,) = re.findall(r"[Tt]he\s+result is `\{(.*)\}`", section)
        assert set(re.findall(r'"(\w+)"', told)) == model.model_fields.keys()
    for target, age in re.findall(r"^\| `(\w+)` \| (\d+) d \|", cleanup, re.MULTILINE):
        assert AGES[target] == int(age) * 86_400
    variables = {name.partition("__")[0] for name in re.findall(r"ARQD_MAINTENANCE__(\w+)", PAGE)}
    assert variables == {name.upper() for name in MaintenanceSettings.model_fields}
