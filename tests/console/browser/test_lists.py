"""Lists that are longer than a page, and what filters let through."""

from __future__ import annotations

from functools import partial

import pytest
from playwright.async_api import Page, expect

from daemon import dead_letters
from daemon.pages import JobFilter
from tests.console.browser.conftest import PATIENCE, Site, press
from tests.console.browser.test_queue_actions import wait_for
from tests.engine import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(480)]


async def ids(page: Page) -> list[str]:
    """Give the jobs that a page lists."""
    await page.wait_for_load_state()
    return await page.locator("tbody .id").all_inner_texts()


async def test_long_lists_have_pages(site: Site) -> None:
    for n in range(30):
        await site.services.producer.enqueue("refuse", ["no"], family="shop", job_id=f"{n:02}")
    await site.work()
    await wait_for(site, "shop", failed=30)
    assert site.services.archiver is not None
    await site.services.archiver.run()
    (group,) = await dead_letters.groups(site.services.inspector, "shop")
    page = await site.visit()
    for path, onward in (
        ("/queues/shop?state=failed", "Next page"),
        (f"/dead/{group.id}", "Next page"),
        ("/dead/archive", "Older"),
    ):
        await page.goto(site.url + path)
        first = await ids(page)
        await press(page.get_by_role("link", name=onward))
        await page.wait_for_url("**cursor=**")
        seen = first + await ids(page)
        assert (len(first), len(seen), len(set(seen))) == (25, 30, 30), path
        await expect(page.get_by_role("link", name=onward)).to_have_count(0)
    await page.goto(f"{site.url}/queues/shop?state=failed")
    await press(page.get_by_role("link", name="Next page"))
    await press(page.get_by_role("link", name="First page"))
    await expect(page.get_by_text("25 shown")).to_be_visible()


async def test_a_queue_is_searched_and_filtered(site: Site) -> None:
    producer = site.services.producer
    for name, tag in (("ada", "vip"), ("bob", "")):
        await producer.enqueue("charge", {"name": name}, family="shop", job_id=name, tags=[tag] if tag else [])
    await producer.enqueue("settle", family="shop", job_id="later", delay=600)
    await site.work()
    page = await site.visit("/queues/shop")
    await press(page.locator("#tabs").get_by_role("link", name="Delayed"))
    await expect(page.locator("#jobs tbody tr")).to_contain_text(["shop:later"])
    await press(page.locator("#tabs").get_by_role("link", name="Active"))
    rows = page.locator("#jobs tbody tr")
    await expect(rows).to_have_count(2)
    await page.get_by_label("Tag").fill("vip")
    await press(page.get_by_role("button", name="Filter"))
    await expect(rows).to_contain_text(["shop:ada"])
    await press(page.get_by_role("link", name="Reset"))
    await expect(rows).to_have_count(2)
    await eventually(partial(_indexed, site), PATIENCE / 1000)
    await page.get_by_label("Search").fill("bob")
    await page.keyboard.press("Enter")
    await expect(rows).to_contain_text(["shop:bob"])
    await page.get_by_text("More filters").click()
    await page.get_by_label("Started since").fill("soon")
    await press(page.get_by_role("button", name="Filter"))
    await expect(page.get_by_role("alert").filter(has_text="rite a time")).to_be_visible()
    await page.get_by_label("Started since").fill("1h")
    await page.get_by_label("Search").fill("")
    await press(page.get_by_role("button", name="Filter"))
    await expect(rows).to_have_count(2)


async def _indexed(site: Site) -> bool:
    return bool(await site.services.inspector.jobs("shop", "active", where=JobFilter(text="bob")))
