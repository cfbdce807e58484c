"""Liveness, start-up and readiness, judged from heartbeat files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daemon.probe.app import create_app
from daemon.probe.health import Limits
from daemon.probe.settings import ProbeSettings
from tests.probe.support import NOW, NeverAsked, document, facts, get, write


async def statuses(*paths: Path) -> dict[str, int]:
    app = create_app(NeverAsked(), families=["email"], heartbeats=paths, clock=lambda: NOW)
    return {name: (await get(app, f"/{name}")).status_code for name in ("livez", "startupz", "readyz")}


def stalled(**changes: Any) -> dict[str, Any]:
    return {"email": facts(claimable_since=NOW - 300, last_claim=NOW - 200, **changes)}


@pytest.mark.parametrize(
    ("changes", "live", "started", "ready"),
    [
        pytest.param({}, 200, 200, 200, id="healthy"),
        pytest.param({"time": NOW - 8.9}, 200, 200, 200, id="just in time"),
        pytest.param({"time": NOW - 9.1}, 503, 503, 503, id="stale"),
        pytest.param({"time": NOW + 3600}, 503, 503, 503, id="from the future"),
        pytest.param({"state": "starting"}, 200, 503, 503, id="starting"),
        pytest.param({"state": "draining"}, 200, 200, 503, id="draining"),
        pytest.param({"redis_up": False}, 200, 200, 503, id="redis away"),
        pytest.param({"families": stalled()}, 200, 200, 503, id="takes nothing"),
        pytest.param({"families": stalled(running=10)}, 200, 200, 200, id="no slot free"),
        pytest.param({"families": {"email": facts(claimable_since=NOW - 14)}}, 200, 200, 200, id="waits shortly"),
        pytest.param(
            {"families": {"email": facts(claimable_since=NOW - 300, last_claim=NOW - 5)}}, 200, 200, 200, id="busy"
        ),
        pytest.param(
            {"families": {"email": facts(claimable_since=NOW - 300, last_claim=None)}}, 200, 200, 503, id="never took"
        ),
        pytest.param({"families": {"media": facts(), **stalled()}}, 200, 200, 503, id="one family of two"),
    ],
)
async def test_endpoints(tmp_path: Path, changes: dict[str, Any], live: int, started: int, ready: int) -> None:
    path = write(tmp_path / "heartbeat.json", document(**changes))
    assert await statuses(path) == {"livez": live, "startupz": started, "readyz": ready}


async def test_no_file_means_no_worker(tmp_path: Path) -> None:
    assert set((await statuses(tmp_path / "heartbeat.json")).values()) == {503}


async def test_without_a_worker_to_watch_the_probe_answers_for_itself() -> None:
    assert set((await statuses()).values()) == {200}


@pytest.mark.parametrize(("workers", "status"), [(1, 503), (0, 200)])
async def test_that_no_worker_of_a_pattern_is_there_is_told(tmp_path: Path, workers: int, status: int) -> None:
    """systemd takes a worker's folder away with it: when all of them are gone nothing is left to be old."""
    settings = ProbeSettings(heartbeats=f"{tmp_path}/*/heartbeat.json", workers=workers)
    app = create_app(NeverAsked(), families=["email"], heartbeats=lambda: settings.files(tmp_path), clock=lambda: NOW)
    for endpoint in ("/livez", "/readyz", "/startupz"):
        answer = await get(app, endpoint)
        assert answer.status_code == status
        assert ("/*/heartbeat.json" in answer.text) == (status == 503)


async def test_one_dead_worker_of_two_is_seen(tmp_path: Path) -> None:
    alive = write(tmp_path / "1.json", document())
    dead = write(tmp_path / "2.json", document(pid=13, time=NOW - 60))
    assert set((await statuses(alive, dead)).values()) == {503}


async def test_the_answer_says_what_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "heartbeat.json", document(state="draining", families=stalled()))
    app = create_app(NeverAsked(), families=["email"], heartbeats=[path], clock=lambda: NOW)
    answer = await get(app, "/readyz")
    assert answer.headers["content-type"] == "application/health+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "status": "fail",
        "checks": {
            "worker:heartbeat": [{"status": "pass", "componentId": "12", "observedValue": 1.0, "observedUnit": "s"}],
            "worker:state": [{"status": "fail", "componentId": "12", "output": "the worker is draining"}],
            "redis:connection": [{"status": "pass", "componentId": "12"}],
            "email:progress": [
                {
                    "status": "fail",
                    "componentId": "12",
                    "output": "work waits and 7 of 10 slots are free, but nothing was taken for 200 s",
                }
            ],
        },
    }


async def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    app = create_app(NeverAsked(), families=["email"], heartbeats=[tmp_path], clock=lambda: NOW)
    answer = await get(app, "/livez")
    assert answer.status_code == 503
    assert "cannot be read: Is a directory" in answer.json()["checks"]["worker:heartbeat"][0]["output"]


async def test_limits_can_be_set(tmp_path: Path) -> None:
    path = write(tmp_path / "heartbeat.json", document(time=NOW - 20, families=stalled()))
    limits = Limits(heartbeat=30, stall=600)
    app = create_app(NeverAsked(), families=["email"], heartbeats=[path], limits=limits, clock=lambda: NOW)
    assert (await get(app, "/readyz")).status_code == 200
