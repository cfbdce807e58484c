"""The probe beside a worker: ready means that what waits is taken, alive means that the loop turns, Redis or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from daemon.claiming.session import Session
from daemon.probe.app import create_app
from daemon.probe.health import Limits
from daemon.producer import Producer
from tests.engine import make_family, working
from tests.faults.conftest import WorkshopFactory
from tests.faults.family import Block, Hold, Work
from tests.faults.figures import LENIENCE, within
from tests.faults.link import Link
from tests.faults.workshop import WorkerProcess
from tests.probe.support import NeverAsked
from tests.servers import KEPT

Ask = Callable[[str], Awaitable[int]]


@asynccontextmanager
async def probe_of(worker: WorkerProcess) -> AsyncIterator[Ask]:
    """Give what asks a probe with the default limits: ``await ask("/livez")``."""
    app = create_app(NeverAsked(), families=["faults"], heartbeats=[worker.heartbeat])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://probe") as client:

        async def ask(path: str) -> int:
            return (await client.get(path)).status_code

        yield ask


async def until_it_says(ask: Ask, path: str, status: int, seconds: float) -> float:
    """Wait for an answer and give how long it took."""
    began = time.monotonic()
    while await ask(path) != status:
        assert time.monotonic() - began < seconds * LENIENCE, f"{path} does not turn {status}"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.slow
async def test_a_wedged_connection_turns_readiness_red_and_liveness_not(workshop: WorkshopFactory) -> None:
    shop = workshop()
    with Link(shop.server.port) as link:
        worker = await shop.started(environ={"ARQD_REDIS_URL": link.url})
        async with shop.producer() as producer, probe_of(worker) as ask:
            await until_it_says(ask, "/readyz", 200, 10)
            link.freeze()
            await producer.enqueue(Work(name="waits"))
            within(
                "work waits behind a wedged connection: /readyz 503 after",
                await until_it_says(ask, "/readyz", 503, 60),
                30,
            )
            assert await ask("/livez") == 200
            link.thaw()
            await until_it_says(ask, "/readyz", 200, 20)
            await shop.until_started("waits")


async def test_work_that_nobody_takes_is_seen_by_the_renewals_alone(
    redis_url: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = asyncio.Event()

    async def take(ctx: object) -> None: ...

    async def hang(self: Session, *_: object) -> None:
        await never.wait()

    family = make_family("t", take, lease=1)
    async with Producer.connect(redis_url) as producer, working(redis_url, family) as supervisor:
        (worker,) = supervisor.workers
        await (await producer.enqueue("take", [], family="t")).result(30)
        assert supervisor.snapshot()["families"]["t"]["claimable_since"] is None
        with monkeypatch.context() as patched:
            patched.setattr(Session, "tick", hang)
            before = time.time()
            # Of one alone the worker would hear without a tick.
            await producer.enqueue_many("take", [(), ()], family="t")
            deadline = time.monotonic() + 60
            while supervisor.snapshot()["families"]["t"]["claimable_since"] is None:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            since = supervisor.snapshot()["families"]["t"]["claimable_since"]
            assert before - 0.1 <= since <= time.time()
            # Nothing is to be taken by a worker without a free slot.
            worker.draining = True
            assert supervisor.snapshot()["families"]["t"]["claimable_since"] is None
            worker.draining = False
        never.set()
        worker.session.doubt()


@pytest.mark.slow
async def test_idle_workers_stay_ready(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=1)
    worker = await shop.started()
    async with probe_of(worker) as ask, shop.producer() as producer:
        await until_it_says(ask, "/readyz", 200, 10)
        await (await producer.enqueue(Work(name="one"))).result(timeout=60)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            assert (await ask("/readyz"), await ask("/livez")) == (200, 200)
            await asyncio.sleep(0.2)


@pytest.mark.slow
async def test_liveness_through_an_outage_and_a_blocked_loop(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=2, redis=KEPT)
    worker = await shop.started()
    async with shop.producer() as producer, probe_of(worker) as ask:
        held = await producer.enqueue(Hold(name="held"))
        await shop.until_started("held")
        shop.server.kill()
        end = time.monotonic() + 12
        while time.monotonic() < end:
            assert await ask("/livez") == 200
            await asyncio.sleep(0.2)
        assert await ask("/readyz") == 503
        shop.server.start()
        await until_it_says(ask, "/readyz", 200, 20)
        shop.release("held")
        await held.result(timeout=60)
        job = await producer.enqueue(Block(name="block", seconds=11))
        await shop.until_started("block")
        within("a blocked loop: /livez 503 after", await until_it_says(ask, "/livez", 503, 60), 10)
        await job.result(timeout=60)
        await until_it_says(ask, "/livez", 200, 10)


def test_the_limits_are_those_that_were_tested() -> None:
    assert Limits() == Limits(heartbeat=9, stall=15)
