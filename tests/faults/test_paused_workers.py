"""A worker that hangs longer than its lease and comes back: a zombie must do no harm."""

from __future__ import annotations

import signal

from daemon.job import JobState
from tests.faults.conftest import WorkshopFactory
from tests.faults.family import Done, Hold, Work


async def test_a_worker_paused_longer_than_its_lease_leaves_its_jobs_to_others(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=1, max_jobs=2)
    async with shop.producer() as producer:
        zombie = await shop.started()
        finished, running = await producer.enqueue_many([Hold(name="finished"), Hold(name="running")])
        await shop.until_started("finished", "running", worker=zombie)
        zombie.send(signal.SIGSTOP)
        owner = await shop.started()
        await shop.until_started("finished", "running", worker=owner)

        # It wakes up with one job about to end and one in the middle.
        shop.release("finished", zombie)
        zombie.send(signal.SIGCONT)
        await shop.until(lambda: shop.events("cancelled", "running", zombie), "the zombie cancels its job")
        # The owner has no slot free: the zombie works again, and has told its outcomes by then.
        after = await producer.enqueue(Work(name="after"))
        assert await after.result(timeout=60) == Done(name="after", pid=zombie.pid)
        assert await finished.status() is JobState.ACTIVE
        assert await running.status() is JobState.ACTIVE
        assert not shop.events("cancelled", worker=owner)

        shop.release("finished", owner)
        shop.release("running")
        assert (await finished.result(timeout=60)).pid == owner.pid
        assert (await running.result(timeout=60)).pid == owner.pid
    assert shop.starts() == {"finished": 2, "running": 2, "after": 1}
    print("\nSIGSTOP longer than the lease: 2 jobs, 0 results overwritten, the zombie cancelled the one it still ran")
    totals = (await shop.queue()).totals
    assert (totals["completed"], totals.get("retried", 0), totals.get("failed", 0)) == (3, 0, 0)


async def test_a_lone_worker_paused_longer_than_its_lease_goes_on_with_its_jobs(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=1)
    async with shop.producer() as producer:
        worker = await shop.started()
        job = await producer.enqueue(Hold(name="job"))
        await shop.until_started("job")
        worker.send(signal.SIGSTOP)
        with shop.server.client() as redis:
            # Longer than the lease by the server's own clock.
            seconds = redis.time()[0]
            await shop.until(lambda: redis.time()[0] > seconds + 2, "time has passed")
        worker.send(signal.SIGCONT)
        shop.release("job")
        assert await job.result(timeout=60) == Done(name="job", pid=worker.pid)
        assert await (await producer.enqueue(Work(name="after"))).result(timeout=60)
    assert shop.starts() == {"job": 1, "after": 1}


async def test_an_idle_worker_that_stands_still_gets_a_job_and_never_begins_it(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=1, max_jobs=1)
    async with shop.producer() as producer:
        zombie = await shop.started()
        await (await producer.enqueue(Work(name="before"))).result(timeout=60)
        zombie.send(signal.SIGSTOP)
        with shop.server.client() as redis:
            # Until it should have renewed its lease, so that Redis knows.
            seconds = redis.time()[0]
            await shop.until(lambda: redis.time()[0] > seconds + 1, "time has passed")
        job = await producer.enqueue(Hold(name="job"))
        owner = await shop.started()
        await shop.until_started("job", worker=owner)
        zombie.send(signal.SIGCONT)
        # The owner has no slot free.
        after = await producer.enqueue(Work(name="after"))
        assert await after.result(timeout=60) == Done(name="after", pid=zombie.pid)
        assert (await job.info()).crashes == 0
        shop.release("job")
        assert await job.result(timeout=60) == Done(name="job", pid=owner.pid)
    assert shop.starts() == {"before": 1, "job": 1, "after": 1}
