"""A rolling upgrade: worker processes of two releases, whose code differs, on one queue under load."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
from pathlib import Path
from typing import Any

from daemon.producer import Producer
from daemon.producing.handle import JobHandle
from tests.faults.conftest import WorkshopFactory
from tests.faults.workshop import WorkerProcess, Workshop

FOLDER = Path(__file__).with_name("releases")
#: A job that is back sooner than this was not lost with its worker.
LEASE = 60


def code_of(release: str) -> Any:
    """Give the module that a producer of a release has."""
    spec = importlib.util.spec_from_file_location(f"billing_{release}", FOLDER / release / "billing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def started(shop: Workshop, release: str) -> WorkerProcess:
    """Start a worker of a release and wait until it takes jobs."""
    return await shop.started(settings="billing:WorkerSettings", environ={"PYTHONPATH": str(FOLDER / release)})


class Services:
    """Producers of both releases, and what they have enqueued: each job's handle by the result it must have."""

    def __init__(self, producer: Producer) -> None:
        self.jobs: dict[str, JobHandle[Any]] = {}
        self._producer = producer
        self._old, self._new = code_of("old"), code_of("new")

    async def old(self, count: int) -> None:
        """Enqueue what both releases run."""
        await self._enqueue(self._old.SendInvoice, "{} in en", count)

    async def new(self, count: int) -> None:
        """Enqueue what the new release alone can run: a payload of a newer version, and another function."""
        await self._enqueue(self._new.SendInvoice, "{} in fr", count, lang="fr")
        await self._enqueue(self._new.SendReminder, "{} again", count)

    async def both(self, enough: asyncio.Event) -> None:
        """Enqueue some of all until it is enough; not without an end."""
        for _ in range(1000):
            if enough.is_set():
                return
            await self.old(4)
            await self.new(2)
            await asyncio.sleep(0.05)

    async def _enqueue(self, payload: Any, result: str, count: int, **fields: str) -> None:
        names = [f"{len(self.jobs) + number}" for number in range(count)]
        handles = await self._producer.enqueue_many([payload(name=name, **fields) for name in names])
        self.jobs |= {result.format(name): handle for name, handle in zip(names, handles, strict=True)}

    async def ended(self) -> None:
        """Wait for all results and look at each."""
        results = await asyncio.gather(*(job.result(timeout=90) for job in self.jobs.values()))
        assert results == list(self.jobs)


async def test_a_rolling_upgrade_loses_fails_and_repeats_nothing(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=LEASE, drain_timeout=30, max_jobs=5)
    async with shop.producer() as producer:
        services = Services(producer)
        old = await started(shop, "old")
        await services.old(40)
        await services.ended()

        # Producers are early: what the old worker cannot run is put aside, and it goes on with the rest.
        await services.new(20)
        early = list(services.jobs.values())[-40:]
        await services.old(20)
        await asyncio.gather(*(job.result(timeout=60) for job in list(services.jobs.values())[-20:]))
        await shop.until(lambda: len(shop.starts()) == 60, "all that the old worker can run")
        states = {str(await job.status()) for job in early}
        assert states == {"parked"}

        new = await started(shop, "new")
        await services.ended()
        assert {event.pid for event in shop.events("start")} == {old.pid, new.pid}

        # Both at work, then the old one is drained, while producers of both go on.
        enough = asyncio.Event()
        traffic = asyncio.create_task(services.both(enough))
        lines = shop.journal_lines()
        await shop.until(lambda: shop.journal_lines() > lines + 100, "both are at work", 60)
        old.send(signal.SIGTERM)
        assert await shop.ended(old, 40) == 0
        lines = shop.journal_lines()
        await shop.until(lambda: shop.journal_lines() > lines + 50, "the new one goes on alone", 60)
        enough.set()
        await traffic
        await services.ended()

    starts, queue = shop.starts(), await shop.queue()
    assert set(starts.values()) == {1}
    assert (len(starts), queue.totals["completed"]) == (len(services.jobs), len(services.jobs))
    assert (queue.failed, queue.parked, queue.totals.get("retried", 0), queue.workers) == (0, 0, 0, 1)
    by_old = len(shop.events("start", worker=old))
    print(
        f"\nrolling upgrade, two releases: {len(starts)} jobs, {by_old} by the old and {len(starts) - by_old} by the "
        f"new worker, {len(early)} parked meanwhile; 0 failed, 0 lost, 0 twice"
    )
