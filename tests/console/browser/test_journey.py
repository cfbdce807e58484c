"""A job's whole way, seen and steered from its page."""

from __future__ import annotations

import pytest
from playwright.async_api import Response, expect

from tests.console.browser.conftest import Site, press
from tests.console.browser.shop import FAILURES, GATES

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(480)]


async def test_enqueue_watch_fail_read_retry_complete(site: Site) -> None:
    await site.work()
    FAILURES["ada"] = "the bank said no"
    page = await site.visit("/")
    await press(page.get_by_role("link", name="Enqueue a job"))
    await page.wait_for_url("**/enqueue")
    await page.get_by_label("Function").select_option("shop/charge")
    await expect(page.get_by_role("cell", name="name *")).to_be_visible()
    await page.get_by_label("Payload (JSON)").fill('{"name": "ada", "amount": "much"}')
    await press(page.get_by_role("button", name="Enqueue"))
    await expect(page.get_by_role("alert").filter(has_text="does not fit")).to_contain_text("amount")
    await page.get_by_label("Payload (JSON)").fill('{"name": "ada", "amount": 7}')
    await page.get_by_label("Job id").fill("order-7")
    await page.get_by_label("Tags").fill("vip, march")
    await press(page.get_by_role("button", name="Enqueue"))

    # The job's page: it runs, and says how far it is.
    await expect(page.get_by_role("heading", level=1)).to_have_text("shop:order-7")
    await expect(page.locator("#progress")).to_contain_text("40 %")
    await expect(page.locator("#progress")).to_contain_text("asking the bank of ada")
    await expect(page.locator("#live")).to_have_text("Live")
    await expect(page.locator("#payload")).to_contain_text('"amount": 7')
    await expect(page.locator("#facts")).to_contain_text("vip")

    # It fails while somebody looks.
    GATES["ada"].set()
    await expect(page.locator("#job-head .state")).to_have_text("failed")
    await expect(page.locator("#error")).to_contain_text("PermanentError: the bank said no")
    await expect(page.get_by_label("Traceback")).to_contain_text("raise PermanentError(FAILURES[job.name])")
    await expect(page.locator("#explain")).to_contain_text("dead letters")
    await expect(page.locator("#tries")).to_contain_text("the bank said no")
    await expect(page.locator("#logs")).to_contain_text("charging ada")

    # It is sent back, runs again, and completes.
    GATES["ada"].clear()
    del FAILURES["ada"]
    await press(page.get_by_role("button", name="Retry"))
    await expect(page.get_by_text("shop:order-7: retried")).to_be_visible()
    await expect(page.locator("#progress")).to_contain_text("40 %")
    await expect(page.locator("#timeline")).to_contain_text("Try 1 failed")
    GATES["ada"].set()
    await expect(page.locator("#job-head .state")).to_have_text("completed")
    await expect(page.locator("#result")).to_contain_text('"charged": "ada"')
    await expect(page.locator("#timeline li").last).to_contain_text("Completed")


async def test_numbers_move_by_themselves_and_a_lost_connection_is_told(site: Site) -> None:
    overview = await site.visit("/")
    await press(overview.get_by_role("link", name="24h"))
    await expect(overview.get_by_role("heading", name="Jobs ended per hour")).to_be_visible()
    queue = await site.visit("/queues/shop?state=waiting")
    await expect(overview.locator("#live")).to_have_text("Live")
    await expect(queue.locator("#live")).to_have_text("Live")
    await expect(queue.locator("#jobs")).to_contain_text("No waiting jobs")
    for name in ("ada", "bob"):
        await site.services.producer.enqueue("charge", {"name": name}, family="shop", job_id=name)
    await expect(overview.locator("#tiles .tile").filter(has_text="Waiting").locator(".figure")).to_have_text("2")
    await expect(overview.get_by_role("row", name="shop")).to_contain_text("no worker")
    await expect(overview.locator("#alerts")).to_contain_text("2 jobs wait and no worker is there")
    await expect(queue.locator("#tabs [aria-current]")).to_contain_text("2")
    await expect(queue.locator("#jobs")).to_contain_text("shop:bob")

    # What somebody has ticked and opened stays when the list changes.
    await queue.get_by_label("Select shop:ada").check()
    await press(queue.get_by_text("As a table"))
    await site.services.producer.enqueue("charge", {"name": "eve"}, family="shop", job_id="eve")
    await expect(queue.locator("#jobs")).to_contain_text("shop:eve")
    await expect(queue.get_by_label("Select shop:ada")).to_be_checked()
    await expect(queue.get_by_label("Jobs ended per minute as a table")).to_be_visible()
    await expect(queue.get_by_text("1 selected")).to_be_visible()

    await queue.route("**/*", lambda route: route.abort())
    site.services.live.close()
    await expect(queue.locator("#lost")).to_be_visible()
    await expect(queue.locator("#live")).to_have_text("Connection lost")
    site.faults.clear()


async def test_nothing_moves_while_somebody_presses(site: Site) -> None:
    page = await site.visit()
    await expect(page.locator("#live")).to_have_text("Live")
    waiting = page.locator("#tiles .tile").filter(has_text="Waiting").locator(".figure")
    await page.get_by_role("button", name="Pause shop").hover()
    await page.mouse.down()

    async def knows(answer: Response) -> bool:
        return answer.url == f"{site.url}/" and "no worker" in await answer.text()

    async with page.expect_response(knows):
        await site.services.producer.enqueue("settle", family="shop")
    await expect(waiting).to_have_text("0")
    await page.mouse.up()
    await expect(page.get_by_text("shop is paused")).to_be_visible()
    await expect(waiting).to_have_text("1")
