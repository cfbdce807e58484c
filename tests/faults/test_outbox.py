"""10,000 orders whose jobs go through the outbox, while Redis, the service and the relay are killed: each present once.

Redis is away for ``ARQD_TEST_AWAY`` seconds, 2 by default.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import create_async_engine

from daemon.outbox import OutboxFallback
from daemon.outbox.table import OUTBOX
from daemon.producer import Producer
from handlers.integrations.database import Database
from tests.conftest import RedisServerFactory
from tests.faults.outbox_service import ORDERS, TOGETHER, Order

ROOT = Path(__file__).parents[2]
COUNT = 10_000
AWAY = float(os.environ.get("ARQD_TEST_AWAY", "2"))
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start Python with a module; killed when the test ends."""
    started: list[subprocess.Popen[bytes]] = []
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}

    def run(*arguments: str, **environ: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{len(started)}.log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", *arguments],
                    cwd=tmp_path,
                    env=inherited | {"PYTHONPATH": str(ROOT)} | environ,
                    stdout=log,
                    stderr=log,
                )
            )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


async def count(database: Database, table: object) -> int:
    async with database.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())  # type: ignore[arg-type]


async def until(condition: Callable[[], object], what: str, seconds: float = 150 + AWAY) -> None:
    """Wait for a condition, which may be a coroutine function."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if await found if asyncio.iscoroutine(found) else found:
            return
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


async def queued(redis: Redis) -> Counter[str]:
    return Counter(name.decode().rpartition(":")[2] for name in await redis.zrange("arq:{orders}", 0, -1))


@pytest.mark.timeout(400 + 2 * AWAY)
async def test_each_order_has_one_job(
    database: Database, database_url: str, redis_server: RedisServerFactory, start: Start
) -> None:
    server = redis_server(appendonly="yes", appendfsync="always")
    async with database.begin() as connection:
        await connection.run_sync(ORDERS.metadata.create_all)
    service = ("tests.faults.outbox_service", database_url, str(COUNT))
    relay = ("daemon", "outbox")
    environ = {"ARQD_DATABASE_URL": database_url, "ARQD_REDIS_URL": server.url, "ARQD_OUTBOX__POLL": "0.01"}
    environ["ARQD_OUTBOX__LEASE"] = "1"

    server.kill()
    away = time.monotonic() + AWAY
    first_relay, first_service = start(*relay, **environ), start(*service)

    async def taken(orders: int) -> bool:
        return await count(database, ORDERS) >= orders

    await until(lambda: taken(COUNT // 5), "the service takes orders while Redis is away")
    first_service.kill()
    await until(lambda: time.monotonic() > away, "Redis has been away")
    assert await count(database, OUTBOX) == await count(database, ORDERS) > 0
    server.start()
    service_again = start(*service)
    async with Redis.from_url(server.url) as redis:

        async def moved(jobs: int) -> bool:
            return await redis.zcard("arq:{orders}") >= jobs

        await until(lambda: moved(COUNT // 10), "the relay moves jobs")
        first_relay.kill()
        start(*relay, **environ)
        await until(lambda: service_again.poll() is not None, "the service has taken all orders")
        assert service_again.returncode == 0

        async def empty() -> bool:
            return await count(database, OUTBOX) == 0

        # What the first relay had in hand is another's when its lease has ended.
        await until(empty, "every job has been moved")
        orders = await count(database, ORDERS)
        assert COUNT <= orders < COUNT + TOGETHER
        assert await queued(redis) == Counter(map(str, range(orders)))


@pytest.mark.timeout(400 + 2 * AWAY)
async def test_a_producer_with_a_fallback(
    database: Database, database_url: str, redis_server: RedisServerFactory, start: Start
) -> None:
    """Redis dies twice under a producer that hands over 10,000 jobs: none is lost, none is there twice."""
    server = redis_server(appendonly="yes", appendfsync="always")
    engine = create_async_engine(database.url)
    handed: list[str] = []
    async with Producer.connect(server.url, fallback=OutboxFallback(engine, pause=0.05)) as producer:
        for first in range(0, COUNT, 50):
            if first in (COUNT // 5, COUNT // 2):
                server.kill()
            if first in (COUNT // 4, COUNT * 4 // 5):
                server.start()
            for handle in await producer.enqueue_many([Order(number=first + n) for n in range(50)]):
                handed.append(handle.job_id.rpartition(":")[2])
    assert await count(database, OUTBOX) >= COUNT // 3
    environ = {"ARQD_DATABASE_URL": database_url, "ARQD_REDIS_URL": server.url}
    assert start("daemon", "outbox", "--burst", **environ).wait(150) == 0
    async with Redis.from_url(server.url) as redis:
        assert await queued(redis) == Counter(handed)
    assert len(set(handed)) == COUNT
    assert await count(database, OUTBOX) == 0
    await engine.dispose()
