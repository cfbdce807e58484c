"""Every page at desktop and phone size, in both themes: fits, is readable, can be used by keys and without scripts."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from playwright.async_api import Page, expect

from daemon import dead_letters
from tests.console.browser.conftest import DESK, PHONE, Site, press
from tests.console.browser.shop import GATES
from tests.console.browser.test_queue_actions import wait_for

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(480)]

#: Texts with too little contrast to what is behind them (WCAG 2.2, AA); what is disabled may have less.
FAINT = """() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  const painted = (colours) => {
    brush.clearRect(0, 0, 1, 1);
    for (const colour of colours) { brush.fillStyle = colour; brush.fillRect(0, 0, 1, 1); }
    return [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.data.trim();
    if (!text || !element.checkVisibility() || element.closest("svg, :disabled, .hidden-text, option")) continue;
    const behind = [];
    for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
    const style = getComputedStyle(element);
    const [a, b] = [light(painted(behind)), light(painted([...behind, style.color]))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) found.add(`${element.className}: ${ratio.toFixed(2)} ${text.slice(0, 30)}`);
  }
  return [...found];
}"""

#: Controls that are wider than their place.
STICKING_OUT = """() => [...document.querySelectorAll(".field > *")].filter((each) =>
  each.getBoundingClientRect().right > each.parentElement.getBoundingClientRect().right + 1).map((each) => each.id)"""


async def readable(page: Page) -> None:
    """Texts have enough contrast in both themes."""
    for theme in ("light", "dark"):
        await page.emulate_media(color_scheme=theme)
        assert await page.evaluate(FAINT) == [], theme


async def fill(site: Site) -> list[str]:
    """Put something into every page; gives their addresses."""
    producer = site.services.producer
    await site.services.schedules.add("nightly", "settle", family="mail", cron="0 2 * * *")
    await site.work()
    for n in range(3):
        await producer.enqueue("refuse", [f"no {n}"], family="shop", tags=["vip"])
        await producer.enqueue("settle", family="shop")
        await producer.enqueue("settle", family="shop", delay=600)
    await producer.enqueue("charge", {"name": "ada"}, family="shop", job_id="ada")
    await producer.enqueue("settle", family="mail", job_id="done")
    await wait_for(site, "shop", failed=3, completed=3, delayed=3, active=1)
    await site.services.control.pause("mail")
    assert site.services.archiver is not None
    await site.services.archiver.run()
    dead = await site.services.inspector.jobs("shop", "failed")
    (group,) = await dead_letters.groups(site.services.inspector, "shop")
    return [
        "/", "/?span=14d", "/queues/shop?state=failed", "/queues/shop?state=active",
        "/queues/shop?state=completed&since=2h",
        "/jobs/shop:ada", f"/jobs/{quote(dead[0].id)}", "/jobs/mail:done", "/dead", f"/dead/{group.id}", "/dead/retry",
        "/dead/archive",
        "/schedules", "/schedules/add", "/workers", "/audit", "/enqueue", "/queues/shop/limits", "/queues/shop/clean",
        "/confirm/priority?id=shop:ada", "/jobs/shop:unknown", f"/jobs/shop:{'W' * 200}",
    ]  # fmt: skip


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_every_page_fits_and_has_contrast(site: Site, theme: str) -> None:
    paths = await fill(site)
    page = await site.visit(color_scheme=theme)
    for path in [*paths, "/login"]:
        if path == "/login":
            await page.context.clear_cookies()
        await page.goto(site.url + path)
        assert await page.evaluate(FAINT) == [], path
        for size in (DESK, PHONE):
            await page.set_viewport_size(size)
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= size["width"], f"{path} is {width} wide on {size['width']}"
            assert await page.evaluate(STICKING_OUT) == [], f"{path} on {size['width']}"
    await page.evaluate("document.querySelector('h1').style.color = '#808080'")
    assert len(await page.evaluate(FAINT)) == 1


async def test_the_theme_is_chosen_and_kept(site: Site) -> None:
    page = await site.visit(color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(background)

    async def kept() -> str | None:
        cookies = await page.context.cookies()
        return next((cookie["value"] for cookie in cookies if cookie["name"] == "arqd_theme"), None)

    for theme in ("light", "dark"):
        await press(page.get_by_role("button", name="Switch theme"))
        await expect(page.locator("html")).to_have_attribute("data-theme", theme)
        # Two that are on their way at once may be answered in any order.
        while await kept() != theme:
            await page.wait_for_timeout(20)
    dark = await page.evaluate(background)
    assert dark != light
    await expect(page.get_by_role("button", name="Switch theme (now dark)")).to_be_visible()
    await page.reload()
    assert await page.evaluate(background) == dark
    await press(page.get_by_role("button", name="Switch theme"))
    await expect(page.locator("html")).not_to_have_attribute("data-theme", "dark")


async def test_everything_is_reached_by_keys(site: Site) -> None:
    await site.services.producer.enqueue("settle", family="shop", delay=600)
    page = await site.visit("/queues/shop?state=delayed")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#main")).to_be_focused()
    await page.keyboard.press("/")
    await expect(page.get_by_label("Find a job by its id")).to_be_focused()
    seen = await tabbed(page)
    wanted = await page.locator(
        "a[href]:visible, button:enabled:visible, summary:visible, input:visible, select:visible"
    ).count()
    assert len(seen) >= wanted, seen

    # A menu, a dialog that keeps the keys, and back to where one was.
    menu = page.get_by_text("More", exact=True)
    await menu.focus()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Retry failed jobs …")).to_be_focused()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Clean shop?")
    await expect(dialog).to_be_visible()
    for _ in range(12):
        await page.keyboard.press("Tab")
        assert await page.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    await expect(menu).to_be_focused()


async def tabbed(page: Page) -> list[str]:
    """Go once through everything the Tab key reaches; it is always to be seen where one is."""
    await page.reload()
    await page.keyboard.press("Tab")
    seen: list[str] = []
    for _ in range(150):
        where = await page.evaluate(
            """() => { const e = document.activeElement; if (e === document.body) return null;
            e.dataset.seen = (Number(e.dataset.seen) || 0) + 1;
            if (e.dataset.seen > 1) return null;
            const style = getComputedStyle(e);
            const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
            return `${e.tagName} ${e.textContent.trim().slice(0, 20)} ${ring}`; }"""
        )
        if where is None and len(seen) > 3:
            break
        if where is not None:
            assert where.endswith("true"), f"it cannot be seen that {where} has the focus"
            seen.append(where)
        await page.keyboard.press("Tab")
    return seen


async def test_without_scripts_pages_show_and_forms_post(site: Site) -> None:
    for name in ("a", "b"):
        await site.services.producer.enqueue("settle", family="shop", job_id=name, delay=600)
    page = await site.visit("/queues/shop?state=delayed", java_script_enabled=False)
    await expect(page.locator("#live")).to_contain_text("As of")
    await press(page.get_by_role("button", name="Pause"))
    await expect(page.get_by_text("shop is paused")).to_be_visible()
    await page.get_by_label("Select shop:a").check()
    await page.get_by_label("Select shop:b").check()
    await press(page.get_by_role("button", name="Remove …"))
    await expect(page.get_by_role("heading", name="Remove 2 jobs?")).to_be_visible()
    await press(page.get_by_role("button", name="Remove 2 jobs"))
    await expect(page.get_by_text("2 jobs: removed")).to_be_visible()
    await press(page.get_by_text("More", exact=True))
    await press(page.get_by_role("link", name="Clear …"))
    await expect(page.get_by_role("status").filter(has_text="Would be removed")).to_have_text("Would be removed: 0")
    await press(page.get_by_role("link", name="Cancel"))
    await press(page.get_by_role("button", name="Switch theme"))
    await expect(page.locator("html")).to_have_attribute("data-theme", "light")
    await press(page.get_by_role("button", name="Sign out"))
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


async def test_a_viewer_sees_everything_and_can_change_nothing(site: Site) -> None:
    paths = await fill(site)
    page = await site.visit("/", role="viewer")
    for path in [*paths[:10], "/schedules", "/workers"]:
        await page.goto(site.url + path)
        assert (
            await page.locator("main form[method=post] button, main [data-dialog], main input[type=checkbox]").count()
            == 0
        ), path
        assert await page.locator("main h1").count() == 1
    assert (
        await page.locator("nav a", has_text="Audit").count()
        == await page.locator("nav a", has_text="Enqueue").count()
        == 0
    )
    await page.goto(f"{site.url}/enqueue")
    await expect(page.get_by_text("needs the role operator")).to_be_visible()
    GATES["ada"].set()
