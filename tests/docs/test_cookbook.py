"""Every example of docs/cookbook.md runs, and what it enqueues is what the shipped families take."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import pytest

from daemon.catalog import Catalog
from daemon.control import Control
from daemon.dotted import shipped_families
from daemon.job import JobState
from daemon.producer import Producer
from daemon.registry import load_families
from daemon.schedules import Schedules
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "cookbook.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
#: Those whose families come with a release may be named before they ship.
OTHERS = ("social", "reports", "ai", "blockchain")
#: What an example hands over, by family; the others only look, or change what is there.
ENQUEUES = re.compile(r"producer\.enqueue|schedules\.add")


def payload_of(info: Any) -> Any:
    return info.payload[0] if isinstance(info.payload, list) else info.payload


@pytest.mark.parametrize("code", EXAMPLES, ids=lambda code: re.sub(r"\W+", " ", code)[-40:])
async def test_an_example_runs(redis_url: str, code: str) -> None:
    table = shipped_families()
    names = [*table, *(name for name in OTHERS if name not in table)]
    async with Producer.connect(redis_url) as producer, Control.connect(redis_url, names) as control:
        given: dict[str, Any] = {"producer": producer, "control": control, "schedules": Schedules(producer.redis)}
        ran = eval(compile(code, "cookbook", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), given)
        if inspect.isawaitable(ran):
            await ran
        found = [
            info
            for name in names
            for state in (JobState.WAITING, JobState.DELAYED, JobState.BLOCKED)
            for info in await control.inspector.jobs(name, state, limit=500)
        ]
        planned = await given["schedules"].list()
        assert bool(found or planned) == bool(ENQUEUES.search(code))
        asked = [(each.family, each.function, payload_of(each)) for each in found]
        asked += [(each.family, each.function, each.payload) for each in planned]
        families = load_families(table, sorted({family for family, _, _ in asked} & table.keys()))
        models = {(family, function): model for family, function, model in Catalog(families).models()}
        for family, function, payload in asked:
            if family in table:
                models[family, function].model_validate(payload)
            else:
                assert family in OTHERS


def test_the_page_says_what_there_is() -> None:
    assert len(EXAMPLES) > 25
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
