"""Whatever stands in a job is text: payloads, errors, ids, tags, groups, notes, log lines, functions, schedules."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from playwright.async_api import Page, expect

from daemon import dead_letters
from daemon.context import JobContext
from daemon.errors import PermanentError
from tests.console.browser.conftest import PATIENCE, Site, press
from tests.engine import eventually, make_family, working

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(480)]

NASTY = "\"'></textarea></pre><img src=x onerror=alert(1)><script>alert(2)</script><b>{{ 7 * 7 }}</b>&lt;"

#: A schedule's name has no blanks.
NASTY_NAME = "<img/src=x/onerror=alert(1)>"


async def spell(ctx: JobContext, words: dict[str, str]) -> None:
    await ctx.log(NASTY)
    await ctx.progress(40, NASTY)
    raise PermanentError(NASTY)


async def harmless(page: Page) -> None:
    """Nothing of it has become an element."""
    assert await page.locator("img, main b:text-is('49'), script:not([src]), [onerror]").count() == 0
    assert "{{ 7 * 7 }}" in (await page.locator("body").inner_text())


async def test_markup_in_a_job_is_text_on_every_page(site: Site) -> None:
    # What runs here is not what the console knows of the family: its functions may be called anything.
    spelled = {"job_id": NASTY, "tags": [NASTY], "group": NASTY[:100]}
    await site.services.producer.enqueue(NASTY, {NASTY: NASTY}, family="mail", delay=600, **spelled)
    await site.services.producer.enqueue("spell", [{NASTY: NASTY}], family="shop", **spelled)
    await site.services.schedules.add(NASTY_NAME, NASTY, {NASTY: NASTY}, family="mail", cron="0 0 1 1 *")
    await site.services.producer.enqueue_each([(("spell", [{}]), {"tags": [NASTY]})], family="shop")
    family = make_family("shop", spell, max_tries=1, search="payload")

    async def failed() -> bool:
        return (await site.services.inspector.queue("shop")).failed == 2

    async with working(site.redis_url, family):
        await eventually(failed, PATIENCE / 1000)
    (group,) = await dead_letters.groups(site.services.inspector, "shop")
    page = await site.visit(f"/jobs/{_quoted(f'shop:{NASTY}')}")
    await expect(page.get_by_role("heading", level=1)).to_have_text(f"shop:{NASTY}")
    await expect(page.get_by_label("Traceback")).to_contain_text(NASTY)
    await expect(page.get_by_role("log")).to_contain_text(NASTY)
    await harmless(page)
    for path in (
        "/queues/shop?state=failed",
        f"/queues/mail?state=delayed&function={_quoted(NASTY)}&tag={_quoted(NASTY)}",
        f"/dead/{group.id}",
        "/schedules",
        f"/confirm/remove?id={_quoted(f'shop:{NASTY}')}",
        f"/jobs/{_quoted(NASTY)}",
    ):
        await page.goto(site.url + path)
        await harmless(page)
    await page.goto(f"{site.url}/schedules/remove?name={_quoted(f'mail:{NASTY_NAME}')}")
    await expect(page.get_by_role("heading", level=1)).to_have_text(f"Remove mail:{NASTY_NAME}?")
    await page.goto(f"{site.url}/audit?who={_quoted(NASTY)}")
    await expect(page.get_by_label("Who")).to_have_value(NASTY)
    await page.goto(f"{site.url}/enqueue?like={_quoted(f'mail:{NASTY}')}")
    await expect(page.get_by_label("Payload (JSON)")).to_have_value(json.dumps({NASTY: NASTY}, indent=2))
    assert await page.locator("img").count() == 0

    # What was done to it is told, too, and the log of that can be read.
    await page.goto(f"{site.url}/jobs/{_quoted(f'shop:{NASTY}')}")
    await press(page.get_by_role("button", name="Retry"))
    await expect(page.locator(".notice.ok")).to_have_text(f"shop:{NASTY}: retried")
    await harmless(page)
    await page.goto(f"{site.url}/audit")
    await expect(page.get_by_role("row").filter(has_text="job.retry")).to_contain_text(NASTY)
    await harmless(page)


def _quoted(text: str) -> str:
    return quote(text, safe="")
