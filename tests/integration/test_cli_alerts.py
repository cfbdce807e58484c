"""``arqd alerts``."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime

import pytest

from daemon.alerts.settings import AlertSettings
from daemon.alerts.watch import Watch
from daemon.inspector import Inspector
from tests.handlers.receiver import Answer, Receiver
from tests.integration.test_cli import Arqd, arqd, queue  # noqa: F401


def test_what_fires_is_listed_and_silenced(queue: Arqd, redis_url: str) -> None:  # noqa: F811
    async def look() -> None:
        async with Inspector.connect(redis_url, ["greetings"]) as inspector:
            await Watch(inspector, AlertSettings()).check()

    assert queue("pause", "greetings").status == 0
    asyncio.run(look())
    (alert,) = queue("alerts", "list", "--json").json()["alerts"]
    assert (alert["alert"], alert["subject"], alert["severity"]) == ("paused", "greetings", "critical")
    assert datetime.fromisoformat(alert["since"]) <= datetime.fromisoformat(alert["told"])
    silence = queue("alerts", "silence", "2h", "--alert", "paused", "--reason", "new disks").out.strip()
    (lasting,) = queue("alerts", "list", "--json").json()["silences"]
    length = datetime.fromisoformat(lasting["ends"]) - datetime.fromisoformat(lasting["starts"])
    assert length.total_seconds() == 7200
    told = queue("alerts", "list").out
    assert all(word in told for word in (silence, "new disks", "paused", "yes"))
    assert queue("alerts", "unsilence", silence).out == f"{silence} ended\n"
    assert queue("alerts", "unsilence", silence).status == 1
    assert "there is no alert" in queue("alerts", "silence", "2h", "--alert", "nothing").err
    actions = [entry["action"] for entry in queue("audit", "list", "--json").json()["entries"]]
    assert actions == ["alert.silence", "alert.unsilence", "alert.unsilence", "alert.silence", "queue.pause"]


def test_channels_are_tried(queue: Arqd, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    assert "no channel is set up" in queue("alerts", "test").out

    async def tried() -> tuple[int, str]:
        async with Receiver() as receiver:
            receiver.usual = Answer(202)
            monkeypatch.setenv("ARQD_ALERTS__CHANNELS__GOOD", f"datadog://key@127.0.0.1:{receiver.port}?tls=no")
            monkeypatch.setenv("ARQD_ALERTS__CHANNELS__BAD", "datadog://key@127.0.0.1:1?tls=no")
            done = await asyncio.to_thread(queue, "alerts", "test")
            return done.status, done.out

    status, out = asyncio.run(tried())
    assert status == 1
    assert sorted(out.splitlines()) == ["FAIL  bad  ConnectError", "OK    good"]


def test_check_looks_at_the_channels(queue: Arqd, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def found() -> list[dict[str, str]]:
        return [each for each in json.loads(queue("check", "--json").out) if each["what"] == "alerts"]

    assert found() == []
    monkeypatch.setenv("ARQD_ALERTS__CHANNELS__OPS", "json://127.0.0.1/x")
    assert [each["level"] for each in found()] == ["OK"]
    monkeypatch.setenv("ARQD_ALERTS__CHANNELS__OPS", "nosuchservice://x")
    assert [each["level"] for each in found()] == ["FAIL"]


def test_a_family_that_alerts_name_wrongly_is_told(queue: Arqd, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("ARQD_ALERTS__OBJECTIVES", "emial 95% 30s, email/acme 95% 30s")
    monkeypatch.setenv("ARQD_ALERTS__WAITING", "10000 greetngs=5 greetings=7")
    told = [line for line in queue("check").out.splitlines() if " alerts " in line]
    assert [line.split()[0] for line in told] == ["WARN", "WARN"]
    assert "ARQD_ALERTS__WAITING: there is no family 'greetngs' here" in told[0]
    assert "ARQD_ALERTS__OBJECTIVES: there is no family 'emial' here" in told[1]
