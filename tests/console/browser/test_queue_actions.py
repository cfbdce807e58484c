"""What is done to queues from the pages: pause, limits, clean, drain, clear, retry, all queues at once."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from daemon.job import JobState
from tests.console.browser.conftest import PATIENCE, Site, press
from tests.console.browser.shop import GATES
from tests.engine import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(480)]


async def wait_for(site: Site, family: str, **counts: int) -> None:
    """Wait until a queue has so many jobs of some states."""

    async def reached() -> bool:
        queue = await site.services.inspector.queue(family)
        return all(getattr(queue, name) == count for name, count in counts.items())

    await eventually(reached, PATIENCE / 1000)


async def more(page: Page, action: str) -> None:
    """Choose from the menu of a queue's page."""
    await press(page.get_by_text("More", exact=True))
    await press(page.get_by_role("link", name=action))


async def test_pause_and_resume(site: Site) -> None:
    page = await site.visit("/queues/shop")
    await press(page.get_by_role("button", name="Pause"))
    await expect(page.get_by_text("shop is paused")).to_be_visible()
    await expect(page.locator("#standing")).to_have_text("paused")
    assert (await site.services.inspector.queue("shop")).paused
    await page.goto(f"{site.url}/")
    await expect(page.locator("#alerts")).to_contain_text("shop: it is paused")
    await press(page.get_by_role("button", name="Resume shop"))
    await expect(page.get_by_text("shop is resumed")).to_be_visible()
    assert not (await site.services.inspector.queue("shop")).paused


async def test_limits(site: Site) -> None:
    page = await site.visit("/queues/shop")
    await press(page.get_by_role("link", name="Limits …"))
    dialog = page.get_by_role("dialog", name="Limits of shop")
    await dialog.get_by_label("At the same time").fill("3")
    await dialog.get_by_label("Starts").fill("100/1s")
    await press(dialog.get_by_role("button", name="Set limits"))
    await expect(page.get_by_text("Limits of shop are set")).to_be_visible()
    await press(page.get_by_role("link", name="Limits …"))
    await expect(dialog.get_by_role("row", name="operator")).to_contain_text("100/1s")
    await dialog.get_by_label("For", exact=True).select_option("group")
    await dialog.get_by_label("Its name").fill("anna")
    await dialog.get_by_label("At the same time").fill("many")
    await press(dialog.get_by_role("button", name="Set limits"))
    await expect(page.locator(".notice.bad:not(#lost)")).to_contain_text("many")
    await press(page.get_by_role("link", name="Limits …"))
    await press(dialog.get_by_role("button", name="Reset to settings"))
    await expect(page.get_by_text("those of the settings again")).to_be_visible()


async def test_a_bulk_action_tells_how_many_and_asks(site: Site) -> None:
    await site.work()
    for n in range(6):
        await site.services.producer.enqueue("refuse", [f"no {n}"], family="shop", tags=["odd"] if n % 2 else [])
    for _ in range(4):
        await site.services.producer.enqueue("settle", family="shop")
    for n in range(5):
        await site.services.producer.enqueue("settle", family="shop", delay=600 + n)
    await wait_for(site, "shop", failed=6, completed=4, delayed=5)
    page = await site.visit("/queues/shop?state=failed")
    dialog = page.get_by_role("dialog")

    # Clean: the count follows what is asked for; Escape and Cancel change nothing.
    await more(page, "Clean ended jobs")
    await expect(dialog.get_by_role("status")).to_have_text("Would be removed: 6")
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    await more(page, "Clean ended jobs")
    await dialog.get_by_label("State").select_option("completed")
    await dialog.get_by_label("At most").fill("3")
    await press(dialog.get_by_role("button", name="Count again"))
    await expect(dialog.get_by_role("status")).to_have_text("Would be removed: 3")
    await press(dialog.get_by_role("button", name="Clean 3 jobs"))
    await expect(page.get_by_text("Removed 3 jobs of shop")).to_be_visible()
    await wait_for(site, "shop", failed=6, completed=1, delayed=5)

    # Retry those that a filter lets through: they fail again.
    await page.goto(f"{site.url}/queues/shop?state=failed&tag=odd")
    await more(page, "Retry failed jobs")
    await expect(dialog.get_by_role("status")).to_have_text("Would be sent back: 3")
    await press(dialog.get_by_role("button", name="Retry 3 jobs"))
    await expect(page.get_by_text("Sent back 3 jobs of shop")).to_be_visible()
    await wait_for(site, "shop", failed=6)

    await more(page, "Drain")
    await expect(dialog.get_by_role("status")).to_have_text("Would be removed: 5")
    await press(dialog.get_by_role("link", name="Cancel"))
    await expect(dialog).to_be_hidden()
    await more(page, "Drain")
    await press(dialog.get_by_role("button", name="Drain 5 jobs"))
    # The answer's page is here before anything is opened on it.
    await expect(page.get_by_text("Removed 5 jobs of shop")).to_be_visible()
    await wait_for(site, "shop", delayed=0, failed=6)

    await more(page, "Clear")
    await expect(dialog.get_by_role("status")).to_have_text("Would be removed: 7")
    await press(dialog.get_by_role("button", name="Clear 7 jobs"))
    await expect(page.get_by_text("Removed 7 jobs of shop")).to_be_visible()
    await expect(page.locator("#jobs")).to_contain_text("No failed job fits")
    await more(page, "Clear")
    await expect(dialog.get_by_role("button", name="Clear 0 jobs")).to_be_disabled()


async def test_all_queues_at_once(site: Site) -> None:
    await site.services.producer.enqueue("settle", family="shop", delay=60)
    await site.services.producer.enqueue("settle", family="mail")
    page = await site.visit("/")
    dialog = page.get_by_role("dialog")
    for action, answer in (("Pause", "2 queues paused"), ("Resume", "2 queues resumed")):
        await press(page.get_by_text("All queues", exact=True))
        await press(page.get_by_role("link", name=f"{action} all"))
        await press(dialog.get_by_role("button", name=action))
        await expect(page.get_by_text(answer)).to_be_visible()
    await press(page.get_by_text("All queues", exact=True))
    await press(page.get_by_role("link", name="Clean all"))
    await expect(dialog.get_by_role("status")).to_have_text("Would be removed: 0")
    await press(dialog.get_by_role("link", name="Cancel"))
    await press(page.get_by_text("All queues", exact=True))
    await press(page.get_by_role("link", name="Drain all"))
    await expect(dialog.get_by_role("status")).to_have_text("Would be removed: 2")
    await press(dialog.get_by_role("button", name="Drain 2 jobs"))
    await expect(page.get_by_text("Removed 2 jobs of all queues")).to_be_visible()
    await wait_for(site, "shop", delayed=0)
    assert await site.services.inspector.jobs("mail", JobState.WAITING) == []


async def test_running_jobs_are_shown_with_their_worker(site: Site) -> None:
    await site.work()
    await site.services.producer.enqueue("charge", {"name": "ada"}, family="shop", job_id="ada")
    page = await site.visit("/workers")
    await expect(page.get_by_role("row", name="shop")).to_contain_text("1 / 10")
    await expect(page.get_by_role("row", name="shop")).to_contain_text("shop:ada")
    await expect(page.locator("#workers .state")).to_have_text("running")
    await expect(page.locator("#server")).to_contain_text("valkey")
    GATES["ada"].set()
    await expect(page.get_by_role("row", name="shop")).to_contain_text("0 / 10")
