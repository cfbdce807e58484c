"""Alerts in the API and on the overview: what fires, silences and who may make them."""

from __future__ import annotations

import time

from daemon.alerts.settings import AlertSettings
from daemon.alerts.watch import Watch
from daemon.console.pages.dashboard import Dashboard
from tests.console.support import API, Console, console


async def raise_alert(found: Console) -> None:
    """Pause the queue, and look."""
    await found.services.control.pause("t")
    await Watch(found.services.inspector, AlertSettings(), clock=lambda: time.time() - 60).check()


async def test_what_fires_is_listed_and_silenced(redis_url: str) -> None:
    async with console(redis_url) as found:
        viewer, operator = await found.of("viewer"), await found.of("operator")
        assert (await viewer.get(f"{API}/alerts")).json() == {"alerts": [], "silences": []}
        await raise_alert(found)
        (alert,) = (await viewer.get(f"{API}/alerts")).json()["alerts"]
        known = ("alert", "subject", "severity", "told", "silenced")
        assert tuple(alert[name] for name in known) == ("paused", "t", "critical", 1, False)
        body = {"alert": "paused", "subject": "t", "for": "2h", "reason": "new disks"}
        made = await operator.post(f"{API}/alerts/silence", json=body)
        assert made.status_code == 201
        told = (await viewer.get(f"{API}/alerts")).json()
        assert told["silences"] == [made.json()]
        assert (made.json()["by"], made.json()["reason"]) == ("test-operator", "new disks")
        assert told["alerts"][0]["silenced"]
        assert (await operator.delete(f"{API}/alerts/silence/{made.json()['id']}")).status_code == 204
        assert (await operator.delete(f"{API}/alerts/silence/{made.json()['id']}")).status_code == 404
        entries = (await found.services.audit.page()).entries
        assert [(each.action, each.target, each.outcome) for each in entries if each.action.startswith("alert.")] == [
            ("alert.unsilence", made.json()["id"], "refused"),
            ("alert.unsilence", made.json()["id"], "done"),
            ("alert.silence", "paused:t", "done"),
        ]


async def test_a_wrong_silence_is_refused(redis_url: str) -> None:
    async with console(redis_url) as found:
        operator = await found.of("operator")
        for wrong in ({}, {"for": "100d"}, {"for": 0}, {"for": "1h", "alert": "nothing"},
                      {"for": "1h", "starts": "2001-01-01T00:00:00Z"}):  # fmt: skip
            assert (await operator.post(f"{API}/alerts/silence", json=wrong)).status_code == 422, wrong
        assert (await operator.get(f"{API}/alerts")).json()["silences"] == []


async def test_the_overview_shows_them_and_silences_one(redis_url: str) -> None:
    async with console(redis_url, pages=Dashboard()) as found:
        await raise_alert(found)
        browser, csrf = await found.browser()
        shown = (await browser.get("/")).text
        assert "Silence for 1 h" in shown
        form = {"csrf": csrf, "alert": "paused", "subject": "t", "for": "1h"}
        assert (await browser.post("/alerts/silence", data=form)).status_code == 303
        shown = (await browser.get("/")).text
        assert "Silence for 1 h" not in shown
        assert "Silenced until" in shown
        (silence,) = await found.services.alerts.silences(time.time())
        assert (await browser.post("/alerts/unsilence", data={"csrf": csrf, "silence": silence.id})).status_code == 303
        assert "Silence for 1 h" in (await browser.get("/")).text
