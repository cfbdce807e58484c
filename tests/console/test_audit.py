"""The audit log: a chain in which every change shows."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daemon.connecting.connections import connect
from daemon.console.audit import Audit, AuditFilter, Doing, _hash
from daemon.console.roles import Actor, Role
from daemon.errors import ArqdError, JobStateError
from tests.conftest import RedisServerFactory
from tests.console.support import API, console

ADA = Actor("ada", Role.ADMIN, "token", "192.0.2.1")
BOB = Actor("bob", Role.OPERATOR, "jwt", "192.0.2.2")
LOG, HEAD = "{arqd:audit}:log", "{arqd:audit}:head"


async def written(redis: Any, count: int, **options: Any) -> Audit:
    audit = Audit(redis, **options)
    for number in range(count):
        await audit.append(Doing(BOB if number % 2 else ADA, f"queue.{number % 3}", f"t{number}"))
    return audit


@pytest.fixture
async def redis(redis_url: str) -> Any:
    client = connect(redis_url)
    yield client
    await client.aclose()


async def test_a_whole_log_verifies(redis: Any) -> None:
    assert (await Audit(redis).verify()).faults == []
    audit = await written(redis, 7)
    verdict = await audit.verify()
    assert (verdict.entries, verdict.number, verdict.faults) == (7, 7, [])
    (last,) = (await audit.page(limit=1)).entries
    assert (await audit.verify({7: last.hash})).faults == []


def changed(raw: bytes, **fields: Any) -> str:
    return json.dumps({**json.loads(raw), **fields}, sort_keys=True, separators=(",", ":"))


async def test_every_kind_of_tampering_shows(redis: Any) -> None:
    audit = await written(redis, 6)
    whole, head = await redis.lrange(LOG, 0, -1), await redis.hgetall(HEAD)

    async def faults(log: list[Any], **ends: Any) -> list[str]:
        await redis.delete(LOG, HEAD)
        if log:
            await redis.rpush(LOG, *log)
        await redis.hset(HEAD, mapping={**head, **{name.encode(): value for name, value in ends.items()}})
        return (await audit.verify()).faults

    assert await faults(whole) == []
    another = changed(whole[2], actor="eve")
    assert await faults([*whole[:2], another, *whole[3:]]) == ["entry 3 was changed"]
    assert "entry 3 is missing: 4 stands in its place" in await faults([*whole[:2], *whole[3:]])
    assert await faults(whole[:-2]) == ["entries 5 to 6 are missing at the end"]
    assert "entry 1 is missing: 2 stands in its place" in await faults(whole[1:])
    assert await faults([]) == ["entries 1 to 6 are missing at the end"]
    assert "entry 2 cannot be read" in await faults([whole[0], b"{", *whole[2:]])
    swapped = await faults([whole[0], whole[2], whole[1], *whole[3:]])
    assert "entry 2 is missing: 3 stands in its place" in swapped
    # Its own hash fits the change, but the next entry names the old one.
    kept = json.loads(another)
    refreshed = changed(whole[2], actor="eve", hash=_hash(kept))
    assert await faults([*whole[:2], refreshed, *whole[3:]]) == ["entry 4 does not follow the one before it"]
    assert await faults(whole, hash="0" * 64) == [f"the log does not end with the hash it should, {'0' * 64}"]


async def test_a_chain_made_anew_is_found_by_what_was_noted(redis: Any) -> None:
    noted = (await (await written(redis, 3)).page(limit=1)).entries[0]
    await redis.delete(LOG, HEAD)
    audit = await written(redis, 3)
    assert (await audit.verify()).faults == []
    assert (await audit.verify({3: noted.hash})).faults == ["entry 3 is not the one that was noted"]
    assert (await audit.verify({9: noted.hash})).faults == ["entry 9 is not there, and was noted"]


async def test_the_oldest_go_and_the_rest_still_verifies(redis: Any) -> None:
    audit = await written(redis, 250, most=100)
    assert 90 <= await redis.llen(LOG) <= 100
    verdict = await audit.verify()
    assert (verdict.number, verdict.faults) == (250, [])
    assert verdict.entries == await redis.llen(LOG)
    page = await audit.page(limit=500)
    assert [entry.number for entry in page.entries] == list(range(250, 250 - verdict.entries, -1))
    assert page.cursor is None


async def test_several_processes_write_one_chain(redis: Any) -> None:
    audits = [Audit(redis) for _ in range(4)]
    await asyncio.gather(*(audit.append(Doing(ADA, "queue.pause", f"{n}")) for audit in audits for n in range(25)))
    verdict = await audits[0].verify()
    assert (verdict.entries, verdict.faults) == (100, [])


async def test_pages_and_filters(redis: Any) -> None:
    audit = await written(redis, 30)
    seen, cursor = [], None
    while True:
        page = await audit.page(cursor=cursor, limit=7)
        seen += [entry.number for entry in page.entries]
        cursor = page.cursor
        if cursor is None:
            break
        # What comes meanwhile changes no page.
        await audit.append(Doing(ADA, "later", ""))
    assert seen == list(range(30, 0, -1))
    where = AuditFilter(actor="ada", action="queue.")
    assert len((await audit.page(where)).entries) == 15
    assert [e.target for e in (await audit.page(AuditFilter(target="t7"))).entries] == ["t7"]
    hour = timedelta(hours=1)
    assert (await audit.page(AuditFilter(since=datetime.now(UTC) + hour))).entries == []
    assert len((await audit.page(AuditFilter(until=datetime.now(UTC) + hour))).entries) == 34
    assert (await audit.page(AuditFilter(outcome="refused"))).entries == []
    for wrong in ({"limit": 0}, {"cursor": "x"}):
        with pytest.raises(ArqdError):
            await audit.page(**wrong)  # type: ignore[arg-type]


async def test_outcomes_are_those_of_the_block(redis: Any) -> None:
    audit = Audit(redis)
    with pytest.raises(JobStateError):
        async with audit.record(ADA, "queue.drain", "t"):
            raise JobStateError("not now")
    with pytest.raises(ZeroDivisionError):
        async with audit.record(ADA, "queue.drain", "t"):
            _ = 1 / 0
    async with audit.record(ADA, "queue.drain", "t", state=None, count=2) as doing:
        doing.detail["result"] = {"drained": 3}
    done, failed, refused = (await audit.page()).entries
    assert (refused.outcome, refused.detail) == ("refused", {"error": "not now"})
    assert (failed.outcome, failed.detail) == ("failed", {"error": "ZeroDivisionError"})
    assert (done.outcome, done.detail) == ("done", {"count": 2, "result": {"drained": 3}})


async def test_a_full_redis_leaves_the_entry_in_the_log_of_the_process(
    redis_server: RedisServerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    server = redis_server()
    async with console(server.url) as found:
        client = await found.of("operator")
        with server.client() as full:
            full.config_set("maxmemory", 1)
        answer = await client.post(f"{API}/queues/t/drain")
        assert answer.status_code == 200
        assert '"action":"queue.drain"' in caplog.text
        with server.client() as full:
            full.config_set("maxmemory", 0)
        assert (await found.services.audit.verify()).entries == 0


async def test_each_entry_is_logged(redis: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "arqd.audit")
    audit = await written(redis, 1)
    (record,) = caplog.records
    (entry,) = (await audit.page()).entries
    assert vars(record)["audit"]["hash"] == entry.hash


async def test_the_api_filters_and_pages(redis_url: str) -> None:
    async with console(redis_url) as found:
        client = await found.of("operator")
        for act in ("pause", "resume", "pause"):
            await client.post(f"{API}/queues/t/{act}")
        url = f"{API}/audit"
        page = (await client.get(url, params={"limit": 2})).json()
        assert [e["action"] for e in page["entries"]] == ["queue.pause", "queue.resume"]
        rest = (await client.get(url, params={"cursor": page["cursor"]})).json()
        assert ([e["number"] for e in rest["entries"]], rest["cursor"]) == ([1], None)
        found_them = (await client.get(url, params={"action": "queue.resume", "since": "1h"})).json()["entries"]
        assert [e["number"] for e in found_them] == [2]
        for wrong in ({"cursor": "x"}, {"since": "noon"}, {"limit": 0}):
            assert (await client.get(url, params=wrong)).status_code == 422
