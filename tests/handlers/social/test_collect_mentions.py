"""collect_mentions on Mastodon and Bluesky: each once, from a cursor, with limits honoured; on both databases."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from daemon.errors import RetryAfter
from tests.handlers.receiver import Answer, Request
from tests.handlers.social.conftest import NETWORKS, Square
from tests.handlers.social.networks import told

networks = pytest.mark.parametrize("network", NETWORKS)


@networks
async def test_each_is_found_once(square: Square, network: str) -> None:
    server = square.servers[network]
    server.page = 3
    start = datetime.now(UTC) - timedelta(hours=1)
    for number in range(8):
        server.mention(f"@acme hello & {number}", start + timedelta(minutes=number))
    assert (await square.run(square.collecting(network))).value().found == 8
    assert [row.text for row in await square.mentions()] == [f"@acme hello & {number}" for number in range(8)]
    (row, *_) = await square.mentions()
    assert row.author.startswith("ada")
    assert row.at == (start.replace(microsecond=start.microsecond // 1000 * 1000))
    assert row.url.startswith("https://")
    asked = len(server.requests)
    assert (await square.run(square.collecting(network))).value().found == 0
    assert len(server.requests) == asked + 1
    server.mention("@acme once more")
    assert (await square.run(square.collecting(network))).value().found == 1
    assert len(await square.mentions()) == 9


@networks
@pytest.mark.parametrize("query", ["#tickets", "concert tickets"])
async def test_a_query_has_a_cursor_of_its_own(square: Square, network: str, query: str) -> None:
    square.servers[network].mention("concert #tickets")
    for wanted in (query, None):
        assert (await square.run(square.collecting(network, query=wanted))).value().found == 1
    assert (await square.run(square.collecting(network, query=query))).value().found == 0


@networks
async def test_nothing_older(square: Square, network: str) -> None:
    now = datetime.now(UTC)
    for hours in (50, 1):
        square.servers[network].mention(f"{hours}", now - timedelta(hours=hours))
    run = await square.run(square.collecting(network, since=now - timedelta(days=1)))
    assert run.value().found == 1
    assert [row.text for row in await square.mentions()] == ["1"]


async def test_what_is_older_is_not_even_asked_for(square: Square) -> None:
    """Bluesky gives the newest first: the first time would else go through all there ever was, at each try anew."""
    server, now = square.servers["bluesky"], datetime.now(UTC)
    server.page = 2
    for hours in range(40):
        server.mention(f"{hours}", now - timedelta(hours=hours))
    assert (await square.run(square.collecting("bluesky", since=now - timedelta(hours=2.5)))).value().found == 3
    assert sum("listNotifications" in request.path for request in server.requests) == 2


@networks
async def test_a_limit_in_the_middle(square: Square, network: str) -> None:
    """What was found stays, and the next try finds the rest, each once."""
    server = square.servers[network]
    server.page = 2
    start = datetime.now(UTC) - timedelta(hours=1)
    for number in range(6):
        server.mention(f"{number}", start + timedelta(minutes=number))
    usual, pages = server.answer, 0

    def limited(request: object) -> object:
        nonlocal pages
        pages += "createSession" not in request.path  # type: ignore[attr-defined]
        return told({}, 429, retry_after="5") if pages == 3 else usual(request)  # type: ignore[arg-type]

    server.answer = limited  # type: ignore[method-assign, assignment]
    run = await square.run(square.collecting(network))
    assert isinstance(run.error, RetryAfter)
    assert (run.error.seconds, run.error.scope) == (5, "group")
    assert len(await square.mentions()) == 4
    assert (await square.run(square.collecting(network))).value().found == 2
    assert sorted(row.text for row in await square.mentions()) == [str(number) for number in range(6)]


@networks
async def test_what_no_database_keeps(square: Square, network: str) -> None:
    """Anybody can write it: it must not keep the account from what stands behind it."""
    square.servers[network].mention("before \x00 behind")
    square.servers[network].mention("half \ud83d of a pair")
    assert (await square.run(square.collecting(network))).value().found == 2
    assert sorted(row.text for row in await square.mentions()) == ["before \ufffd behind", "half ? of a pair"]


async def test_a_link_that_is_none_is_not_kept(square: Square) -> None:
    """Another server names it, and an app makes a link of it."""
    server = square.servers["mastodon"]
    links = ("javascript:alert(1)", "data:text/html,x", "https://other.example/1")
    for number, link in enumerate(links):
        server.mention(f"{number}")
        server.mentions[-1]["status"]["url"] = link
    assert (await square.run(square.collecting("mastodon"))).value().found == 3
    assert {row.text: row.url for row in await square.mentions()} == {"0": None, "1": None, "2": links[2]}


async def test_a_search_that_gives_the_last_one_again_and_again(square: Square) -> None:
    server = square.servers["mastodon"]
    server.mention("concert tickets")
    usual, asked = server.answer, 0

    def repeating(request: Request) -> Answer:
        nonlocal asked
        asked += 1
        if asked > 5:
            return told({"error": "enough"}, 500)
        return usual(replace(request, path=re.sub(r"min_id=\d+", "min_id=0", request.path)))

    server.answer = repeating  # type: ignore[method-assign]
    assert (await square.run(square.collecting("mastodon", query="concert tickets"))).value().found == 1
    assert asked == 2
