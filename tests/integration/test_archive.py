"""The dead-letter archive: what failed is copied once, found again, sent back once, and never in clear."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from daemon.archive.archiver import LEASE, Archiver, keep_archive
from daemon.archive.database import LINES, Archive
from daemon.archive.letters import ArchivedLetter, ArchiveFilter
from daemon.archive.table import DEAD_LETTERS
from daemon.connecting.connections import connect
from daemon.context import JobContext
from daemon.control import Control
from daemon.encryption import MASK, KeyRing
from daemon.errors import ArchiveUnavailable, InvalidJob, JobNotFound, QueueFull
from daemon.inspecting.consistency import find_leaks
from daemon.job import JobState
from daemon.payload import Payload
from daemon.producer import Producer
from daemon.secret import Secret
from daemon.settings import load_settings
from handlers.integrations.database import Database
from tests.engine import calls, eventually, make_family, run_burst, until

WELL = False


class Pay(Payload, family="shop", function="pay"):
    order: int
    note: str = ""


class Charge(Pay, family="shop", function="charge"):
    card: Secret[str]


async def pay(ctx: JobContext, job: Pay) -> int:
    if not WELL:
        raise ValueError(f"order {job.order}: the till is shut\x00")
    return job.order


async def charge(ctx: JobContext, job: Charge) -> int:
    return await pay(ctx, job)


@pytest.fixture(autouse=True)
def shut() -> Any:
    global WELL
    WELL = False
    yield
    WELL = False


def shop(**more: Any) -> Any:
    return make_family("shop", pay, charge, max_tries=1, **more)


def keyring() -> KeyRing:
    return KeyRing.parse("k:" + base64.b64encode(secrets.token_bytes(32)).decode())


@pytest.fixture
async def archive(database: Database) -> Archive:
    return Archive(database)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    client = connect(redis_url)
    yield client
    await client.aclose()


async def fail(url: str, *orders: int, **more: Any) -> None:
    async with Producer.connect(url) as producer:
        for order in orders:
            await producer.enqueue(Pay(order=order, **more), job_id=f"o{order}", group=f"g{order}", priority=2)
    await run_burst(url, shop())


def of(redis: Any, archive: Archive, **more: Any) -> Archiver:
    return Archiver(redis, ["shop"], archive, **more)


async def forget(redis: Any) -> None:
    """Have Redis forget its dead letters, as their age makes it."""
    await redis.flushdb()


async def test_each_end_of_a_job_is_archived_once(redis_url: str, redis: Any, archive: Archive) -> None:
    await fail(redis_url, 1, 2, note="Grüße")
    assert (await of(redis, archive).run(dry_run=True)).archived == {"shop": 2}
    assert [(await of(redis, archive).run()).archived["shop"] for _ in range(2)] == [2, 0]
    # Its marks are lost, or its reply was: the table leaves out what it has.
    await redis.delete("{shop}:archived")
    assert (await of(redis, archive).run()).archived == {"shop": 0}
    letters, cursor = await archive.page()
    assert cursor is None
    assert sorted(letter.job_id for letter in letters) == ["shop:o1", "shop:o2"]
    one = next(letter for letter in letters if letter.job_id == "shop:o1")
    assert (one.queue, one.function, one.tries, one.error_type) == ("shop", "pay", 1, "ValueError")
    assert one.error == "order 1: the till is shut\N{REPLACEMENT CHARACTER}"
    assert "the till is shut" in one.traceback
    assert one.payload == {"order": 1, "note": "Grüße"}
    assert one.enqueued_at is not None
    assert timedelta(0) <= datetime.now(UTC) - one.failed_at < timedelta(minutes=5)
    assert (one.outcome, one.can_retry) == (None, True)
    assert await archive.get(one.id) == one
    with pytest.raises(JobNotFound):
        await archive.get(10**6)


async def test_what_is_secret_or_encrypted_is_not_archived_in_clear(
    redis_url: str, redis: Any, archive: Archive
) -> None:
    ring, card, note = keyring(), secrets.token_hex(8), secrets.token_hex(8)
    family = shop(encrypted=True)
    async with Producer.connect(redis_url, keyring=ring) as producer:
        await producer.enqueue(Charge(order=1, card=card, note=note), job_id="o1")
        await run_burst(redis_url, shop(), keyring=ring)
        await run_burst(redis_url, family, keyring=ring)
        await producer.enqueue(Charge(order=2, card=card, note=note), job_id="o2")
        await run_burst(redis_url, family, keyring=ring)
    assert (await of(redis, archive).run()).archived == {"shop": 2}
    stored: list[bytes] = []
    await archive.store(lambda name, data: keep(stored, data))
    async with archive.database.read() as connection:
        rows = [dict(row) for row in (await connection.execute(select(DEAD_LETTERS))).mappings()]
    told = repr(rows).encode() + b"".join(stored) + b"".join(row["record"] for row in rows)
    assert card.encode() not in told
    assert json.loads(rows[0]["payload"])["card"] == MASK
    whole = next(row for row in rows if row["job_id"] == "shop:o2")
    assert note not in repr(whole)
    assert (json.loads(whole["payload"]), whole["error"], whole["traceback"]) == (MASK, MASK, "")
    global WELL
    WELL = True
    await forget(redis)
    assert await of(redis, archive).retry() == {"retried": 2}
    await run_burst(redis_url, family, keyring=ring)
    async with Producer.connect(redis_url, keyring=ring) as producer:
        assert [await producer.job(f"shop:o{order}").result(30) for order in (1, 2)] == [1, 2]


async def keep(into: list[bytes], data: bytes) -> None:
    into.append(data)


async def test_a_letter_is_found(redis_url: str, redis: Any, archive: Archive) -> None:
    await fail(redis_url, *range(1, 6), note="50% _off_")
    await of(redis, archive).run()

    async def found(**where: Any) -> list[str]:
        return sorted(letter.job_id[-2:] for letter in (await archive.page(ArchiveFilter(**where)))[0])

    everything = [f"o{n}" for n in range(1, 6)]
    assert await found(text="ORDER 3") == ["o3"]
    assert await found(text="0% _off") == everything
    assert await found(text="0% xoff") == []
    assert await found(family="shop", function="pay", error="ValueError", outcome="none") == everything
    for nothing in ({"family": "x"}, {"function": "x"}, {"error": "x"}, {"cause": "0" * 10}, {"outcome": "retried"}):
        assert await found(**nothing) == []
    now = datetime.now(UTC)
    assert await found(since=now - timedelta(minutes=5), until=now + timedelta(minutes=5)) == everything
    assert await found(until=now - timedelta(minutes=5)) == []
    seen: list[ArchivedLetter] = []
    cursor = None
    while True:
        letters, cursor = await archive.page(limit=2, cursor=cursor)
        seen += letters
        if cursor is None:
            break
    assert sorted(letter.job_id[-2:] for letter in seen) == everything
    for wrong in ({"limit": 0}, {"cursor": "x"}):
        with pytest.raises(InvalidJob):
            await archive.page(**wrong)
    with pytest.raises(InvalidJob):
        ArchiveFilter(outcome="maybe")
    assert await archive.count() == 5


async def test_what_redis_has_forgotten_runs_again_once(redis_url: str, redis: Any, archive: Archive) -> None:
    global WELL
    await fail(redis_url, 1, 2, 3)
    await of(redis, archive).run()
    await forget(redis)
    WELL = True
    letters = {letter.job_id[-2:]: letter.id for letter in (await archive.page())[0]}
    assert await of(redis, archive).retry([letters["o1"], 10**6]) == {"retried": 1, "not_found": 1}
    async with Control.connect(redis_url, ["shop"]) as control:
        job = await control.inspector.job("shop:o1")
        assert (job.state, job.priority, job.group, job.payload["order"]) == (JobState.WAITING, 2, "g1", 1)
    await run_burst(redis_url, shop())
    assert await of(redis, archive).retry(list(letters.values())) == {"retried": 2, "retried_before": 1}
    await run_burst(redis_url, shop())
    await forget(redis)
    assert await of(redis, archive).retry() == {}
    assert await of(redis, archive).retry([letters["o1"]]) == {"retried_before": 1}


async def test_what_was_sent_back_or_discarded_in_redis_is_not_sent_again(
    redis_url: str, redis: Any, archive: Archive
) -> None:
    global WELL
    await fail(redis_url, 1, 2, 3, 4)
    await of(redis, archive).run()
    WELL = True
    async with Control.connect(redis_url, ["shop"]) as control:
        await control.retry(["shop:o1"])
        await control.discard(["shop:o2"])
        await control.remove(["shop:o3"])
    notes = await redis.smembers("{shop}:unarchived")
    assert sorted(note.split()[0] for note in notes) == [b"discarded", b"discarded", b"retried"]
    await run_burst(redis_url, shop())
    # One is a dead letter in Redis still: it is sent back there.
    assert await of(redis, archive).retry() == {"retried": 1}
    outcomes = {letter.job_id[-2:]: letter.outcome for letter in (await archive.page())[0]}
    assert outcomes == {"o1": "retried", "o2": "discarded", "o3": "discarded", "o4": "retried"}
    assert not await redis.exists("{shop}:unarchived")
    await run_burst(redis_url, shop())
    assert (await find_leaks(redis, shop())).leaks == []


async def test_a_job_that_fails_again_is_archived_again(redis_url: str, redis: Any, archive: Archive) -> None:
    await fail(redis_url, 1)
    await of(redis, archive).run()
    async with Control.connect(redis_url, ["shop"]) as control:
        await control.retry(["shop:o1"])
    await run_burst(redis_url, shop())
    assert (await of(redis, archive).run()).archived == {"shop": 1}
    assert [letter.outcome for letter in (await archive.page())[0]] == [None, "retried"]


async def test_lines_are_stored_once_and_alike(
    redis_url: str, redis: Any, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.archive.database.LINES", 2)
    assert LINES == 1000
    await fail(redis_url, *range(1, 6))
    objects: dict[str, bytes] = {}
    failing = 2

    async def put(name: str, data: bytes) -> None:
        nonlocal failing
        assert objects.setdefault(name, data) == data
        if len(objects) == failing:
            failing = 0
            raise OSError("the store is away")

    archiver = of(redis, archive, put=put)
    with pytest.raises(OSError, match="away"):
        await archiver.run()
    passed = await archiver.run()
    assert (passed.archived, passed.stored) == ({"shop": 0}, 3)
    assert (await archiver.run()).stored == 0
    lines = [json.loads(line) for data in objects.values() for line in data.splitlines()]
    assert sorted(line["job_id"] for line in lines) == [f"shop:o{n}" for n in range(1, 6)]
    assert len(objects) == 3
    assert lines[0]["error_type"] == "ValueError"
    letters, _ = await archive.page()
    assert {letter.object for letter in letters} == objects.keys()


async def test_what_is_too_old_is_removed_once_it_is_stored(redis_url: str, redis: Any, archive: Archive) -> None:
    await fail(redis_url, 1, 2)
    await of(redis, archive).run()
    async with archive.database.begin() as connection:
        old = datetime.now(UTC) - timedelta(days=40)
        await connection.execute(update(DEAD_LETTERS).where(DEAD_LETTERS.c.job_id == "shop:o1").values(failed_at=old))
    assert await archive.forget(datetime.now(UTC) - timedelta(days=30), stored=True) == 0
    assert (await of(redis, archive, keep=30 * 86400).run()).removed == 1
    assert [letter.job_id for letter in (await archive.page())[0]] == ["shop:o2"]


async def test_a_budget_evicts_dead_letters_only_when_they_are_archived(
    redis_url: str, redis: Any, archive: Archive
) -> None:
    family = shop(max_bytes="60kB", max_events=0)
    async with Producer.connect(redis_url) as producer:
        await run_burst(redis_url, family)
        for order in range(12):
            await producer.enqueue(Pay(order=order, note="x" * 3000), job_id=f"o{order}")
        await run_burst(redis_url, family)
        dead = await redis.zcard("{shop}:dead")
        assert dead == 12
        more = [Pay(order=order, note="x" * 3000) for order in range(12, 40)]
        with pytest.raises(QueueFull):
            await producer.enqueue_many(more)
        assert await redis.zcard("{shop}:dead") == 12
        await run_burst(redis_url, family)
        dead = await redis.zcard("{shop}:dead")
        await of(redis, archive).run()
        for order in range(50, 55):
            await producer.enqueue(Pay(order=order, note="x" * 3000), job_id=f"o{order}")
        left = {job_id.decode() for job_id in await redis.zrange("{shop}:dead", 0, -1)}
        assert 0 < len(left) < dead
        # The oldest went, and all that went is in the archive.
        assert "{shop}:o0" not in left
        assert await archive.count() == dead
    await run_burst(redis_url, family)
    assert (await find_leaks(redis, family)).leaks == []


async def test_without_news_a_pass_is_two_looks(redis_url: str, redis: Any, archive: Archive) -> None:
    await fail(redis_url, 1)
    await of(redis, archive).run()
    before = calls(redis_url, "zrange", "mget")
    await of(redis, archive).run()
    assert calls(redis_url, "zrange", "mget") == before


async def test_the_duty_passes_and_waits_for_its_database(
    redis_url: str, redis: Any, database_url: str, archive: Archive, tmp_path: Path
) -> None:
    environ = {
        "ARQD_DATABASE_URL": database_url,
        "ARQD_ARCHIVE__EVERY": "1s",
        "ARQD_ARCHIVE__OBJECTS": "true",
        "ARQD_OBJECT_STORE_URL": f"file://{tmp_path}/store",
    }
    settings = load_settings(environ).model_copy(update={"families": {"shop": "shop:WorkerSettings"}})
    await fail(redis_url, 1)
    await redis.set(LEASE, "1", px=200)
    task = asyncio.create_task(keep_archive(settings, redis_url, check=0.02))
    await eventually(lambda: archive.count())
    await fail(redis_url, 2)

    async def two() -> bool:
        return await archive.count() == 2

    await eventually(two)
    lines: list[str] = []

    def stored() -> bool:
        lines[:] = [line for path in tmp_path.rglob("*.ndjson") for line in path.read_text("utf-8").splitlines()]
        return len(lines) == 2

    await until(stored)
    assert sorted(json.loads(line)["job_id"] for line in lines) == ["shop:o1", "shop:o2"]
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_database_without_the_table_is_told(tmp_path: Any, redis: Any, redis_url: str) -> None:
    database = Database(f"sqlite:///{tmp_path / 'new.db'}")
    await fail(redis_url, 1)
    with pytest.raises(ArchiveUnavailable, match="arqd_dead_letters"):
        await Archiver(redis, ["shop"], Archive(database)).run()
    assert not await redis.exists("{shop}:archived")
    await database.close()
