"""The console where families are on several servers of which one is gone and one hangs: the others are seen."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from daemon.archive.letters import ALL
from daemon.console.live import Away, Place
from daemon.console.pages.dashboard import Dashboard
from daemon.servers import Servers
from handlers.integrations.database import Database
from tests.away import FAMILIES, near_gone_stuck
from tests.console.support import API, Console, console, served
from tests.engine import make_family, working
from tests.servers import RedisServer, looking_at

WHY = "it cannot be asked: its server does not answer"
AWAY = [{"family": family, "error": WHY} for family in ("gone", "stuck")]


async def double(ctx: object, n: int) -> int:
    return 2 * n


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with near_gone_stuck(lambda: tmp_path_factory.mktemp("valkey")) as found:
        yield found


@pytest.fixture
async def site(
    url: Servers, monkeypatch: pytest.MonkeyPatch, sqlite_template: Path, tmp_path: Path
) -> AsyncIterator[Console]:
    monkeypatch.setattr("daemon.inspector.ANSWER_SECONDS", 3.0)
    with looking_at(url.default) as client:
        client.flushall()
    database = Database(f"sqlite:///{shutil.copyfile(sqlite_template, tmp_path / 'arqd.db')}")
    families = [make_family(family, double) for family in FAMILIES]
    console_of_all = console(url, *families, pages=Dashboard(), database=database)
    async with working(url, *families[1:3]), console_of_all as found:
        job = await found.services.producer.enqueue("double", [1], family="near", job_id="one")
        await job.result(timeout=60)
        yield found
    await database.close()


async def test_queues_and_workers(site: Console) -> None:
    client = await site.of("viewer")
    near, other, *away = sorted((await client.get(f"{API}/queues")).json(), key=lambda each: "error" in each)
    assert (near["stats"]["family"], near["stats"]["completed"], other["stats"]["family"]) == ("near", 1, "other")
    assert away == AWAY
    found = (await client.get(f"{API}/workers")).json()
    assert [each["family"] for each in found] == ["near", "other", "gone", "stuck"]
    assert found[2:] == AWAY
    # Of one family there is nothing else to tell.
    assert (await client.get(f"{API}/queues/gone")).status_code == 503


async def test_health_is_degraded(site: Console) -> None:
    answer = await (await site.of("viewer")).get(f"{API}/health")
    assert (answer.status_code, answer.json()["status"], answer.json()["completed"]) == (200, "degraded", 1)
    assert [
        (each["family"], each["status"], each["reasons"], each["waiting"]) for each in answer.json()["details"]
    ] == [
        ("gone", "down", [WHY], None),
        ("stuck", "down", [WHY], None),
    ]
    assert (await site.anyone.get(f"{API}/health")).json() == {"status": "degraded"}


async def test_health_is_down_where_no_server_answers(url: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.inspector.ANSWER_SECONDS", 0.5)
    async with console(url, *(make_family(family, double) for family in ("gone", "stuck"))) as found:
        answer = await found.anyone.get(f"{API}/health")
        assert (answer.status_code, answer.json()) == (503, {"status": "down"})
        assert (await (await found.of("admin")).get(f"{API}/queues")).status_code == 503


async def test_pages(site: Console) -> None:
    browser, _ = await site.browser()
    for path in ("/", "/workers", "/queues/near?state=completed", "/schedules"):
        page = await browser.get(path)
        assert page.status_code == 200, (path, page.text)
        side = page.text.partition('id="side-queues"')[2].partition("</ul>")[0]
        assert side.count(">away</span>") == 2
    overview = (await browser.get("/")).text
    assert overview.count(f"</a>: {WHY}") == 2
    rows = overview.partition('<tbody id="queues"')[2].partition("</tbody>")[0].split("<tr>")[1:]
    assert [row.count("cannot be asked") > 0 for row in rows] == [False, False, True, True]
    workers = (await browser.get("/workers")).text
    assert "Workers of gone, stuck are not shown" in workers
    assert "near" in workers.partition("<main")[2]
    page = await browser.get("/queues/gone")
    assert (page.status_code, "The queue gone cannot be asked" in page.text) == (503, True)


async def test_what_happens_elsewhere_is_told(site: Console) -> None:
    await site.of("viewer")
    _, token = await site.services.tokens.add("reader", "viewer")
    headers = {"authorization": f"Bearer {token}"}
    told: dict[str, str] = {}
    async with served(site) as client, client.stream("GET", f"{API}/events?counts=true", headers=headers) as stream:
        assert stream.status_code == 200
        lines = stream.aiter_lines()
        async with asyncio.timeout(60):
            await site.services.producer.enqueue("double", [1], family="near")
            while not told.keys() >= {"queues", "completed"}:
                line = await anext(lines)
                if line.startswith("event: "):
                    told[line.removeprefix("event: ")] = (await anext(lines)).removeprefix("data: ")
    assert [each for each in json.loads(told["queues"]) if "error" in each] == AWAY
    assert json.loads(told["completed"])["family"] == "near"


async def test_a_stream_that_goes_on_tells_of_the_others_and_later_of_what_was_away(site: Console) -> None:
    _, token = await site.services.tokens.add("goer", "viewer")
    # It begins behind an event of long ago.
    headers = {"authorization": f"Bearer {token}", "last-event-id": "1"}
    told: dict[str, str] = {}
    async with served(site) as client, client.stream("GET", f"{API}/events", headers=headers) as stream:
        assert stream.status_code == 200
        lines = stream.aiter_lines()
        async with asyncio.timeout(60):
            while not (told.keys() >= {"away", "completed"} and len(json.loads(told["away"])) == 2):
                line = await anext(lines)
                if line.startswith("event: "):
                    told[line.removeprefix("event: ")] = (await anext(lines)).removeprefix("data: ")
    assert json.loads(told["away"]) == AWAY
    assert json.loads(told["completed"])["family"] == "near"


async def test_what_happened_before_is_told_once_its_server_is_back(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.console.live.AGAIN_SECONDS", 0.1)
    near, far = (RedisServer(tmp_path_factory.mktemp("valkey")).start() for _ in range(2))
    try:
        url = Servers(near.url, {"far": far.url})
        families = [make_family(family, double) for family in ("far", "near")]
        async with console(url, *families) as found, asyncio.timeout(120):
            live, producer = found.services.live, found.services.producer
            for n in range(3):
                await producer.enqueue("double", [n], family="far", job_id=f"{n}")
            far.pause()
            seen: list[tuple[str, str]] = []
            away: list[set[str]] = []
            async with live.stream(live.families, Place(1)) as told:
                async for each in told:
                    if isinstance(each, Away):
                        away.append(set(each.families))
                        if away == [{"far"}]:
                            await producer.enqueue("double", [1], family="near", job_id="n")
                    elif isinstance(each, tuple):
                        seen.append((each[0].kind, each[0].id))
                        if each[0].id == "near:n":
                            far.resume()
                            await producer.enqueue("double", [9], family="far", job_id="3")
                        if each[0].id == "far:3":
                            break
            assert away[0] == {"far"}
            assert seen == [("enqueued", "near:n"), *(("enqueued", f"far:{n}") for n in range(4))]
    finally:
        near.kill()
        far.kill()


async def test_dead_letters(site: Console) -> None:
    client = await site.of("viewer")
    await site.services.producer.enqueue("double", ["a", "b"], family="near", job_id="bad", max_tries=1)
    async with asyncio.timeout(60):
        while not (await client.get(f"{API}/dead?family=near")).json()["jobs"]:
            await asyncio.sleep(0.05)
    group, *rest = (await client.get(f"{API}/dead/groups")).json()
    assert (group["family"], rest) == ("near", AWAY)
    found = (await client.get(f"{API}/dead")).json()
    assert ([job["family"] for job in found["jobs"]], found["away"]) == (["near"], AWAY)
    # A group is found wherever it is, while others cannot be asked.
    assert len((await client.get(f"{API}/dead?cause={group['id']}")).json()["jobs"]) == 1
    assert (await client.get(f"{API}/dead?cause=0123456789")).status_code == 503
    browser, _ = await site.browser()
    page = await browser.get("/dead")
    assert (page.status_code, "Dead letters of gone, stuck are not shown" in page.text) == (200, True)


async def bury(site: Console) -> None:
    """Leave a dead letter in the family that is near."""
    await site.services.producer.enqueue("double", ["a", "b"], family="near", job_id="bad", max_tries=1)
    async with asyncio.timeout(60):
        while not (await site.services.inspector.queue("near")).failed:
            await asyncio.sleep(0.05)


async def test_dead_letters_of_all_families_are_sent_back_and_discarded_where_it_can_be_done(site: Console) -> None:
    client = await site.of("operator")
    await bury(site)
    for path, done in (("retry", "retried"), ("discard", "discarded")):
        counted = await client.post(f"{API}/dead/{path}", json={"dry_run": True})
        assert (counted.status_code, counted.json()["away"]) == (207, AWAY), counted.text
        assert counted.json()["families"] == {"near": {done: 1}, "other": {done: 0}}
        assert (await client.post(f"{API}/dead/{path}", json={"family": "gone"})).status_code == 503
    await client.post(f"{API}/queues/near/pause")
    answer = await client.post(f"{API}/dead/retry", json={})
    assert (answer.status_code, answer.json()["away"]) == (207, AWAY)
    assert answer.json()["families"] == {"near": {"retried": 1}, "other": {"retried": 0}}
    assert (await client.get(f"{API}/jobs/near:bad")).json()["state"] == "waiting"
    await client.post(f"{API}/queues/near/resume")
    await bury(site)
    begun = await client.post(f"{API}/dead/retry", json={"canaries": 1, "patience": 30})
    assert (begun.status_code, [each["family"] for each in begun.json()["redrives"]]) == (207, ["near"])
    assert begun.json()["away"] == AWAY
    async with asyncio.timeout(60):
        while (await client.get(f"{API}/dead/redrives")).json()[0]["state"] == "running":
            await asyncio.sleep(0.05)
    answer = await client.post(f"{API}/dead/discard", json={})
    assert (answer.status_code, answer.json()["away"]) == (207, AWAY)
    assert answer.json()["families"] == {"near": {"discarded": 1}, "other": {"discarded": 0}}
    # What was not done stands in the audit log, too.
    entries = (await client.get(f"{API}/audit?action=dead.discard")).json()["entries"]
    assert sorted((each["target"], each["outcome"]) for each in entries) == [
        ("gone", "failed"), ("gone", "failed"), ("near", "done"), ("other", "done"), ("stuck", "failed"),
    ]  # fmt: skip


async def test_dead_letters_of_all_families_are_archived_where_it_can_be_done(site: Console) -> None:
    client = await site.of("operator")
    await bury(site)
    for dry_run in (True, False):
        answer = await client.post(f"{API}/dead/archive", json={"dry_run": dry_run})
        assert (answer.status_code, answer.json()["away"]) == (207, AWAY), answer.text
        assert answer.json()["archived"] == {"near": 1, "other": 0}
    assert [each["job_id"] for each in (await client.get(f"{API}/dead/archive")).json()["letters"]] == ["near:bad"]
    assert (await client.post(f"{API}/dead/archive", json={"family": "gone"})).status_code == 503
    _, entry = (await client.get(f"{API}/audit?action=dead.archive")).json()["entries"]
    assert (entry["outcome"], entry["detail"]) == ("done", {"archived": 1, "away": ["gone", "stuck"]})
    browser, token = await site.browser()
    assert (await browser.post("/dead/archive", data={"csrf": token})).status_code == 303
    assert "of gone, stuck nothing is known: they cannot be asked" in (await browser.get("/dead/archive")).text


async def test_letters_of_the_archive_are_sent_back_where_it_can_be_done(site: Console) -> None:
    client = await site.of("operator")
    await bury(site)
    await client.post(f"{API}/dead/archive", json={})
    archive = site.services.archiver.archive
    (row,) = await archive.rows(ALL)
    number = row.pop("id")
    await archive.add([row | {"queue": "gone", "job_id": "gone:bad"}])
    (gone,) = (await client.get(f"{API}/dead/archive?family=gone")).json()["letters"]
    for dry_run in (True, False):
        asked = {"numbers": [number, gone["id"]], "dry_run": dry_run}
        answer = await client.post(f"{API}/dead/archive/retry", json=asked)
        assert (answer.status_code, answer.json().get("outcomes")) == (200, {"retried": 1, "away": 1}), answer.text
    # It is still to be sent back.
    assert (await archive.get(gone["id"])).outcome is None
    browser, token = await site.browser()
    data = {"csrf": token, "number": str(gone["id"])}
    await browser.post("/dead/archive/retry", data=data)
    assert "its server, one of several, cannot be asked" in (await browser.get("/dead/archive")).text


async def test_every_queue_that_can_be_asked_is_paused_and_drained(site: Console) -> None:
    client = await site.of("operator")
    for path, state in (("pause", True), ("pause", False), ("resume", True)):
        answer = await client.post(f"{API}/queues/{path}")
        assert answer.status_code == 207, answer.text
        assert answer.json() == {"gone": None, "near": state, "other": state, "stuck": None}
    await site.services.producer.enqueue("double", [1], family="near", delay=3600)
    answer = await client.post(f"{API}/queues/drain")
    assert (answer.status_code, answer.json()["away"]) == (207, AWAY)
    assert answer.json()["families"] == {"near": {"drained": 1}, "other": {"drained": 0}}
    answer = await client.post(f"{API}/queues/clean")
    assert (answer.status_code, answer.json()["away"]) == (207, AWAY)
    assert answer.json()["families"] == {"near": {"completed": 1}, "other": {"completed": 0}}


async def test_pages_that_act_on_all_name_what_was_left_out(site: Console) -> None:
    browser, token = await site.browser()
    await bury(site)
    left = "gone, stuck nothing is known: they cannot be asked"
    for path in ("/queues/*/drain", "/dead/retry", "/dead/discard"):
        page = await browser.get(path)
        assert (page.status_code, left in page.text) == (200, True), path
    for path in ("/queues/*/pause", "/queues/*/resume", "/queues/*/drain", "/dead/discard"):
        assert (await browser.post(path, data={"csrf": token})).status_code == 303
        assert left in (await browser.get("/workers")).text, path


async def test_nothing_is_done_where_no_server_answers(url: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.inspector.ANSWER_SECONDS", 0.5)
    async with console(url, *(make_family(family, double) for family in ("gone", "stuck"))) as found:
        client = await found.of("operator")
        for path in ("/queues/pause", "/queues/drain", "/dead/retry", "/dead/discard"):
            assert (await client.post(API + path, json={} if path != "/queues/pause" else None)).status_code == 503
