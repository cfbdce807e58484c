"""The archive of dead letters from its page: filled, searched, looked into, sent back from; what a viewer sees."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.console.browser.conftest import Site, press
from tests.console.browser.shop import FAILURES, GATES
from tests.console.browser.test_looks import readable, tabbed
from tests.console.browser.test_queue_actions import wait_for

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(480)]


async def test_what_failed_is_archived_found_and_sent_back(site: Site) -> None:
    await site.work()
    FAILURES["ada"] = "the bank said no"
    GATES["ada"].set()
    await site.services.producer.enqueue("charge", {"name": "ada", "amount": 7}, family="shop", job_id="ada")
    await site.services.producer.enqueue("refuse", ["no tea"], family="shop", job_id="tea")
    await wait_for(site, "shop", failed=2)
    page = await site.visit("/dead", role="operator")
    await press(page.get_by_role("link", name="Archive", exact=True))
    await expect(page.get_by_text("Nothing is archived yet")).to_be_visible()
    await press(page.get_by_role("button", name="Archive now"))
    await expect(page.get_by_text("Archived 2 dead letters")).to_be_visible()
    rows = page.locator("tbody")
    await expect(rows).to_have_count(2)

    seen = await tabbed(page)
    assert sum(each.startswith("SUMMARY PermanentError") for each in seen) == 2
    assert sum(each.startswith("BUTTON Retry") for each in seen) == 2

    # The filters, alone and together; what is wrong with one is told, and it can be corrected.
    for label, wanted, found in (("Text", "BANK", "shop:ada"), ("Function", "refuse", "shop:tea")):
        await page.get_by_label(label, exact=True).fill(wanted)
        await press(page.get_by_role("button", name="Search"))
        await expect(rows).to_have_count(1)
        await expect(rows).to_contain_text(found)
        await press(page.get_by_role("link", name="Reset"))
        await expect(rows).to_have_count(2)
    await page.get_by_label("Queue", exact=True).select_option("mail")
    await page.get_by_label("Error").fill("PermanentError")
    await press(page.get_by_role("button", name="Search"))
    await expect(page.get_by_text("No dead letter fits")).to_be_visible()
    await page.get_by_label("Queue", exact=True).select_option("shop")
    await page.get_by_label("Until").fill("yesterday")
    await press(page.get_by_role("button", name="Search"))
    await expect(page.get_by_role("alert").filter(has_text="rite a time")).to_be_visible()
    await page.get_by_label("Until").fill("")
    await page.get_by_label("Failed since").fill("1h")
    await press(page.get_by_role("button", name="Search"))
    await expect(rows).to_have_count(2)

    # Redis has forgotten one; its letter is all that is left, and it runs again with the same payload.
    await site.services.control.discard(["shop:ada"])
    del FAILURES["ada"]
    ada = rows.filter(has_text="shop:ada")
    await press(ada.get_by_text("the bank said no").first)
    await expect(page.get_by_label("Payload of shop:ada")).to_contain_text('"amount": 7')
    await expect(page.get_by_label("Traceback of shop:ada")).to_contain_text("raise PermanentError(FAILURES[job.name])")
    await readable(page)
    await press(page.get_by_role("button", name="Retry shop:ada"))
    await expect(page.get_by_text("It runs again")).to_be_visible()
    await expect(page.get_by_label("Failed since")).to_have_value("1h")
    await expect(ada).to_contain_text("sent back")
    await expect(ada.get_by_role("button")).to_have_count(0)
    await wait_for(site, "shop", failed=1, completed=1)
    await page.get_by_label("Since then").select_option("sent back")
    await press(page.get_by_role("button", name="Search"))
    await expect(rows).to_have_count(1)
    await press(rows.get_by_role("link", name="shop:ada"))
    await expect(page.locator("#job-head .state")).to_have_text("completed")
    await expect(page.locator("#result")).to_contain_text('"charged": "ada"')

    # Another was discarded for good, which the archive learns with its next pass; a letter sent back runs once.
    await site.services.control.discard(["shop:tea"])
    await page.goto(f"{site.url}/dead/archive")
    await press(page.get_by_role("button", name="Archive now"))
    await expect(page.get_by_text("Archived 0 dead letters")).to_be_visible()
    await expect(rows.filter(has_text="shop:tea")).to_contain_text("discarded")
    other = await site.visit("/dead/archive", role="operator")
    await press(page.get_by_role("button", name="Retry shop:tea"))
    await expect(page.get_by_text("It runs again")).to_be_visible()
    await press(other.get_by_role("button", name="Retry shop:tea"))
    await expect(other.locator(".notice.bad:not(#lost)")).to_contain_text("sent back before")


async def test_a_viewer_reads_the_archive_and_changes_nothing(site: Site) -> None:
    page = await site.visit("/dead/archive", role="viewer")
    await expect(page.get_by_text("Nothing is archived yet")).to_be_visible()
    await site.work()
    await site.services.producer.enqueue("refuse", ["no tea"], family="shop", job_id="tea")
    await wait_for(site, "shop", failed=1)
    assert site.services.archiver is not None
    await site.services.archiver.run()
    await page.reload()
    await press(page.get_by_text("no tea").first)
    await expect(page.get_by_label("Payload of shop:tea")).to_contain_text("no tea")
    assert await page.locator("main form[method=post]").count() == 0
    await expect(page.locator("main").get_by_role("button")).to_have_text(["Search"])
