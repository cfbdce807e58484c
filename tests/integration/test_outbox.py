"""The outbox on SQLite and PostgreSQL: a job is in Redis exactly when its transaction was committed, and once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import create_engine, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from daemon.cli.command import main
from daemon.connecting.connections import connect
from daemon.encryption import KeyRing, generate_key
from daemon.errors import InvalidJob
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.outbox import CursorOutbox, Outbox, OutboxFallback, SyncOutbox
from daemon.outbox.relay import Relay
from daemon.outbox.table import OUTBOX
from daemon.payload import Payload
from daemon.producer import Producer
from daemon.records import split_record
from handlers.integrations.database import Database
from tests.conftest import RedisServerFactory


class Order(Payload, family="orders"):
    number: int


class Vault(Payload, family="vault", encrypted=True):
    number: int


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with aclosing(connect(redis_url)) as client:
        yield client


@pytest.fixture
def relay(database: Database, redis: Redis) -> Relay:
    return Relay(database.engine, redis, poll=0.01)


async def rows(database: Database) -> int:
    async with database.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(OUTBOX))).scalar_one())


async def ids(redis: Redis, family: str = "orders") -> Counter[str]:
    """Every job in the queue, with how often it stands there."""
    return Counter(name.decode().rpartition(":")[2] for name in await redis.zrange(f"arq:{{{family}}}", 0, -1))


def synchronous(database: Database) -> Any:
    url = database.url.render_as_string(hide_password=False)
    if database.is_sqlite:
        return create_engine(url.replace("+aiosqlite", ""))
    return None


# ---------------------------------------------------------------- inside a transaction


async def test_committed_and_rolled_back(database: Database, relay: Relay, redis: Redis) -> None:
    async with AsyncSession(database.engine) as session:
        job_id = await Outbox(session).enqueue(Order(number=1), job_id="one")
        assert job_id == "orders:one"
        await session.rollback()
        await Outbox(session).enqueue(Order(number=2), job_id="two")
        await Outbox(session).enqueue_many([Order(number=n) for n in range(3)])
        await Outbox(session).enqueue("elsewhere", {"a": 1}, family="others", job_id="three")
        assert await relay.drain() == 0
        await session.commit()
    async with database.begin() as connection:
        await Outbox(connection).enqueue(Order(number=3), job_id="four")
    assert await rows(database) == 6
    assert await relay.drain() == 6
    assert await rows(database) == 0
    found = await ids(redis)
    assert len(found) == 5
    assert set(found.values()) == {1}
    assert {"two", "four"} < found.keys()
    assert "one" not in found
    assert await ids(redis, "others") == {"three": 1}


async def test_a_job_is_what_a_producer_would_have_made_of_it(
    database: Database, relay: Relay, redis: Redis, redis_url: str
) -> None:
    options: dict[str, Any] = {"priority": "low", "tags": ["a"], "group": "acme", "max_tries": 2, "timeout": 9}
    async with database.begin() as connection:
        await Outbox(connection).enqueue(Order(number=7), job_id="o", **options)
    await relay.drain()
    async with Producer.connect(redis_url) as producer:
        await producer.enqueue(Order(number=7), job_id="p", **options)
    ours, direct = [split_record(await redis.get(f"arq:job:{{orders}}:{name}")) for name in ("o", "p")]
    assert ours._replace(stamp=0) == direct._replace(stamp=0)


async def test_waits_begin_when_the_row_is_written(
    database: Database, relay: Relay, redis: Redis, redis_url: str
) -> None:
    later = datetime.now(UTC) + timedelta(hours=3)
    async with database.begin() as connection:
        outbox = Outbox(connection)
        await outbox.enqueue(Order(number=1), job_id="delayed", delay="1h")
        await outbox.enqueue(Order(number=2), job_id="due", delay="1m")
        await outbox.enqueue(Order(number=3), job_id="at", run_at=later)
        await outbox.enqueue(Order(number=4), job_id="late", expires="1m")
        # As if the relay had been away for ten minutes.
        await connection.execute(update(OUTBOX).values(created_ms=OUTBOX.c.created_ms - 600_000))
    await relay.drain()
    async with Inspector.connect(redis_url, ["orders"]) as inspector:
        seen = {name: await inspector.job(f"orders:{name}") for name in ("delayed", "due", "at", "late")}
    now = datetime.now(UTC)
    assert seen["delayed"].state is JobState.DELAYED
    assert seen["delayed"].due_at is not None
    assert timedelta(minutes=49) < seen["delayed"].due_at - now < timedelta(minutes=51)
    assert seen["due"].state is JobState.WAITING
    assert seen["at"].due_at is not None
    assert abs(seen["at"].due_at - later) < timedelta(seconds=1)
    assert seen["late"].expires_at is not None
    assert seen["late"].expires_at < now + timedelta(seconds=5)


async def test_dedup_keys_hold(database: Database, relay: Relay, redis: Redis) -> None:
    async with database.begin() as connection:
        for number in (1, 2):
            await Outbox(connection).enqueue(Order(number=number), dedup_key="k", job_id=str(number))
    await relay.drain()
    assert await ids(redis) == {"1": 1}


def test_without_await(database: Database, redis_url: str) -> None:
    engine = synchronous(database)
    if engine is None:
        # The lock has no synchronous driver for PostgreSQL: its asynchronous one, run by SQLAlchemy's own means.
        async def through_run_sync() -> None:
            async with database.begin() as connection:
                await connection.run_sync(lambda found: SyncOutbox(found).enqueue(Order(number=1), job_id="one"))
                await connection.run_sync(lambda found: SyncOutbox(found).enqueue_many([Order(number=2)]))
            await database.engine.dispose()

        asyncio.run(through_run_sync())
    else:
        with Session(engine) as session, session.begin():
            assert SyncOutbox(session).enqueue(Order(number=1), job_id="one") == "orders:one"
        with engine.connect() as connection:
            assert len(SyncOutbox(connection).enqueue_many([Order(number=2), Order(number=3)])) == 2
            connection.rollback()
            SyncOutbox(connection).enqueue_many([Order(number=2)])
            connection.commit()

    async def count() -> Counter[str]:
        async with aclosing(connect(redis_url)) as redis:
            await Relay(database.engine, redis).drain()
            await database.engine.dispose()
            return await ids(redis)

    found = asyncio.run(count())
    assert len(found) == 2
    assert found["one"] == 1


async def test_a_cursor(database: Database, relay: Relay, redis: Redis) -> None:
    statements: list[tuple[str, list[Any]]] = []

    class Cursor:
        def execute(self, sql: str, values: list[Any]) -> None:
            statements.append((sql, values))

    assert CursorOutbox(Cursor()).enqueue(Order(number=1), job_id="one", delay=0) == "orders:one"
    ((sql, values),) = statements
    marks = (f"${n}" for n in range(1, 100)) if not database.is_sqlite else ("?" for _ in range(100))
    for mark in marks:
        sql = sql.replace("%s", mark, 1)
    async with database.begin() as connection:
        await connection.exec_driver_sql(sql, tuple(values))
    assert await relay.drain() == 1
    assert await ids(redis) == {"one": 1}


async def test_what_an_outbox_refuses(database: Database) -> None:
    ring = KeyRing.parse(generate_key("a"))
    async with database.begin() as connection:
        outbox = Outbox(connection, keyring=ring)
        for job, options in (
            (Order(number=1), {"depends_on": ["orders:x"]}),
            (Order(number=1), {"priority": 11}),
            (Vault(number=1), {"dedup_key": "k", "dedup_mode": "replace"}),
        ):
            with pytest.raises(InvalidJob):
                await outbox.enqueue(job, **options)  # type: ignore[arg-type]
        with pytest.raises(InvalidJob, match="template"):
            await outbox.enqueue(Order(number=1), template="unknown")
    assert await rows(database) == 0


# ---------------------------------------------------------------- the relay


class Dying(Relay):
    """A relay that dies at one of its steps."""

    step = ""

    async def live(self) -> None:
        """Move until it dies: one that was slow, and whose lease has ended meanwhile, sends nothing."""
        while True:
            await self.move()
            await asyncio.sleep(0.01)

    async def _send(self, batch: Any) -> None:
        if self.step == "before":
            raise KeyboardInterrupt
        if self.step == "between":
            engine, self._engine = self._engine, None  # type: ignore[assignment]
            try:
                await super()._send(batch)
            except AttributeError:
                raise KeyboardInterrupt from None
            finally:
                self._engine = engine
        await super()._send(batch)


@pytest.mark.parametrize("step", ["before", "between"])
@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_relay_dies_in_mid_batch(
    database: Database, redis: Redis, redis_url: str, step: str, forgotten: bool
) -> None:
    """The next one ends its work; even when the jobs have run and are forgotten they are not added again."""
    async with database.begin() as connection:
        await Outbox(connection).enqueue_many([Order(number=n) for n in range(20)])
    dying = Dying(database.engine, redis, lease=0.2)
    dying.step = step
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        await dying.live()
    assert await rows(database) == 20
    assert len(await ids(redis)) == (20 if step == "between" else 0)
    if forgotten:
        async with Producer.connect(redis_url) as producer:
            await producer.broker("orders").drain(1000)
            assert await ids(redis) == {}
    successor = Relay(database.engine, redis, lease=0.2)
    assert await successor.move() == 0 or time.monotonic() - begun > 0.2, (
        "the batch is its relay's until the lease ends"
    )
    deadline = time.monotonic() + 60
    while await rows(database):
        await successor.drain()
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    expected = 0 if forgotten and step == "between" else 20
    found = await ids(redis)
    assert len(found) == expected
    assert set(found.values()) <= {1}


async def test_several_relays_at_once(database: Database, redis: Redis) -> None:
    async with database.begin() as connection:
        for _ in range(5):
            await Outbox(connection).enqueue_many([Order(number=n) for n in range(400)])
    moved = await asyncio.gather(*(Relay(database.engine, redis).drain() for _ in range(4)))
    assert sum(moved) == 2000
    assert len(await ids(redis)) == 2000


async def test_what_redis_refuses_waits_and_holds_nothing_up(
    database: Database, relay: Relay, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await redis.hset("{orders}:conf", "encrypted", "1")
    async with database.begin() as connection:
        await Outbox(connection).enqueue(Order(number=1), job_id="clear")
        await Outbox(connection).enqueue("nothing", family="orders", job_id="empty")
        await Outbox(connection).enqueue("other", {}, family="others", job_id="other")
    await relay.drain()
    assert await ids(redis) == {"empty": 1}
    assert await ids(redis, "others") == {"other": 1}
    (waiting,) = await relay.waiting()
    assert (waiting.family, waiting.jobs, waiting.refused) == ("orders", 1, 1)
    assert "ARQD_ENCRYPTION_KEYS" in (waiting.error or "")
    await redis.hdel("{orders}:conf", "encrypted")
    async with database.begin() as connection:
        await connection.execute(update(OUTBOX).values(again_ms=0))
    await relay.drain()
    assert await ids(redis) == {"empty": 1, "clear": 1}


async def test_a_full_server(database: Database, redis_server: RedisServerFactory) -> None:
    server = redis_server(maxmemory="100mb", maxmemory_policy="noeviction")
    async with database.begin() as connection:
        await Outbox(connection).enqueue(Order(number=1), job_id="one")
    async with aclosing(connect(server.url)) as redis:
        relay = Relay(database.engine, redis)
        await redis.config_set("maxmemory", 1)
        await relay.move()
        assert "memory limit" in str((await relay.waiting())[0].error)
        await redis.config_set("maxmemory", "100mb")
        async with database.begin() as connection:
            await connection.execute(update(OUTBOX).values(again_ms=0))
        assert await relay.drain() == 1
        assert await ids(redis) == {"one": 1}


async def test_an_encrypted_family(database: Database, relay: Relay, redis: Redis, redis_url: str) -> None:
    ring = KeyRing.parse(generate_key("a"))
    async with database.begin() as connection:
        await Outbox(connection, keyring=ring).enqueue(Vault(number=4711), job_id="one")
        record = (await connection.execute(select(OUTBOX.c.record))).scalar_one()
    assert b"4711" not in record
    await relay.drain()
    async with Producer.connect(redis_url, keyring=ring) as producer:
        info = await producer.job("vault:one").info(reveal=True)
    assert info.payload == {"number": 4711}


# ---------------------------------------------------------------- Redis is away


async def test_a_producer_keeps_jobs_while_redis_is_away(database: Database, redis_server: RedisServerFactory) -> None:
    server = redis_server()
    fallback = OutboxFallback(database.engine, pause=0.5)
    async with Producer.connect(server.url, fallback=fallback) as producer, aclosing(connect(server.url)) as redis:
        await producer.enqueue(Order(number=0), job_id="before")
        server.kill()
        handle = await producer.enqueue(Order(number=1), job_id="kept")
        many = await producer.enqueue_many([Order(number=n) for n in range(50)])
        assert (handle.id, handle.created, len(many)) == ("orders:kept", True, 50)
        assert await rows(database) == 51
        relay = Relay(database.engine, redis)
        with pytest.raises((RedisConnectionError, OSError)):
            await relay.drain()
        assert await rows(database) == 51
        server.start()
        await relay.drain()
        deadline = time.monotonic() + 60
        while fallback.is_away:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await producer.enqueue(Order(number=2), job_id="after")
        assert await rows(database) == 0
        found = await ids(redis)
        assert len(found) == 52
        assert {"kept", "after"} < found.keys()


async def test_a_synchronous_engine_as_fallback(tmp_path: Any, redis_server: RedisServerFactory) -> None:
    server = redis_server()
    server.kill()
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    await database.upgrade()
    engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    async with Producer.connect(server.url, fallback=OutboxFallback(engine)) as producer:
        await producer.enqueue(Order(number=1))
    assert await rows(database) == 1
    await database.close()


async def test_the_relay_outlives_an_outage(
    database: Database, redis_server: RedisServerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    server = redis_server(appendonly="yes")
    async with aclosing(connect(server.url)) as redis:
        running = asyncio.create_task(Relay(database.engine, redis, poll=0.01).run())
        server.kill()
        async with database.begin() as connection:
            await Outbox(connection).enqueue_many([Order(number=n) for n in range(10)])
        deadline = time.monotonic() + 60
        while "wait in the table" not in caplog.text:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        server.start()
        while await rows(database):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert len(await ids(redis)) == 10
        running.cancel()
        # Before its database is closed: a call under way would wait for a thread that has ended.
        await asyncio.gather(running, return_exceptions=True)


# ---------------------------------------------------------------- the command


def test_command(
    database: Database, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Any
) -> None:
    monkeypatch.setenv("ARQD_DATABASE_URL", database_url)
    monkeypatch.setenv("ARQD_REDIS_URL", redis_url)
    monkeypatch.chdir(tmp_path)

    async def write() -> None:
        async with database.begin() as connection:
            await Outbox(connection).enqueue(Order(number=1), job_id="one")
        await database.engine.dispose()

    asyncio.run(write())
    assert main(["outbox", "--show"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1].split()[:2] == ["orders", "1"]
    assert main(["outbox", "--burst"]) == 0
    capsys.readouterr()
    assert main(["outbox", "--show", "--json"]) == 0
    assert capsys.readouterr().out.strip() == "[]"
    assert main(["jobs", "orders", "--state", "waiting"]) == 0
    assert "orders:one" in capsys.readouterr().out
