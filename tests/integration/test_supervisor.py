"""A process at its start and at its end: what it waits for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daemon.context import JobContext
from daemon.producer import Producer
from daemon.supervisor import Supervisor
from tests.conftest import RedisServerFactory
from tests.engine import make_family, until
from tests.marks import one_server


async def quick(ctx: JobContext, job: dict[str, Any]) -> None: ...


async def test_who_leads_looks_when_its_own_workers_are_there(redis_url: str) -> None:
    async def slow_start(ctx: dict[Any, Any]) -> None:
        await asyncio.sleep(0.2)

    family = make_family("t", quick, on_startup=slow_start)
    supervisor = Supervisor([family], redis_url, handle_signals=False)
    seen: list[bool] = []

    async def look() -> None:
        seen.append(all(worker.started for worker in supervisor.workers))

    supervisor.scheduler.every(60, look)
    task = asyncio.create_task(supervisor.run())
    await until(lambda: seen)
    supervisor.drain()
    await task
    assert seen == [True]


@one_server
@pytest.mark.parametrize("busy", [False, True])
async def test_without_redis_a_drain_waits_only_for_jobs(redis_server: RedisServerFactory, busy: bool) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def held(ctx: JobContext, job: dict[str, Any]) -> None:
        begun.set()
        await may_end.wait()

    server = redis_server()
    supervisor = Supervisor([make_family("t", held, drain_timeout=3600)], server.url, handle_signals=False)
    task = asyncio.create_task(supervisor.run())
    if busy:
        async with Producer.connect(server.url) as producer:
            await producer.enqueue("held", {}, family="t")
            await begun.wait()
    await until(lambda: supervisor.state == "running")
    if not busy:
        # A call that might have claimed a job would be something to tell.
        await until(lambda: supervisor.workers[0].listening and supervisor.idle)
    server.kill()
    await until(lambda: not supervisor.redis_up)
    supervisor.drain()
    if busy:
        # Its job goes on, and what comes of it is told when Redis is back.
        done, _ = await asyncio.wait({task}, timeout=1)
        assert not done
        assert supervisor.patient
        may_end.set()
        server.start()
    await asyncio.wait_for(task, 60)
