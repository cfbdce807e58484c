"""Backoff and the retry policy: pure arithmetic."""

from __future__ import annotations

import pytest

from daemon.errors import ConfigurationError, JobFailed, PermanentError, TooLarge
from daemon.retry import Backoff, Exponential, Fixed, RetryPolicy


def test_exponential_doubles_up_to_its_maximum() -> None:
    backoff = Exponential(base=3, maximum=20)
    assert [backoff.wait(retry) for retry in (1, 2, 3, 4, 5)] == [3, 6, 12, 20, 20]


def test_fixed_waits_the_same_every_time() -> None:
    assert [Fixed(5).wait(retry) for retry in (1, 2, 9)] == [5, 5, 5]


def test_jitter_spreads_evenly_around_the_wait_and_stays_below_the_maximum() -> None:
    backoff = Exponential(base=10, maximum=12, jitter=0.5)
    assert backoff.wait(1, lambda: 0.0) == 5
    assert backoff.wait(1, lambda: 0.5) == 10
    assert backoff.wait(1, lambda: 1.0) == 12
    waits = {Fixed(10, jitter=0.1).wait(1) for _ in range(50)}
    assert len(waits) > 1
    assert all(9 <= wait <= 11 for wait in waits)


def test_a_late_retry_does_not_overflow() -> None:
    assert Exponential(base=1, maximum=60).wait(10_000) == 60
    assert Backoff(base=1, maximum=None).wait(10_000) == 2.0**60


@pytest.mark.parametrize("backoff", [Exponential(3, 99, 0.25), Fixed(7, 0.1), Backoff(1.5, True, None)])
def test_a_backoff_survives_its_way_through_a_job(backoff: Backoff) -> None:
    assert Backoff.from_json(backoff.as_json()) == backoff


@pytest.mark.parametrize("wrong", [{"base": -1}, {"maximum": -1}, {"jitter": -0.1}, {"jitter": 1.1}])
def test_wrong_values_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="0 or more"):
        Backoff(**wrong)  # type: ignore[arg-type]


def test_what_another_try_cannot_help_is_permanent() -> None:
    policy = RetryPolicy(permanent=(KeyError,))
    assert policy.is_permanent(PermanentError("bad address"))
    assert policy.is_permanent(TooLarge())
    assert policy.is_permanent(KeyError("x"))
    assert not policy.is_permanent(ValueError("x"))
    assert not policy.is_permanent(JobFailed("X", "of another job this one waited for"))


def test_arqs_rule_takes_every_error_for_permanent() -> None:
    assert RetryPolicy(retry_any=False).is_permanent(ValueError("x"))
