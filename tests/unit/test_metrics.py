"""What a worker counts: outcomes, histograms, the mean run time and the rate."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from daemon.metrics import DURATION_BOUNDS, MAX_FUNCTIONS, OUTCOMES, WAIT_BOUNDS, FamilyMetrics


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def counted(metrics: FamilyMetrics, function: str) -> dict[str, int]:
    outcomes: dict[str, int] = metrics.snapshot()["functions"][function]["outcomes"]
    return {outcome: count for outcome, count in outcomes.items() if count}


def test_each_outcome_is_counted_by_function() -> None:
    metrics = FamilyMetrics()
    for outcome in OUTCOMES:
        metrics.observe("send", outcome, 0.0, 0.1)
    metrics.observe("send", "completed", 0.0, 0.1)
    metrics.observe("bulk", "failed", 0.0, 0.1)
    assert counted(metrics, "send") == dict.fromkeys(OUTCOMES, 1) | {"completed": 2}
    assert counted(metrics, "bulk") == {"failed": 1}


def test_an_unknown_outcome_is_refused() -> None:
    with pytest.raises(KeyError):
        FamilyMetrics().observe("send", "done", 0.0, 0.1)


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0.0, 0),
        (DURATION_BOUNDS[0], 0),
        (DURATION_BOUNDS[0] * 1.01, 1),
        (DURATION_BOUNDS[-1] + 1, len(DURATION_BOUNDS)),
    ],
)
def test_a_bucket_holds_what_is_at_most_its_bound(seconds: float, bucket: int) -> None:
    metrics = FamilyMetrics()
    metrics.observe("send", "completed", 0.0, seconds)
    assert metrics.snapshot()["functions"]["send"]["duration"]["counts"].index(1) == bucket


def test_waits_and_durations_are_kept_apart() -> None:
    metrics = FamilyMetrics()
    metrics.observe("send", "completed", 0.5, 2.0)
    metrics.observe("send", "failed", 0.25, 3.0)
    send = metrics.snapshot()["functions"]["send"]
    assert (send["wait"]["sum"], send["duration"]["sum"]) == (0.75, 5.0)
    assert len(send["wait"]["counts"]) == len(WAIT_BOUNDS) + 1
    assert sum(send["wait"]["counts"]) == sum(send["duration"]["counts"]) == 2


@pytest.mark.parametrize("outcome", ["expired", "released", "parked"])
def test_a_job_that_did_not_run_has_no_times(outcome: str) -> None:
    metrics = FamilyMetrics(["send"])
    metrics.observe("send", outcome, 9.0, 0.0)
    send = metrics.snapshot()["functions"]["send"]
    assert sum(send["wait"]["counts"]) == sum(send["duration"]["counts"]) == 0
    assert metrics.mean_seconds() is None


def test_functions_known_from_the_start_are_there_at_zero() -> None:
    functions = FamilyMetrics(["send", "bulk"]).snapshot()["functions"]
    assert functions["bulk"]["outcomes"] == dict.fromkeys(OUTCOMES, 0)


def test_labels_stay_bounded_whatever_names_come() -> None:
    metrics = FamilyMetrics(["send"])
    for number in range(MAX_FUNCTIONS * 2):
        metrics.observe(f"invented-{number}", "failed", 0.0, 0.0)
    metrics.observe("not\nplain", "failed", 0.0, 0.0)
    metrics.observe("send", "completed", 0.0, 0.0)
    functions = metrics.snapshot()["functions"]
    assert len(functions) == MAX_FUNCTIONS + 1
    assert functions["other"]["outcomes"]["failed"] == MAX_FUNCTIONS + 2
    assert functions["send"]["outcomes"]["completed"] == 1


def test_the_mean_follows_recent_run_times() -> None:
    metrics = FamilyMetrics()
    metrics.observe("send", "completed", 0.0, 4.0)
    assert metrics.mean_seconds() == 4.0
    for _ in range(60):
        metrics.observe("send", "completed", 0.0, 1.0)
    mean = metrics.mean_seconds()
    assert mean is not None
    assert 1.0 < mean < 1.01


def test_the_rate_is_over_the_start_then_over_the_last_minute() -> None:
    clock = Clock()
    metrics = FamilyMetrics(clock=clock)
    assert metrics.rate() == 0.0
    for _ in range(10):
        clock.now += 1
        for _ in range(5):
            metrics.observe("send", "completed", 0.0, 0.0)
        assert metrics.rate() == pytest.approx(5.0)
    for _ in range(60):
        clock.now += 1
        metrics.observe("send", "completed", 0.0, 0.0)
        metrics.rate()
    assert metrics.rate() == pytest.approx(1.0)


def test_the_rate_falls_to_zero_when_nothing_ends() -> None:
    clock = Clock()
    metrics = FamilyMetrics(clock=clock)
    metrics.observe("send", "completed", 0.0, 0.0)
    for _ in range(62):
        clock.now += 1
        rate = metrics.rate()
    assert rate == 0.0


def test_the_snapshot_is_json_and_a_copy() -> None:
    metrics = FamilyMetrics(["send"])
    before = metrics.snapshot()
    assert json.loads(json.dumps(before)) == before
    metrics.observe("send", "completed", 0.0, 0.0)
    assert before["functions"]["send"]["outcomes"]["completed"] == 0


def test_a_worker_does_not_load_the_metrics_library() -> None:
    code = "import sys, daemon.metrics, daemon.process.heartbeat; print('prometheus_client' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
