"""Signing in, by a token or a link; and what a page does whose session has ended."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Route, expect

from daemon.console.roles import Role
from tests.console.browser.conftest import Site, press

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(480)]


async def test_signing_in_with_a_token(site: Site) -> None:
    _, token = await site.services.tokens.add("ops", "operator")
    page = await site.visit("/queues/shop?state=failed")
    await page.context.clear_cookies()
    await page.goto(f"{site.url}/queues/shop?state=failed")
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    await page.get_by_label("API token").fill("wrong")
    await press(page.get_by_role("button", name="Sign in"))
    await expect(page.get_by_role("alert")).to_contain_text("no token in force")
    await page.get_by_label("API token").fill(token)
    await press(page.get_by_role("button", name="Sign in"))
    await expect(page.get_by_text("ops · operator")).to_be_visible()


async def test_a_link_signs_in_once(site: Site) -> None:
    page = await site.visit()
    await page.context.clear_cookies()
    link = f"{site.url}/login/{await site.services.sessions.make_link('bob', Role.VIEWER)}"
    await page.goto(link)
    await expect(page.get_by_text("bob · viewer")).to_be_visible()
    await press(page.get_by_role("button", name="Sign out"))
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    await page.goto(link)
    await expect(page.get_by_role("alert")).to_contain_text("This link has been used")


async def test_a_page_whose_session_has_ended_leads_to_the_login_at_once(site: Site) -> None:
    page = await site.visit()
    # What it does regularly would lead there, too, later.
    await page.add_init_script("window.setInterval = () => 0")
    ended = asyncio.Event()

    async def listen(route: Route) -> None:
        await ended.wait()
        await route.continue_()

    await page.route("**/changes?*", listen)
    await page.goto(f"{site.url}/queues/shop?state=waiting")
    (session,) = [each["value"] for each in await page.context.cookies() if each["name"] == "arqd_session"]
    await site.services.sessions.end(session)
    ended.set()
    await page.wait_for_url("**/login?next=%2Fqueues%2Fshop")
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
