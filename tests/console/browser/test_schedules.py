"""Schedules from the page: add, edit, pause, run now, remove; and what the audit log then says."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.console.browser.conftest import Site, press

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(480)]


async def test_add_edit_pause_run_remove_and_audit(site: Site) -> None:
    page = await site.visit("/schedules")
    await expect(page.get_by_text("No schedules")).to_be_visible()
    await press(page.get_by_role("link", name="Add a schedule"))
    await page.get_by_label("Name").fill("nightly")
    await page.get_by_label("Function").select_option("shop/charge")
    await page.get_by_label("Cron").fill("61 2 * * *")
    await page.get_by_label("Payload (JSON)").fill('{"name": "ada"}')
    await press(page.get_by_role("button", name="Add"))
    await expect(page.locator(".notice.bad:not(#lost)")).to_be_visible()
    await expect(page.get_by_label("Payload (JSON)")).to_have_value('{"name": "ada"}')
    await page.get_by_label("Cron").fill("0 2 * * *")
    await page.get_by_label("Time zone").fill("Europe/Berlin")
    await press(page.get_by_role("button", name="Add"))
    await expect(page.get_by_text("shop:nightly is added")).to_be_visible()
    row = page.get_by_role("row", name="shop:nightly")
    await expect(row).to_contain_text("Europe/Berlin")
    await expect(row.locator("time")).to_have_count(3)

    await press(page.get_by_role("link", name="Edit shop:nightly"))
    await page.get_by_label("Cron").fill("")
    await page.get_by_label("Or every").fill("15m")
    await page.get_by_label("Payload (JSON)").fill('{"name": "bob"}')
    await press(page.get_by_role("button", name="Save"))
    await expect(row).to_contain_text("every 900s")
    await press(page.get_by_role("button", name="Pause shop:nightly"))
    await expect(row.locator(".state")).to_have_text("paused")
    await press(page.get_by_role("button", name="Resume shop:nightly"))
    await expect(row.locator(".state")).to_have_text("active")
    await press(page.get_by_role("button", name="Run shop:nightly now"))
    await expect(page.locator(".notice.ok")).to_contain_text("is enqueued")
    (job,) = await site.services.inspector.jobs("shop", "waiting")
    assert job.payload == {"name": "bob", "amount": 1}
    await press(row.get_by_role("link", name="Remove …"))
    await press(page.get_by_role("dialog").get_by_role("button", name="Remove"))
    await expect(page.get_by_text("shop:nightly is removed")).to_be_visible()
    await expect(page.get_by_text("No schedules")).to_be_visible()

    await press(page.get_by_role("link", name="Audit"))
    await expect(page.get_by_role("row").filter(has_text="schedule.add").first).to_contain_text("ada")
    await page.get_by_label("Action").fill("schedule.re")
    await press(page.get_by_role("button", name="Filter"))
    await expect(page.locator("tbody tr")).to_have_count(2)
    await page.get_by_label("Who").fill("nobody")
    await press(page.get_by_role("button", name="Filter"))
    await expect(page.get_by_text("No entry fits")).to_be_visible()
