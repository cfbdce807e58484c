"""What is done to jobs from their pages and from lists: promote, priority, abort, remove, retry, duplicate."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from daemon.errors import JobNotFound
from daemon.flows import node
from tests.console.browser.conftest import Site, press
from tests.console.browser.shop import FAILURES, GATES, Pay
from tests.console.browser.test_queue_actions import wait_for

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(480)]


async def test_a_delayed_job_is_moved_promoted_and_removed(site: Site) -> None:
    await site.services.producer.enqueue("settle", family="shop", job_id="later", delay=600)
    page = await site.visit("/jobs/shop:later")
    dialog = page.get_by_role("dialog")
    await expect(page.locator("#explain")).to_contain_text("Delayed.")
    await press(page.get_by_role("link", name="Priority …"))
    await dialog.get_by_label("Priority").select_option("1")
    await press(dialog.get_by_role("button", name="Change"))
    await expect(page.get_by_text("shop:later: changed")).to_be_visible()
    await expect(page.locator("#facts")).to_contain_text("Priority1")
    await press(page.get_by_role("button", name="Promote"))
    await expect(page.locator("#job-head .state")).to_have_text("waiting")
    await expect(page.locator("#explain")).to_contain_text("There is no worker")
    await press(page.get_by_role("link", name="Remove …"))
    await press(dialog.get_by_role("button", name="Remove 1 job"))
    await expect(page.get_by_text("shop:later: removed")).to_be_visible()
    await expect(page.get_by_role("heading", level=1)).to_have_text("shop")
    with pytest.raises(JobNotFound):
        await site.services.inspector.job("shop:later")


async def test_a_running_job_is_aborted(site: Site) -> None:
    await site.work()
    await site.services.producer.enqueue("charge", {"name": "ada"}, family="shop", job_id="ada")
    page = await site.visit("/jobs/shop:ada")
    await expect(page.locator("#job-head .state")).to_have_text("active")
    await press(page.get_by_role("link", name="Abort …"))
    await press(page.get_by_role("dialog").get_by_role("button", name="Abort 1 job"))
    await expect(page.get_by_text("its worker was told to stop it")).to_be_visible()
    await expect(page.locator("#job-head .state")).to_have_text("aborted")


async def test_many_jobs_of_a_list(site: Site) -> None:
    for name in ("a", "b", "c"):
        await site.services.producer.enqueue("settle", family="shop", job_id=name, delay=600)
    page = await site.visit("/queues/shop?state=delayed")
    promote = page.get_by_role("button", name="Promote")
    await expect(promote).to_be_disabled()
    await page.get_by_label("Select shop:b").check()
    await expect(page.get_by_text("1 selected")).to_be_visible()
    await press(promote)
    await expect(page.get_by_text("shop:b: promoted")).to_be_visible()
    await press(page.get_by_label("Select all"))
    await expect(page.get_by_text("2 selected")).to_be_visible()
    await press(page.get_by_role("button", name="Priority …"))
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Priority").select_option("10")
    await press(dialog.get_by_role("button", name="Change"))
    await expect(page.get_by_text("2 jobs: changed")).to_be_visible()
    await press(page.get_by_label("Select all"))
    await press(page.get_by_role("button", name="Remove …"))
    await expect(dialog).to_contain_text("shop:a, shop:c")
    await press(dialog.get_by_role("button", name="Remove 2 jobs"))
    await expect(page.get_by_text("2 jobs: removed")).to_be_visible()
    await wait_for(site, "shop", delayed=0, waiting=1)


async def test_dead_letters_by_cause_are_sent_back_with_care_and_discarded(site: Site) -> None:
    await site.work()
    for n in range(5):
        await site.services.producer.enqueue("charge", {"name": "ada", "amount": n}, family="shop")
    await site.services.producer.enqueue("refuse", ["never"], family="shop")
    GATES["ada"].set()
    FAILURES["ada"] = "the bank said no"
    await wait_for(site, "shop", failed=6)
    page = await site.visit("/dead")
    dialog = page.get_by_role("dialog")
    await expect(page.locator("#dead-total")).to_have_text("6 in 2 groups")
    bank = page.get_by_role("article").filter(has_text="the bank said no")
    await expect(bank.locator(".big")).to_have_text("5")

    # The bug is still there: the canaries come back, the others stay.
    await press(bank.get_by_role("link", name="Retry …"))
    await expect(dialog.get_by_role("status")).to_have_text("Would be sent back: 5")
    await dialog.get_by_label("Canaries of each cause").fill("2")
    await press(dialog.get_by_role("button", name="Retry 5"))
    await expect(page.get_by_text("5 dead letters on their way back")).to_be_visible()
    await expect(page.locator("#redrives")).to_contain_text("came back")
    await expect(page.locator("#redrives")).to_contain_text("2 / 5")

    # It is mended: all go.
    del FAILURES["ada"]
    await (
        page.get_by_role("article")
        .filter(has_text="the bank said no")
        .get_by_role("link", name="PermanentError")
        .click()
    )
    await expect(page.get_by_text("Traceback of the newest one")).to_be_visible()
    await press(page.get_by_role("link", name="Retry 5 …"))
    await dialog.get_by_label("Jobs a second").fill("")
    await press(dialog.get_by_role("button", name="Retry 5"))
    await expect(page.get_by_text("5 dead letters on their way back")).to_be_visible()
    await wait_for(site, "shop", completed=5, failed=1)

    # That cause's page is gone with its last dead letter: what is left is told where all causes are.
    await expect(page.locator("#dead-total")).to_have_text("1 in 1 group")
    await press(page.get_by_role("link", name="Discard all …"))
    await expect(dialog.get_by_role("status")).to_have_text("Would be discarded: 1")
    await press(dialog.get_by_role("button", name="Discard 1"))
    await expect(page.get_by_text("Discarded 1 dead letter")).to_be_visible()
    await expect(page.locator("#groups")).to_contain_text("No dead letters")

    # One that comes while that is looked at can be answered without loading the page again.
    await expect(page.get_by_role("link", name="Retry all …")).to_have_count(0)
    await site.services.producer.enqueue("refuse", ["never"], family="shop")
    await expect(page.get_by_role("link", name="Retry all …")).to_be_visible()


async def test_a_redrive_is_stopped(site: Site) -> None:
    await site.work()
    FAILURES["ada"] = "the bank said no"
    for n in range(3):
        await site.services.producer.enqueue("charge", {"name": "ada", "amount": n}, family="shop")
    GATES["ada"].set()
    await wait_for(site, "shop", failed=3)
    GATES["ada"].clear()
    page = await site.visit("/dead")
    await press(page.get_by_role("link", name="Retry all …"))
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Canaries of each cause").fill("1")
    await press(dialog.get_by_role("button", name="Retry 3"))
    await expect(page.locator("#redrives")).to_contain_text("1 / 3")
    await press(page.get_by_role("button", name="Stop"))
    await expect(page.get_by_text("Stopped; 2 dead letters stay")).to_be_visible()
    await expect(page.locator("#redrives .state")).to_have_text("cancelled")
    await wait_for(site, "shop", failed=2, active=1)


async def test_what_is_encrypted_is_shown_to_an_admin_who_asks(site: Site) -> None:
    await site.services.producer.enqueue(Pay(owner="ada", number="4111 1111"), job_id="card", delay=600)
    page = await site.visit("/jobs/mail:card", role="operator")
    await expect(page.locator("#payload")).to_contain_text('"ada"')
    await expect(page.get_by_role("button", name="Reveal")).to_have_count(0)
    page = await site.visit("/jobs/mail:card")
    await expect(page.locator("#payload")).not_to_contain_text("4111")
    await press(page.get_by_role("button", name="Reveal"))
    await expect(page.get_by_text("Revealed to you, and written to the audit log.")).to_be_visible()
    await expect(page.locator("#payload")).to_contain_text("4111 1111")

    # It stays as it is: what was revealed once is not asked for again by itself.
    await expect(page.locator("#live")).to_contain_text("As of")
    assert await page.locator("body[data-watch]").count() == 0
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await press(page.get_by_role("button", name="Copy"))
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert "4111 1111" in await page.evaluate("navigator.clipboard.readText()")
    await press(page.get_by_role("link", name="Audit"))
    await expect(page.get_by_role("row").filter(has_text="job.reveal")).to_have_count(1)


async def test_a_flow_is_shown_as_a_tree(site: Site) -> None:
    await site.services.producer.enqueue_flow(
        node("settle", family="shop", job_id="top", children=[node("settle", family="mail", job_id="below")])
    )
    page = await site.visit("/jobs/shop:top")
    await expect(page.locator("#explain")).to_contain_text("It waits for its children mail:below")
    await press(page.locator("#flow").get_by_role("link", name="mail:below"))
    await expect(page.locator("#facts").get_by_role("link", name="shop:top")).to_be_visible()
    await site.work()
    await expect(page.locator("#job-head .state")).to_have_text("completed")


async def test_a_job_like_another_and_one_by_its_id(site: Site) -> None:
    await site.services.producer.enqueue(
        "charge", {"name": "ada", "amount": 3}, family="shop", job_id="one", tags=["x", "y"], group="anna", priority=2
    )
    page = await site.visit("/")
    await page.get_by_label("Find a job by its id").fill("shop:one")
    await page.keyboard.press("Enter")
    await press(page.get_by_role("link", name="Duplicate"))
    await expect(page.get_by_label("Tags")).to_have_value("x, y")
    await expect(page.get_by_label("Group")).to_have_value("anna")
    await page.get_by_label("Job id").fill("two")
    await press(page.get_by_role("button", name="Enqueue"))
    await expect(page.get_by_text("shop:two is enqueued")).to_be_visible()
    job = await site.services.inspector.job("shop:two")
    assert (job.payload, job.tags, job.group, job.priority) == ({"name": "ada", "amount": 3}, ["x", "y"], "anna", 2)
    await page.get_by_label("Find a job by its id").fill("shop:none")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("There is no job shop:none")).to_be_visible()
