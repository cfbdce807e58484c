"""What counts as wrong: each alert by its threshold, on both sides of it."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.alerts.objectives import MINUTES, Burn, Objective, Starts, burning
from daemon.alerts.rules import ALERTS, Finding, Reading, Server, counts_of, judge
from daemon.alerts.settings import AlertSettings, threshold_of
from daemon.inspector import QueueStats
from daemon.statistics import Figures

EMAIL = Objective("email", None, 0.95, 30)


def found(
    settings: AlertSettings | None = None, before: dict[str, int] | None = None, hour: Figures | None = None,
    lost: int = 0, servers: list[Server] | None = None, starts: Starts | None = None, **queue: Any,
) -> list[Finding]:  # fmt: skip
    stats = QueueStats(queue.pop("family", "email"), **{"workers": 1, **queue})
    reading = Reading([stats], {stats.family: hour or Figures()}, {stats.family: lost}, servers or [])
    if starts is not None:
        reading.starts = {EMAIL: starts}
    return judge(reading, settings or AlertSettings(), before or {})


#: Of each alert what just raises it, and what just does not.
EDGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "failed_jobs": ({"hour": Figures(failed=101, completed=5000)}, {"hour": Figures(failed=100, completed=5000)}),
    "error_rate": ({"hour": Figures(failed=6, completed=44)}, {"hour": Figures(failed=5, completed=44)}),
    "backlog": ({"family": "media", "waiting": 10_001}, {"family": "media", "waiting": 10_000}),
    "many_delayed": ({"delayed": 5001}, {"delayed": 5000}),
    "many_active": ({"active": 1001}, {"active": 1000}),
    "dead_letter": ({"totals": {"failed": 3}, "before": {"email failed": 2}}, {"totals": {"failed": 3}}),
    "parked": ({"parked": 1}, {"parked": 0}),
    "redis_memory": ({"servers": [Server("", 801, 1000)]}, {"servers": [Server("", 800, 1000)]}),
    "slo_slow": (
        {"starts": Starts([(10, 3)] * MINUTES, None)},
        {"starts": Starts([(10, 2)] * MINUTES, None)},
    ),
    "slo_fast": (
        {"starts": Starts([(0, 0)] * MINUTES, 30 + 1801.0)},
        {"starts": Starts([(0, 0)] * MINUTES, 30 + 1790.0)},
    ),
    "paused": ({"paused": True}, {"paused": False}),
    "worker_lost": ({"lost": 1}, {"lost": 0}),
    "no_worker": ({"waiting": 1, "workers": 0}, {"waiting": 4, "limited": 4, "workers": 0}),
    "queue_error": ({"servers": [Server("", 9, 0, "it is full")]}, {"servers": [Server("", 9, 0)]}),
}


def test_every_alert_is_tried() -> None:
    assert EDGES.keys() == ALERTS.keys()


@pytest.mark.parametrize("alert", EDGES)
def test_it_is_raised_beyond_its_threshold_and_not_at_it(alert: str) -> None:
    wrong, right = EDGES[alert]
    raised = found(**wrong)
    assert [(each.alert, each.severity) for each in raised] == [(alert, ALERTS[alert][0])]
    assert not found(**right)
    # One that is off is not raised at all.
    assert not found(AlertSettings(off=alert), **wrong)


def test_a_queue_may_have_a_threshold_of_its_own() -> None:
    assert [each.alert for each in found(waiting=1001)] == ["backlog"]
    assert not found(AlertSettings(waiting="10 email=none"), waiting=99_999)
    assert str(threshold_of("10000 email=1000, bulk=none")) == "10000 email=1000 bulk=none"


def test_an_error_rate_needs_enough_jobs() -> None:
    assert not found(hour=Figures(failed=40, completed=9))


def test_workers_reaped_since_the_last_look_count_as_lost() -> None:
    (one,) = found(totals={"lost": 5}, before={"email lost": 3})
    assert (one.alert, one.text.split()[0]) == ("worker_lost", "2")
    # A queue seen for the first time, or one that was emptied, has nothing to compare with.
    assert not found(totals={"lost": 5})
    assert not found(totals={}, before={"email lost": 3, "email failed": 9})


def test_counts_are_those_of_the_next_look() -> None:
    reading = Reading([QueueStats("email", totals={"failed": 2, "completed": 9})])
    assert counts_of(reading) == {"email failed": 2, "email lost": 0}


def test_a_queue_as_it_should_be_raises_nothing() -> None:
    healthy = Starts([(600, 6)] * MINUTES, 4.0)
    assert not found(waiting=900, active=10, hour=Figures(completed=36_000, failed=90), starts=healthy)


@pytest.mark.parametrize(
    ("minutes", "oldest", "fast"),
    [
        ([(10, 10)] * 60, None, True),
        # Late forty minutes ago, but no more: nobody is woken.
        ([(10, 10)] * 20 + [(10, 0)] * 40, None, None),
        # Nothing ends, nothing starts: only the oldest age tells.
        ([(0, 0)] * MINUTES, 7200.0, True),
        ([(0, 0)] * MINUTES, None, None),
        # A burst that takes longer than it may for two minutes.
        ([(10, 0)] * 358 + [(500, 300)] * 2, 45.0, None),
    ],
)
def test_how_fast_an_allowance_is_used_up(
    minutes: list[tuple[int, int]], oldest: float | None, fast: bool | None
) -> None:
    burn = burning(EMAIL, Starts(minutes, oldest))
    assert (None if burn is None else burn.fast) is fast


def test_a_strict_objective_burns_at_the_usual_rates() -> None:
    strict = Objective("email", None, 0.999, 30)
    assert burning(strict, Starts([(1000, 15)] * MINUTES, None)) == Burn(strict, True, pytest.approx(15), 3600)
    assert burning(strict, Starts([(1000, 7)] * MINUTES, None)) == Burn(strict, False, pytest.approx(7), 21_600)
    assert burning(strict, Starts([(1000, 5)] * MINUTES, None)) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"waiting": "many"}, {"waiting": ""}, {"waiting": "10 email"}, {"objectives": "email 95 30s"},
        {"objectives": "email 100% 30s"}, {"objectives": "email 95% soon"}, {"off": "everything"},
        {"channels": {"ops": "no-url"}}, {"channels": {"o p s": "json://x"}}, {"critical": "pager"},
        {"channels": {"ops": "json://x"}, "warning": "ops pager"},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"write|there is no|name is of"):
        AlertSettings(**wrong)
