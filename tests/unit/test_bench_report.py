"""How the benchmark's figures are kept, compared and drawn."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import plots
from benchmarks.report import write_report
from benchmarks.required import REQUIREMENTS
from benchmarks.results import Results, tried
from benchmarks.systems import SYSTEMS


def measured(folder: Path, rows: dict[str, dict[str, list[dict[str, float]]]]) -> Results:
    """Figures by workload and system, all of one run."""
    results = Results(folder)
    results.begin("2026-01-01T00:00Z", "", "valkey 9")
    for workload, systems in rows.items():
        for system, repeats in systems.items():
            results.start(workload, system, "setting", add=False)
            for number, figures in enumerate(repeats):
                results.add(workload, system, number, figures)
    return results


def test_repeats_that_ran_side_by_side_are_compared(tmp_path: Path) -> None:
    rows = {"drain": {"arqd": [{"jobs/s": 30.0}, {"jobs/s": 10.0}, {"jobs/s": 40.0}], "arq": [{"jobs/s": 10.0}] * 3}}
    results = measured(tmp_path, rows)
    assert results.ratio("drain", "arqd", "arq", "jobs/s") == 3
    assert results.ratio("drain", "arqd", "bullmq", "jobs/s") is None
    results.begin("2026-01-02T00:00Z", "", "valkey 9")
    results.start("drain", "bullmq", "setting", add=False)
    results.add("drain", "bullmq", 0, {"jobs/s": 15.0})
    assert results.ratio("drain", "arqd", "bullmq", "jobs/s") == 2, "of another run: medians"


def test_figures_outlive_the_run(tmp_path: Path) -> None:
    results = measured(tmp_path, {"drain": {"arqd": [{"jobs/s": 1.0}]}})
    results.save()
    again = Results(tmp_path)
    assert (again.rows, again.runs) == (results.rows, results.runs)
    again.start("drain", "arqd", "setting", add=True)
    assert again.values("drain", "arqd", "jobs/s") == [1.0]
    again.start("drain", "arqd", "another", add=True)
    assert again.values("drain", "arqd", "jobs/s") == []
    again.add("drain", "arqd", 0, {"error": "lost"})
    assert again.errors() == ["drain, arqd: lost"]


@pytest.mark.parametrize(("ours", "met"), [(31.0, "met"), (29.0, "**not met**")])
def test_requirements_are_held_against_the_figures(ours: float, met: str, tmp_path: Path) -> None:
    rows = {"drain": {"arqd": [{"jobs/s": ours}], "arq": [{"jobs/s": 2.0}], "bullmq": [{"jobs/s": 10.0}]}}
    page = write_report(measured(tmp_path, rows), tmp_path)
    assert f"| drain, one process, against arq | ≥ 15 | ≥ 20 | {ours / 2:.2f} | {met} |" in page
    assert "| arqd | setting | 31 |" in page or met != "met"
    assert page.count("against") == 2, "what was not measured is not claimed"


def test_every_requirement_can_be_told(tmp_path: Path) -> None:
    every = {
        "drain": {"jobs/s": 1.0, "worker CPU µs": 1.0, "server CPU µs": 1.0},
        "two": {"jobs/s": 1.0, "of one": 1.0},
        "waiting": {"jobs/s": 1.0},
        "enqueue": {"one by one/s": 1.0, "in bulk/s": 1.0},
        "idle": {"pick-up p50 ms": 1.0, "pick-up p99 ms": 2.0, "round trip p50 ms": 1.0, "idle commands/s": 1.0},
        "memory": {"bytes a waiting job": 1.0},
        "backlog": {"100,000 waiting": 1.0, "1,000,000 waiting": 1.0, "1,000,000 delayed": 1.0},
        "aof": {"jobs/s": 1.0, "of without": 1.0},
        "own": {
            "14 families / 1": 1.0,
            "1,000 groups / none": 1.0,
            "idle commands/s, 14 families": 1.0,
            "import ratio": 1.0,
            "start to first job s": 1.0,
        },
    }
    rows = {workload: {system.name: [figures] for system in SYSTEMS} for workload, figures in every.items()}
    page = write_report(measured(tmp_path, rows), tmp_path)
    for requirement in REQUIREMENTS:
        assert f"| {requirement.what} |" in page


def test_plots_are_drawings_with_their_numbers() -> None:
    bars = plots.bars("Rates & more", [("arqd", [1200.0, 1000.0, 1100.0]), ("a<b", [10.0])], "arqd")
    spans = plots.spans("Times", [("arqd", 0.5, 2.0), ("other", 20.0, 500.0)], "arqd")
    lines = plots.lines("Backlogs", ["10", "100"], {"arqd": [10.0, 9.5], "other": [3.0, None]}, "arqd")
    for text, numbers in ((bars, ["1,100", "10"]), (spans, ["0.5 – 2", "20 – 500"]), (lines, ["10", "9.5", "3"])):
        told = [
            "".join(element.itertext())
            for element in ElementTree.fromstring(text).iter()
            if element.tag.endswith("text")
        ]
        assert set(numbers) <= set(told)
        assert "prefers-color-scheme:dark" in text


def test_the_quickest_setting_is_taken(tmp_path: Path) -> None:
    results = measured(tmp_path, {})
    assert results.best_setting("arq") is None
    for setting, rate in (("max_jobs 10", 1.0), ("max_jobs 500", 3.0), ("max_jobs 100", 2.0)):
        for system, factor in (("arq", 1), ("arq-default", -1)):
            results.start("settings", tried(system, setting), setting, add=False)
            results.add("settings", tried(system, setting), 0, {"jobs/s": rate * factor})
    assert results.best_setting("arq") == "max_jobs 500"
