"""publish_post on Mastodon and Bluesky: at its time, with its files, once; on both databases."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from daemon.errors import ConfigurationError, RetryAfter
from handlers.social import drivers, mastodon
from handlers.social.drivers import driver
from handlers.social.payloads import PublishPost
from handlers.social.posts import PostRow
from handlers.social.tasks import OtherPost
from tests.handlers.social.conftest import NETWORKS, Square
from tests.handlers.social.networks import told

networks = pytest.mark.parametrize("network", NETWORKS)
names = (f"job-{number}" for number in itertools.count())
#: What the network does with a call that publishes, and what happens before a try.
WORDS = st.sampled_from(["ok", "429", "500", "500-done", "cut", "cut-done"])
EVENTS = st.sampled_from(["", "", "crash", "two hours"])
several = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@networks
async def test_published_once_however_often_it_runs(square: Square, network: str) -> None:
    server = square.servers[network]
    first = (await square.run(square.post(network, language="en"))).value()
    assert (first.existed, first.network) == (False, network)
    assert first.id
    assert first.url
    again = (await square.run(square.post(network, language="en"))).value()
    assert (again.id, again.existed) == (first.id, True)
    assert len(server.posts) == 1
    # Another job with the same words is another post; one with the same key is the same one.
    await square.run(square.post(network), "other")
    for job_id in ("a", "b"):
        await square.run(square.post(network, text="Keyed", idempotency_key="k1"), job_id)
    assert len(server.posts) == 3
    run = await square.run(square.post(network, text="Otherwise", idempotency_key="k1"), "c")
    assert isinstance(run.error, OtherPost)
    assert run.ending == "failed"


@pytest.mark.parametrize(
    "text",
    ["Thanks @bob@other.example, and cafe\u0301 @ada@b.example!", "a\n\nb <i>c</i>", "see https://example.com/@a"],
)
async def test_a_post_is_found_again_by_what_a_server_makes_of_it(square: Square, text: str) -> None:
    """The answer was lost, and the key is forgotten: sent again it would stand there twice."""
    server = square.servers["mastodon"]
    server.script = ["cut-done"]
    job = square.post("mastodon", text=text)
    assert (await square.run(job)).ending == "retried"
    await square.age(2)
    found = (await square.run(job, tries=1)).value()
    assert [post["id"] for post in server.posts] == [found.id]


@networks
async def test_two_at_once_are_one_post(square: Square, network: str) -> None:
    job = square.post(network, idempotency_key="k")
    runs = await asyncio.gather(*(square.run(job, f"job-{number}") for number in range(5)))
    assert len({run.value().id for run in runs}) == 1
    assert len(square.servers[network].posts) == 1


@networks
async def test_not_before_its_time(square: Square, network: str) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=10)
    run = await square.run(square.post(network, publish_at=soon))
    assert (run.ending, run.retry_in) == ("told_to_wait", pytest.approx(600, abs=5))
    assert isinstance(run.error, RetryAfter)
    assert run.error.scope == "job"
    assert square.servers[network].requests == []
    run = await square.run(square.post(network, publish_at=soon - timedelta(hours=1)))
    assert run.ending == "completed"


@networks
async def test_files_are_uploaded_once(square: Square, network: str) -> None:
    server = square.servers[network]
    for name in ("one.jpg", "two.jpg"):
        (square.folder / name).write_bytes(f"picture {name}".encode())
    media = [{"path": "one.jpg", "alt": "The first"}, {"path": "two.jpg", "type": "image/png"}]
    server.script = ["cut"]
    job = square.post(network, media=media)
    assert (await square.run(job)).ending == "retried"
    assert (await square.run(job, tries=1)).ending == "completed"
    assert len(server.uploads) == 2
    assert b"picture one.jpg" in server.uploads[0]
    (post,) = server.posts
    if network == "mastodon":
        assert b"The first" in server.uploads[0]
        assert post["media_attachments"] == [{"id": "1"}, {"id": "2"}]
    else:
        images = post["embed"]["images"]
        assert [image["alt"] for image in images] == ["The first", ""]
        assert images[1]["image"]["mimeType"] == "image/png"


@networks
@pytest.mark.parametrize("sent", [False, True])
async def test_files_of_a_post_that_comes_back_after_days_are_uploaded_anew(
    square: Square, network: str, sent: bool
) -> None:
    server = square.servers[network]
    (square.folder / "one.jpg").write_bytes(b"picture one")
    media = [{"path": "one.jpg"}] if sent else [{"path": "one.jpg"}, {"path": "two.jpg"}]
    server.script = ["500"] if sent else []
    job = square.post(network, media=media)
    assert (await square.run(job)).ending != "completed"
    assert len(server.uploads) == 1
    (square.folder / "two.jpg").write_bytes(b"picture two")
    await square.age(48, "opened_at", "sent_at")
    server.script = []
    assert (await square.run(job)).ending == "completed"
    assert len(server.uploads) == 1 + len(media)
    (post,) = server.posts
    if network == "mastodon":
        assert [each["id"] for each in post["media_attachments"]] == [str(2 + n) for n in range(len(media))]


@networks
async def test_a_post_is_not_sent_without_the_files_another_try_uploads_anew(
    square: Square, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (square.folder / "one.jpg").write_bytes(b"picture one")
    job, posts = square.post(network, media=[{"path": "one.jpg"}]), square.service.posts
    send = posts.send

    async def interrupted(row: PostRow) -> PostRow:
        await posts.forget_files(row)
        return await send(row)

    with monkeypatch.context() as patched:
        patched.setattr(posts, "send", interrupted)
        assert isinstance((await square.run(job)).error, RetryAfter)
    assert square.servers[network].posts == []
    assert (await square.run(job)).ending == "completed"
    assert len(square.servers[network].uploads) == 2


async def test_media_that_are_converted_first(square: Square, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mastodon, "LOOK_EVERY", 0.01)
    (square.folder / "one.mp4").write_bytes(b"film")
    square.servers["mastodon"].converting = 3  # type: ignore[attr-defined]
    media = [{"path": "one.mp4", "type": "video/mp4"}]
    assert (await square.run(square.post("mastodon", media=media))).ending == "completed"


async def test_a_file_that_must_not_be_read(square: Square) -> None:
    for source in ({"path": "../arqd.db"}, {"url": "http://127.0.0.1:9/picture"}):
        run = await square.run(square.post("mastodon", media=[source]))
        assert (run.ending, run.reason) == ("failed", "permanent")
    assert square.servers["mastodon"].posts == []


async def test_links_on_bluesky(square: Square) -> None:
    await square.run(square.post("bluesky", text="Für dich: https://example.com/a?b=1, jetzt"))
    (facet,) = square.servers["bluesky"].posts[0]["facets"]
    text = square.servers["bluesky"].posts[0]["text"].encode()
    index = facet["index"]
    assert text[index["byteStart"] : index["byteEnd"]] == b"https://example.com/a?b=1"
    assert facet["features"][0]["uri"] == "https://example.com/a?b=1"


@networks
async def test_a_network_that_says_to_wait(square: Square, network: str) -> None:
    server = square.servers[network]
    server.script = ["429"]
    run = await square.run(square.post(network))
    assert isinstance(run.error, RetryAfter)
    assert run.error.scope == "group"
    assert run.error.seconds == pytest.approx(30, abs=3)
    await square.run(square.collecting(network))
    server.answers = [told({"error": "later"}, 429, retry_after="9")]
    run = await square.run(square.post(network))
    assert isinstance(run.error, RetryAfter)
    assert run.error.seconds == 9


@networks
async def test_what_is_refused_for_good(square: Square, network: str) -> None:
    for job in (square.post(network, account_id="nobody"), square.post("pigeon", account_id=network)):
        run = await square.run(job)
        assert (run.ending, run.reason) == ("failed", "permanent")
        assert "ARQD_SOCIAL__ACCOUNTS" in str(run.error)
    square.servers[network].token = "another"
    run = await square.run(square.post(network))
    assert (run.ending, run.reason) == ("failed", "permanent")


@pytest.mark.timeout(480)
@networks
@several
@given(words=st.lists(WORDS, max_size=4), events=st.lists(EVENTS, min_size=3, max_size=3))
async def test_no_post_stands_twice(square: Square, network: str, words: list[str], events: list[str]) -> None:
    """Random sequences of what a network does and what happens to the worker."""
    server, name = square.servers[network], next(names)
    # Texts that are alike, with what HTML changes.
    job = square.post(network, text=f"<b>Tickets & more</b>\n\nfor {name}\nhttps://example.com/{name}")
    server.script = list(words)
    tries = crashes = 0
    for event in [*events, "two hours", "", ""]:
        if event == "crash":
            crashes += 1
        elif event == "two hours":
            await square.age(2)
        run = await square.run(job, name, tries=min(tries, 3), crashes=crashes)
        tries += run.ending == "retried"
        texts = [post for post in server.posts if name in str(post)]
        assert len(texts) <= 1, (words, events)
        if run.ending == "completed":
            assert len(texts) == 1
    server.script = []
    assert (await square.run(job, name)).ending == "completed"
    assert len([post for post in server.posts if name in str(post)]) == 1


def test_a_driver_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "_drivers", {})

    def pigeon(http: Any, account: Any) -> Any:
        return None

    driver("pigeon")(pigeon)
    driver("pigeon")(pigeon)
    with pytest.raises(ConfigurationError, match="two drivers"):
        driver("pigeon")(lambda http, account: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigurationError, match="cannot be imported"):
        drivers.load_drivers(("no.such_module",))


@pytest.mark.parametrize(
    "fields",
    [
        {"text": ""},
        {"network": "Mastodon"},
        {"publish_at": "2030-01-01T00:00:00"},
        {"media": [{}]},
        {"media": [{"url": "a", "path": "b"}]},
        {"media": [{"path": "b", "type": "text/html"}]},
        {"media": [{"path": "b"}] * 5},
        {"language": "English"},
        {"more": 1},
    ],
)
def test_bad_payloads(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PublishPost.model_validate({"network": "mastodon", "account_id": "acme", "text": "Hello"} | fields)
