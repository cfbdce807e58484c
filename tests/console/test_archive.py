"""The dead-letter archive through the console: API and page, on a database."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.console.pages.dashboard import Dashboard
from daemon.console.roles import Role
from handlers.integrations.database import Database
from tests.asking import FUNCTIONS
from tests.console.support import API, Console, console
from tests.engine import make_family, run_burst

NASTY = "<script>alert(1)</script>"


@pytest.fixture
async def site(redis_url: str, sqlite_template: Path, tmp_path: Path) -> AsyncIterator[Console]:
    """A console with an archive, and two dead letters."""
    database = Database(f"sqlite:///{shutil.copyfile(sqlite_template, tmp_path / 'arqd.db')}")
    family = make_family("t", *FUNCTIONS, max_tries=1)
    async with console(redis_url, family, pages=Dashboard(), database=database) as found:
        for n, text in enumerate(("no tea", NASTY)):
            await found.services.producer.enqueue("ask", {"question": "why", "fail": text}, family="t", job_id=f"j{n}")
        await run_burst(redis_url, family)
        yield found
    await database.close()


async def test_what_is_archived_is_found_and_runs_again(site: Console) -> None:
    client = await site.of("operator")
    body = {"family": "t", "dry_run": True}
    assert (await client.post(f"{API}/dead/archive", json=body)).json() == {
        "archived": {"t": 2}, "stored": 0, "removed": 0, "away": [],
    }  # fmt: skip
    assert (await client.get(f"{API}/dead/archive")).json()["letters"] == []
    assert (await client.post(f"{API}/dead/archive", json={})).json()["archived"] == {"t": 2}
    page = (await client.get(f"{API}/dead/archive", params={"q": "TEA", "limit": 1})).json()
    (letter,) = page["letters"]
    assert (letter["job_id"], letter["error"], page["cursor"], page["available"]) == ("t:j0", "no tea", None, True)
    assert (await client.get(f"{API}/dead/archive/{letter['id']}")).json() == letter
    assert (await client.get(f"{API}/dead/archive/999")).status_code == 404
    await site.services.control.discard(["t:j0"])
    again = {"numbers": [letter["id"]]}
    counted = (
        await client.post(f"{API}/dead/archive/retry", json={"numbers": [letter["id"], 999], "dry_run": True})
    ).json()
    assert counted == {"dry_run": True, "outcomes": {"retried": 1, "not_found": 1}}
    outcomes = [(await client.post(f"{API}/dead/archive/retry", json=again)).json()["outcomes"] for _ in range(2)]
    assert outcomes == [{"retried": 1}, {"retried_before": 1}]
    counted = (await client.post(f"{API}/dead/archive/retry", json=again | {"dry_run": True})).json()
    assert counted == {"dry_run": True, "outcomes": {"retried_before": 1}}
    assert (await site.services.inspector.job("t:j0")).state == "waiting"
    every = {"family": "t", "dry_run": True}
    assert (await client.post(f"{API}/dead/archive/retry", json=every)).json()["outcomes"] == {"retried": 1}
    assert (await client.post(f"{API}/dead/archive/retry", json={"family": "t"})).json()["outcomes"] == {"retried": 1}
    entries = (await site.services.audit.page()).entries
    assert [(entry.action, entry.target, entry.outcome) for entry in entries] == [
        ("dead.restore", "t", "done"), ("dead.restore", "1 of the archive", "refused"),
        ("dead.restore", "1 of the archive", "done"), ("dead.archive", "*", "done"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body"),
    [("/dead/archive/retry", {"numbers": [1], "family": "t"}), ("/dead/archive/retry", {"numbers": [2**60]}),
     ("/dead/archive/retry", {"since": "soon"}), ("/dead/archive", {"families": "t"})],
)  # fmt: skip
async def test_a_wrong_request_changes_nothing(site: Console, path: str, body: dict[str, object]) -> None:
    assert (await (await site.of("operator")).post(API + path, json=body)).status_code == 422
    assert (await site.services.audit.page()).entries == []


async def test_the_page_shows_searches_and_sends_back(site: Console) -> None:
    client, token = await site.browser(Role.OPERATOR)
    assert "Nothing is archived yet" in (await client.get("/dead/archive")).text
    assert (await client.post("/dead/archive", data={"csrf": token})).status_code == 303
    page = (await client.get("/dead/archive")).text
    assert "Archived 2 dead letters" in page
    assert NASTY not in page
    assert page.count("tiny") >= 2
    assert "No dead letter fits" in (await client.get("/dead/archive?q=nothing")).text
    assert "Write a time with its zone" in (await client.get("/dead/archive?since=soon")).text.replace("write", "Write")
    assert (await client.post("/dead/archive/retry", data={"number": "1", "csrf": token})).status_code == 303
    assert "It runs again" in (await client.get("/dead/archive")).text
    await client.post("/dead/archive/retry", data={"number": "1", "csrf": token})
    assert "it was sent back before" in (await client.get("/dead/archive")).text
    viewer, _ = await site.browser(Role.VIEWER)
    assert ">Retry<" not in (await viewer.get("/dead/archive")).text


async def test_without_a_database_it_says_so(redis_url: str) -> None:
    async with console(redis_url, pages=Dashboard()) as found:
        client = await found.of("operator")
        assert (await client.get(f"{API}/dead/archive")).json() == {"letters": [], "cursor": None, "available": False}
        for path in ("/dead/archive", "/dead/archive/retry"):
            answer = await client.post(API + path, json={})
            assert (answer.status_code, "ARQD_DATABASE_URL" in answer.json()["detail"]) == (503, True)
        browser, _ = await found.browser()
        assert "There is no archive" in (await browser.get("/dead/archive")).text


async def test_a_database_that_is_away_is_told_without_its_address(redis_url: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret-host"
    database = Database(f"sqlite:///{secret}/arqd.db")
    async with console(redis_url, pages=Dashboard(), database=database) as site:
        client = await site.of("operator")
        for answer in (
            await client.get(f"{API}/dead/archive"),
            await client.post(f"{API}/dead/archive/retry", json={"numbers": [1]}),
            await client.get("/dead/archive"),
            await client.post("/dead/archive/retry", data={"number": "1"}, follow_redirects=True),
        ):
            assert "database cannot be used" in answer.text
            assert "unable to open" not in answer.text
        (entry, *_) = (await site.services.audit.page()).entries
        assert (entry.action, entry.outcome) == ("dead.restore", "refused")
    await database.close()
