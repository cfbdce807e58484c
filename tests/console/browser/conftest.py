"""A console with real workers and one Chromium for all browser tests of a process, in one event loop."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from daemon.archive.archiver import Archiver
from daemon.archive.database import Archive
from daemon.console.app import create_app
from daemon.console.pages.dashboard import Dashboard
from daemon.console.roles import Role
from daemon.console.services import Services
from daemon.console.settings import ConsoleSettings
from daemon.encryption import KeyRing, generate_key
from daemon.family import Family
from daemon.process.serving import serve
from handlers.integrations.database import Database
from tests.console.browser.shop import FAILURES, GATES, mail, shop
from tests.engine import working

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip
#: A machine may be busy with other tests, ms.
PATIENCE = 60_000
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}

expect.set_options(timeout=PATIENCE)


@dataclass
class Site:
    """A console to look at with a browser."""

    url: str
    services: Services
    browser: Browser
    stack: AsyncExitStack
    redis_url: str
    families: tuple[Family, ...]
    faults: list[str] = field(default_factory=list)

    async def visit(self, path: str = "/", role: Role | str = Role.ADMIN, **options: Any) -> Page:
        """Give a page of a browser of its own, which is logged in.

        Args:
            options: of the browser's context: ``viewport``, ``color_scheme``, ``java_script_enabled``.
        """
        context = await self.browser.new_context(**{"viewport": DESK, **options})
        self.stack.push_async_callback(context.close)
        session = await self.services.sessions.begin("ada", Role(role))
        await context.add_cookies([{"name": "arqd_session", "value": session, "url": self.url}])
        page = await context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.faults.append(f"{page.url}: {error}"))
        page.on("console", lambda said: self._note(page.url, said.type, said.text))
        await page.goto(self.url + path)
        return page

    def _note(self, url: str, kind: str, text: str) -> None:
        """What the content security policy forbids is told so; that an answer was a refusal is not a page's fault."""
        if kind == "error" and not text.startswith("Failed to load resource"):
            self.faults.append(f"{url}: {text}")

    async def work(self) -> None:
        """Start a worker, which ends with the test."""
        await self.stack.enter_async_context(working(self.redis_url, *self.families))


async def press(target: Locator) -> None:
    """Click something on a page that has loaded: before, its scripts may not listen yet."""
    await target.page.wait_for_load_state()
    await target.click()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """The browser."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium-headless-shell"), args=list(FLAGS), timeout=2 * PATIENCE
        )
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def site(chromium: Browser, redis_url: str, sqlite_template: Path, tmp_path: Path) -> AsyncIterator[Site]:
    """A console over an empty Valkey and an empty database; no page of it may have had a fault."""
    database = Database(f"sqlite:///{shutil.copyfile(sqlite_template, tmp_path / 'arqd.db')}")
    GATES.clear()
    FAILURES.clear()
    families = (shop(), mail())

    def archiver(redis: Any) -> Archiver:
        return Archiver(redis, [family.name for family in families], Archive(database))

    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    settings, keyring = ConsoleSettings(port=0), KeyRing.parse(generate_key("k"))
    async with (
        AsyncExitStack() as stack,
        Services.open(redis_url, settings, families, keyring=keyring, archiver=archiver) as services,
    ):
        serving = asyncio.create_task(
            serve(
                create_app(services, Dashboard()),
                name="the console",
                host="127.0.0.1",
                port=0,
                handle_signals=False,
                on_listening=listening.set_result,
                on_ending=services.live.close,
            )
        )
        found = Site(await listening, services, chromium, stack, redis_url, families)
        yield found
        for gate in GATES.values():
            gate.set()
        await stack.aclose()
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
    await database.close()
    assert found.faults == []
