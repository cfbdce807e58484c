"""The maintenance family's functions, on both databases and a real Valkey."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from daemon.connecting.connections import connect
from daemon.console.audit import Audit
from daemon.context import JobContext
from daemon.errors import ConfigurationError
from daemon.family import load_family
from daemon.payload import Payload
from daemon.producer import Producer
from daemon.settings import load_settings
from daemon.testing.handlers import HandlerRun, run_handler
from handlers.integrations.database import Database
from handlers.maintenance.payloads import AGES, CleanJobs, Cleanup, WarmCache
from handlers.maintenance.tasks import clean_jobs, cleanup, warm_cache
from handlers.maintenance.worker import WorkerSettings, close_maintenance, open_maintenance
from tests.engine import make_family, run_burst

FUNCTIONS = {"cleanup": cleanup, "warm_cache": warm_cache, "clean_jobs": clean_jobs}
Run = Callable[..., Any]
#: How often the source was asked, and what it waits for.
ASKED: list[str] = []
GATE = asyncio.Event()


async def prices(ctx: JobContext) -> dict[str, Any]:
    ASKED.append(ctx.job_id)
    await GATE.wait()
    return {"tea": 3, "n": len(ASKED)}


def broken(ctx: JobContext) -> None:
    raise LookupError("no prices")


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    global GATE
    ASKED.clear()
    GATE = asyncio.Event()
    GATE.set()
    client = connect(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def run(redis: Any) -> AsyncIterator[Run]:
    """Run a job with settings; what was opened is closed afterwards."""
    opened: list[dict[Any, Any]] = []

    async def run(job: Payload, job_id: str = "job", **environ: str) -> HandlerRun:
        ctx: dict[Any, Any] = {"settings": load_settings({f"ARQD_{name}": value for name, value in environ.items()})}
        opened.append(ctx)
        await open_maintenance(ctx)
        function = FUNCTIONS[job.__job__.function]
        return await run_handler(function, job, settings=WorkerSettings, ctx=ctx, redis=redis, job_id=job_id)

    yield run
    for ctx in opened:
        await close_maintenance(ctx)


SOURCES = {
    "MAINTENANCE__SOURCES__PRICES": f"{__name__}:prices", "MAINTENANCE__SOURCES__BROKEN": f"{__name__}:broken",
}  # fmt: skip


async def test_files_below_allowed_folders(run: Run, redis: Any, tmp_path: Path) -> None:
    for name in ("shop/a.tmp", "shop/in/b.tmp", "other/c.tmp", "elsewhere/d.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
        os.utime(tmp_path / name, (time.time() - 90_000,) * 2)
    roots = {"MAINTENANCE__TEMP_ROOTS": f"{tmp_path}/shop,{tmp_path}/other"}
    dry = await run(Cleanup(target_type="temp_files", dry_run=True), **roots)
    assert (dry.result.deleted_count, dry.result.freed_bytes, dry.result.dry_run) == (3, 15, True)
    assert (await Audit(redis, 100).page()).entries == []
    refused = await run(Cleanup(target_type="temp_files", path=f"{tmp_path}/elsewhere"), **roots)
    assert (refused.ending, refused.reason) == ("failed", "permanent")
    assert (await run(Cleanup(target_type="old_logs", path="x"), **roots)).reason == "permanent"
    part = await run(Cleanup(target_type="temp_files", path=f"{tmp_path}/shop/in", pattern="*.tmp"), **roots)
    assert part.result.deleted_count == 1
    young = await run(Cleanup(target_type="temp_files", older_than="2d"), **roots)
    assert young.result.deleted_count == 0
    rest = await run(Cleanup(target_type="temp_files"), **roots)
    assert (rest.result.deleted_count, rest.result.freed_bytes) == (2, 10)
    assert (tmp_path / "elsewhere" / "d.tmp").exists()
    skipped = await run(Cleanup(target_type="old_logs"), **roots)
    assert (skipped.result.deleted_count, "LOG_ROOTS" in skipped.result.skipped) == (0, True)
    entries = (await Audit(redis, 100).page()).entries
    assert [(e.action, e.target, e.outcome) for e in entries][:2] == [
        ("maintenance.cleanup", "old_logs", "done"), ("maintenance.cleanup", "temp_files", "done"),
    ]  # fmt: skip
    assert (entries[1].actor, entries[1].detail["deleted"], entries[1].detail["freed"]) == ("maintenance", 2, 10)
    assert sum(entry.outcome == "failed" for entry in entries) == 2


async def test_a_folder_that_is_missing_keeps_no_other_from_being_cleaned(run: Run, tmp_path: Path) -> None:
    old = tmp_path / "shop" / "a.tmp"
    old.parent.mkdir()
    old.write_bytes(b"12345")
    os.utime(old, (time.time() - 90_000,) * 2)
    done = await run(Cleanup(target_type="temp_files"), MAINTENANCE__TEMP_ROOTS=f"{tmp_path}/gone,{tmp_path}/shop")
    assert done.ending == "failed"
    assert f"{tmp_path}/gone: No such file" in str(done.error)
    assert not old.exists()


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"VAR_DIR": "{root}/shop/var"}, "what arqd keeps (ARQD_VAR_DIR)"),
        ({"VAR_DIR": "{root}/shop"}, "what arqd keeps (ARQD_VAR_DIR)"),
        ({"OBJECT_STORE_URL": "file://{root}/shop/my%20objects"}, "the object store (ARQD_OBJECT_STORE_URL)"),
        ({"OBJECT_STORE_URL": "file://{root}/link"}, "the object store (ARQD_OBJECT_STORE_URL)"),
        ({"DATABASE_URL": "sqlite:///{root}/shop/data/a.db"}, "the database (ARQD_DATABASE_URL)"),
        ({"EXPORTS__DATABASE_URL": "sqlite:///{root}/shop/b.db"}, "the database (ARQD_EXPORTS__DATABASE_URL)"),
        ({"EXPORTS__SPOOL_DIR": "{root}/shop/spool"}, "exports being written (ARQD_EXPORTS__SPOOL_DIR)"),
    ],
)
async def test_a_folder_with_what_arqd_keeps_is_none_to_clean(
    run: Run, tmp_path: Path, environ: dict[str, str], told: str
) -> None:
    """Objects, quarantine among them, and a database that nobody writes into would be old files like any others."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "shop")
    given = {name: value.format(root=tmp_path) for name, value in environ.items()}
    for roots in ("TEMP_ROOTS", "LOG_ROOTS"):
        with pytest.raises(ConfigurationError) as refused:
            await run(Cleanup(target_type="temp_files"), **{f"MAINTENANCE__{roots}": f"{tmp_path}/shop"}, **given)
        assert f"ARQD_MAINTENANCE__{roots}: {tmp_path}/shop holds {told}" in str(refused.value)


async def test_a_folder_beside_or_inside_of_what_arqd_keeps_can_be_cleaned(run: Run, tmp_path: Path) -> None:
    own = {"VAR_DIR": f"{tmp_path}/var", "OBJECT_STORE_URL": f"file://{tmp_path}/objects"}
    roots = {"MAINTENANCE__TEMP_ROOTS": f"{tmp_path}/var/parts {tmp_path}/objects/quarantine {tmp_path}/variable"}
    for name in ("var/parts", "objects/quarantine", "variable"):
        (tmp_path / name).mkdir(parents=True)
    assert (await run(Cleanup(target_type="temp_files"), **own, **roots)).value().deleted_count == 0


async def test_rows_of_a_named_table(run: Run, database: Database, database_url: str) -> None:
    now = datetime.now(UTC)
    async with database.begin() as connection:
        await connection.execute(text("CREATE TABLE sessions (id INTEGER PRIMARY KEY, expires_at TIMESTAMP)"))
        for n in range(6):
            at = (now - timedelta(days=10 * n)).replace(tzinfo=None)
            given = {"n": n, "at": at.isoformat(" ") if database.is_sqlite else at}
            await connection.execute(text("INSERT INTO sessions VALUES (:n, :at)"), given)
    environ = {"DATABASE_URL": database_url, "MAINTENANCE__TABLES__EXPIRED_SESSIONS": "sessions.expires_at"}
    if not database.is_sqlite:
        async with database.begin() as connection:
            await connection.execute(text("ALTER TABLE sessions ALTER COLUMN expires_at TYPE timestamptz"))
    job = Cleanup(target_type="expired_sessions", older_than="25d", dry_run=True)
    assert (await run(job, **environ)).result.deleted_count == 3
    job = Cleanup(target_type="expired_sessions", older_than="25d")
    assert [(await run(job, **environ)).result.deleted_count for _ in range(2)] == [3, 0]
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM sessions"))).scalar_one() == 3
    unset = await run(Cleanup(target_type="notifications"), **environ)
    assert "TABLES__NOTIFICATIONS" in unset.result.skipped
    wrong = await run(job, **{**environ, "MAINTENANCE__TABLES__EXPIRED_SESSIONS": "nothing.at"})
    assert (wrong.ending, wrong.reason) == ("failed", "permanent")


async def test_numbers_are_no_times_that_are_old(run: Run, database: Database, database_url: str) -> None:
    """To a SQLite every number is less than any text, and so all sessions would be older than any time."""
    async with database.begin() as connection:
        await connection.execute(text("CREATE TABLE sessions (id INTEGER PRIMARY KEY, expires_at INTEGER)"))
        await connection.execute(text("INSERT INTO sessions VALUES (1, 2000000000), (2, NULL)"))
    environ = {"DATABASE_URL": database_url, "MAINTENANCE__TABLES__EXPIRED_SESSIONS": "sessions.expires_at"}
    for dry_run in (True, False):
        refused = await run(Cleanup(target_type="expired_sessions", dry_run=dry_run), **environ)
        assert (refused.ending, refused.reason) == ("failed", "permanent")
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM sessions"))).scalar_one() == 2


async def test_a_row_that_becomes_younger_while_it_is_to_go_stays(
    run: Run, database: Database, database_url: str
) -> None:
    if database.is_sqlite:
        return
    async with database.begin() as connection:
        await connection.execute(text("CREATE TABLE sessions (id INTEGER PRIMARY KEY, expires_at timestamptz)"))
        await connection.execute(text("INSERT INTO sessions VALUES (1, now() - interval '40 days')"))
    environ = {"DATABASE_URL": database_url, "MAINTENANCE__TABLES__EXPIRED_SESSIONS": "sessions.expires_at"}
    async with database.engine.connect() as user, database.engine.connect() as onlooker:
        await user.execute(text("UPDATE sessions SET expires_at = now() + interval '1 day'"))
        job = asyncio.create_task(run(Cleanup(target_type="expired_sessions"), **environ))
        waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
        async with asyncio.timeout(60):
            while not (await onlooker.execute(waits)).scalar_one():
                await onlooker.rollback()
                await asyncio.sleep(0.02)
        await user.commit()
        assert (await job).result.deleted_count == 0


async def test_a_cache_is_warmed_by_one_at_a_time(run: Run, redis: Any) -> None:
    job = WarmCache(cache_key="prices:all", data_source="prices", ttl="1h")
    GATE.clear()
    first = asyncio.create_task(run(job, "one", **SOURCES))
    while not ASKED:
        await asyncio.sleep(0.01)
    second = await run(job, "two", **SOURCES)
    assert (second.result.written, second.result.busy) == ({}, ["prices:all"])
    GATE.set()
    done = await first
    data = await redis.get("cache:prices:all")
    assert json.loads(data) == {"tea": 3, "n": 1}
    assert done.result.written == {"prices:all": len(data)}
    assert 3_500_000 < await redis.pttl("cache:prices:all") <= 3_600_000
    assert not await redis.exists("cache:prices:all:warming")
    failed = await run(WarmCache(cache_key="prices:all", data_source="broken", ttl=60), **SOURCES)
    assert failed.ending == "failed"
    # What was there is there still, and the next one may try.
    assert await redis.get("cache:prices:all") == data
    assert not await redis.exists("cache:prices:all:warming")
    assert (await run(WarmCache(cache_key="k", data_source="x", ttl=60), **SOURCES)).reason == "permanent"


async def test_all_caches_that_are_set_are_warmed_though_one_fails(run: Run, redis: Any) -> None:
    warm = [{"cacheKey": f"k{n}", "dataSource": source, "ttl": "1m"} for n, source in enumerate(("broken", "prices"))]
    done = await run(WarmCache(), **SOURCES, MAINTENANCE__WARM=json.dumps(warm))
    assert (done.ending, "k0: LookupError; warmed: 1" in str(done.error)) == ("failed", True)
    assert await redis.exists("cache:k1", "cache:k0") == 1
    assert (await run(WarmCache())).result.written == {}


async def test_ended_jobs_go_when_their_time_is_over(run: Run, redis: Any, redis_url: str) -> None:
    async def ok(ctx: JobContext) -> int:
        return 1

    async def no(ctx: JobContext) -> None:
        raise ValueError

    family = make_family("email", ok, no, max_tries=1)
    async with Producer.connect(redis_url) as producer:
        for name, function, keep in (("a", "ok", None), ("b", "ok", {"completed": "forever"}), ("c", "no", None)):
            await producer.enqueue(function, family="email", job_id=name, keep=keep)
        await run_burst(redis_url, family)
    assert (await run(CleanJobs())).result.removed == {}
    for index in ("completed", "dead"):
        for job_id, score in await redis.zrange(f"{{email}}:{index}", 0, -1, withscores=True):
            await redis.zadd(f"{{email}}:{index}", {job_id: score - 40 * 86_400_000})
    assert (await run(CleanJobs(), FAMILY__EMAIL__KEEP_RESULT="50d")).result.removed == {}
    assert (await run(CleanJobs())).result.removed == {"email": 1}
    assert await redis.zrange("{email}:completed", 0, -1) == [b"{email}:b"]
    assert (await run(CleanJobs(state="failed", queue="email", older_than="60d"))).result.removed == {}
    assert (await run(CleanJobs(state="failed", queue="email"))).result.removed == {"email": 1}
    assert (await run(CleanJobs(queue="nothing"))).ending == "failed"


@pytest.mark.parametrize(
    "fields",
    [{"target_type": "temp_files", "path": "a/../b"}, {"target_type": "notifications", "path": "a"},
     {"target_type": "everything"}, {"target_type": "old_logs", "older_than": "soon"},
     {"targetType": "old_logs", "x": 1}],
)  # fmt: skip
def test_a_wrong_cleanup_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Cleanup.model_validate(fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [("TEMP_ROOTS", "/"), ("TEMP_ROOTS", "tmp"), ("LOG_ROOTS", "/var"), ("CACHE_PREFIX", "arq:"), ("WARM", "[{}]"),
     ("TABLES__EXPIRED_SESSIONS", "sessions; drop"), ("TABLES__OLD_LOGS", "a.b")],
)  # fmt: skip
def test_a_setting_that_cannot_be_meant_is_told(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"ARQD_MAINTENANCE__{name.partition('__')[0]}"):
        load_settings({f"ARQD_MAINTENANCE__{name}": value})


def test_the_family_runs_one_at_a_time_by_these_schedules() -> None:
    family = load_family(WorkerSettings)
    values = family.values
    assert (values.max_jobs, values.global_limit, values.max_tries, values.priority) == (1, 1, 1, 10)
    assert {each.schedule.name for each in family.schedules} == {
        *(f"cleanup-{target}" for target in AGES), "warm_cache", "clean-completed", "clean-failed",
    }  # fmt: skip
    assert Cleanup.model_validate({"targetType": "old_logs", "olderThan": "30d"}).age == 30 * 86_400
    assert Cleanup(target_type="audit_logs").age == 365 * 86_400
