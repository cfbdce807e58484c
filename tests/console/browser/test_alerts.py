"""Alerts on the overview: shown to everybody, silenced for an hour and unsilenced by who may."""

from __future__ import annotations

import re
import time

import pytest
from playwright.async_api import expect

from daemon.alerts.settings import AlertSettings
from daemon.alerts.watch import Watch
from tests.console.browser.conftest import Site, press
from tests.console.browser.test_looks import readable, tabbed

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(480)]


async def test_an_alert_is_silenced_and_unsilenced(site: Site) -> None:
    await site.services.control.pause("shop")
    await Watch(site.services.inspector, AlertSettings(), clock=lambda: time.time() - 60).check()
    viewer, page = await site.visit("/", role="viewer"), await site.visit("/", role="operator")
    firing = page.get_by_role("region", name="Alerts", exact=True)
    row = firing.get_by_role("listitem").filter(has_text="critical")
    await expect(row).to_contain_text("paused, shop")
    await expect(page.locator("#health")).to_have_text("degraded")
    assert any(each.startswith("BUTTON Silence for 1 h") for each in await tabbed(page))

    await press(page.get_by_role("button", name="Silence paused of shop for an hour"))
    await expect(page.locator(".notice.ok")).to_have_text(re.compile("Silenced until ..:.. UTC: paused of shop"))
    await expect(row).to_contain_text("silenced")
    await expect(row.get_by_role("button")).to_have_count(0)
    silence = firing.get_by_role("listitem").filter(has_text="Silenced until")
    await expect(silence).to_contain_text("paused of shop (ada)")
    (kept,) = await site.services.alerts.silences(time.time())
    assert (kept.alert, kept.subject, kept.by) == ("paused", "shop", "ada")
    assert kept.ends - kept.starts == 3600

    await readable(page)

    # Who may only look sees both, and can do nothing about them.
    await viewer.reload()
    seen = viewer.get_by_role("region", name="Alerts", exact=True)
    await expect(seen).to_contain_text("paused of shop (ada)")
    await expect(seen.get_by_role("button")).to_have_count(0)

    await press(page.get_by_role("button", name="End this silence"))
    await expect(page.locator(".notice.ok")).to_have_text("The silence has ended")
    await expect(silence).to_have_count(0)
    await expect(row.get_by_role("button")).to_have_text("Silence for 1 h")
    assert await site.services.alerts.silences(time.time()) == []
    await page.goto(f"{site.url}/audit?action=alert")
    for action in ("alert.silence", "alert.unsilence"):
        await expect(page.get_by_role("cell", name=action, exact=True)).to_have_count(1)
