"""The simulation of scaling: its arithmetic, and what the manifests take from it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.autoscale.report import outcomes, with_table
from benchmarks.autoscale.scaler import Figures, Scaler, Trigger

PAGE = Path(__file__).parents[2] / "docs/operations/autoscaling.md"


def figures(load: int) -> Figures:
    return Figures(zcard=load, backlog=load, active=0, drain_seconds=None)


def decided(scaler: Scaler, loads: list[int], replicas: int = 0) -> list[int]:
    """Give the replicas of each second."""
    found = []
    for second, load in enumerate(loads):
        replicas = scaler.decide(second, replicas, figures(load))
        found.append(replicas)
    return found


def test_the_first_replica_comes_at_the_next_poll_and_the_last_goes_after_the_cooldown() -> None:
    scaler = Scaler([Trigger(lambda f: f.load, 8)], cooldown=60)
    replicas = decided(scaler, [0] * 3 + [1] * 30 + [0] * 90)
    assert replicas[4:6] == [0, 1]
    assert replicas.index(0, 6) == 30 + 60


def test_it_grows_by_four_or_double_and_shrinks_to_the_most_wanted_of_the_window() -> None:
    scaler = Scaler([Trigger(lambda f: f.load, 8)], most=100, window=60)
    replicas = decided(scaler, [800] * 61 + [80] * 120, replicas=1)
    assert [replicas[second] for second in (0, 15, 30, 45)] == [5, 10, 20, 40]
    assert replicas[60:121:15] == [80, 80, 80, 80, 10]


def test_a_tenth_more_or_less_changes_nothing() -> None:
    assert decided(Scaler([Trigger(lambda f: f.load, 10)]), [109], replicas=10) == [10]
    assert decided(Scaler([Trigger(lambda f: f.load, 10)], most=20), [111], replicas=10) == [12]


def test_load_does_what_the_page_says_and_its_table_is_of_this_code() -> None:
    found = outcomes()
    text = PAGE.read_text()
    assert with_table(text) == text, "run: python -m benchmarks.autoscale --write"
    for trace in ("steady", "nightly batch"):
        assert found[trace, "load"].replica_minutes * 3 < found[trace, "ZCARD"].replica_minutes
    assert found["long jobs", "load"].restarted < found["long jobs", "drain time, running"].restarted
    assert found["steady", "drain time, running"].replica_minutes < found["steady", "load"].replica_minutes
