"""Priorities, durations and ids."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from uuid import RFC_4122, UUID

import pytest

from daemon.errors import InvalidJob
from daemon.job import PRIORITIES, from_ms, new_id, new_ids, priority_level, seconds


@pytest.mark.parametrize(
    ("given", "level"), [(1, 1), (10, 10), ("7", 7), ("high", 3), ("CRITICAL", 1), ("deferred", 10), ("medium", 5)]
)
def test_a_priority_is_a_number_or_a_name(given: int | str, level: int) -> None:
    assert priority_level(given) == level


@pytest.mark.parametrize("wrong", [0, 11, -1, True, 2.5, None, "", "0", "11", "soon", "-1", "²", "9" * 5000])
def test_a_wrong_priority_is_refused_with_what_is_accepted(wrong: object) -> None:
    with pytest.raises(InvalidJob) as caught:
        priority_level(wrong)  # type: ignore[arg-type]
    assert "1 (first) to 10 (last)" in str(caught.value)
    assert all(f"{name}={level}" in str(caught.value) for name, level in PRIORITIES.items())


@pytest.mark.parametrize(
    ("given", "expected"),
    [(0, 0), (1.5, 1.5), ("30s", 30), ("1h30m", 5400), ("250ms", 0.25), ("1.5h", 5400), (" 2D ", 172800), ("15", 15)],
)
def test_a_duration_is_seconds_or_text(given: float | str, expected: float) -> None:
    assert seconds(given) == expected


@pytest.mark.parametrize(
    "wrong",
    [-1, "-1", "", "soon", "5x", "1h 30m x", float("nan"), float("inf"), 2.0**50, "200000000d", "9" * 400 + "d"],
)
def test_a_wrong_duration_is_refused(wrong: float | str) -> None:
    with pytest.raises(InvalidJob, match="is not a duration"):
        seconds(wrong)


def test_generated_ids_are_uuids_ordered_by_time_and_unique() -> None:
    ids = [*(new_id() for _ in range(500)), *new_ids(1), *new_ids(2), *new_ids(497)]
    assert len(set(ids)) == 1000
    assert [job_id[:12] for job_id in ids] == sorted(job_id[:12] for job_id in ids)
    parsed = [UUID(job_id) for job_id in ids]
    assert [each.hex for each in parsed] == ids
    assert {(each.version, each.variant) for each in parsed} == {(7, RFC_4122)}


def test_ids_of_one_call_are_in_order_and_begin_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    for filler in (b"\0", b"\xff", None):
        with monkeypatch.context() as patched:
            if filler is not None:
                patched.setattr("daemon.job._reserve", [filler.hex() * 9 + filler.hex()[0]])
                patched.setattr(os, "urandom", lambda count, filler=filler: filler * count)
            ids = new_ids(2000)
        assert ids == sorted(set(ids))
        assert len({each[:16] for each in ids}) == 1
        assert {(each.version, each.variant) for each in map(UUID, ids)} == {(7, RFC_4122)}
    assert new_ids(0) == []


def test_a_later_millisecond_makes_a_later_id(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [0, 1, 15, 16, 1_795_712_506_028, 1_795_712_506_029, 2**47]
    ids = []
    for ms in times:
        monkeypatch.setattr(time, "time_ns", lambda ms=ms: ms * 1_000_000)
        ids.append(new_id())
    assert ids == sorted(ids)
    assert [int(job_id[:12], 16) for job_id in ids] == times


def test_times_are_aware_utc() -> None:
    assert from_ms(1_700_000_000_500) == datetime(2023, 11, 14, 22, 13, 20, 500_000, UTC)
