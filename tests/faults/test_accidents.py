"""Accidents inside a worker: side tasks that die, a full disk, results nobody can write down, a producer killed."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
import time
from pathlib import Path

import httpx
import pytest

from daemon.errors import JobFailed
from daemon.job import JobState
from daemon.keys import JOB
from daemon.probe.app import create_app
from daemon.process.heartbeat import read_heartbeat
from handlers.email.payloads import SendEmail
from tests.faults.conftest import WorkshopFactory
from tests.faults.family import EndTask, Hold, Quiet, Strange, Work
from tests.faults.workshop import KEYS, ROOT
from tests.probe.support import NeverAsked

SIDE = ["wakeups", "housekeeping", "courier", "scheduler", "heartbeat", "arqd-leases", "arqd-watchdog"]


@pytest.mark.parametrize("name", SIDE)
async def test_a_side_task_that_dies_takes_its_process_with_it(workshop: WorkshopFactory, name: str) -> None:
    shop = workshop(lease=30)
    async with shop.producer() as producer:
        worker = await shop.started()
        held = await producer.enqueue(Hold(name="held"))
        await shop.until_started("held")
        await producer.enqueue(EndTask(name=name))
        assert await shop.ended(worker, 20) == 1
        said = [line for line in worker.log.read_text().splitlines() if line.startswith("arqd: ")]
        assert len(said) == 1
        assert ("thread" if name.startswith("arqd-") else name) in said[0]
        # Handed back at once, uncounted.
        info = await held.info()
        assert (info.state, info.tries, info.crashes) == (JobState.WAITING, 0, 0)


def allow_files(pid: int, size: int) -> None:
    """Let a process write files of so many bytes and no more, as if the disk were full."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


async def test_a_full_disk_does_not_stop_a_worker_nor_make_it_look_dead(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=2)
    async with shop.producer() as producer:
        worker = await shop.started()
        await (await producer.enqueue(Quiet())).result(timeout=60)
        app = create_app(NeverAsked(), families=["faults"], heartbeats=[worker.heartbeat])
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://probe") as probe:
            written = worker.log.stat().st_size
            allow_files(worker.pid, 0)
            before = (read_heartbeat(worker.heartbeat) or {})["time"]
            end = time.monotonic() + 11
            while time.monotonic() < end:
                assert await (await producer.enqueue(Quiet(seconds=0.1))).result(timeout=60) == worker.pid
                assert (await probe.get("/livez")).status_code == 200
                await asyncio.sleep(0.2)
            document = read_heartbeat(worker.heartbeat)
            assert document is not None
            assert document["time"] < before + 3, "it could not be written"
            allow_files(worker.pid, resource.RLIM_INFINITY)
            await (await producer.enqueue(Quiet())).result(timeout=60)
            await shop.until(lambda: worker.log.stat().st_size > written, "its log goes on", 10)
            worker.send(signal.SIGTERM)
            assert await shop.ended(worker, 10) == 0


async def test_a_log_nobody_can_write_does_not_stop_a_worker(workshop: WorkshopFactory) -> None:
    shop = workshop()
    async with shop.producer() as producer:
        worker = shop.start(log=Path("/dev/full"))
        job = await producer.enqueue(Work(name="job"))
        assert (await job.result(timeout=60)).pid == worker.pid
        worker.send(signal.SIGTERM)
        assert await shop.ended(worker, 10) == 0


async def test_mails_to_a_full_spool_are_tried_again(workshop: WorkshopFactory) -> None:
    shop = workshop()
    spool = shop.folder / "spool"
    variables = {"ARQD_EMAIL__SPOOL_DIR": str(spool), "ARQD_FAMILY__EMAIL__BACKOFF": "fixed 0.3s"}
    async with shop.producer() as producer:
        worker = shop.start("email", environ=variables)
        mail = SendEmail(to="ada@example.com", subject="Hi", template="welcome", context={"name": "Ada"})
        await (await producer.enqueue(mail)).result(timeout=60)
        allow_files(worker.pid, 0)
        job = await producer.enqueue(mail.model_copy(update={"subject": "Again"}), max_tries=50)
        deadline = time.monotonic() + 60
        while (await job.info()).tries < 2:
            assert time.monotonic() < deadline, "it is tried again"
            await asyncio.sleep(0.05)
        assert "cannot write to the spool folder" in (await job.info()).history[-1]["message"]
        assert len(list(spool.iterdir())) == 1, "nothing half-written"
        allow_files(worker.pid, resource.RLIM_INFINITY)
        assert (await job.result(timeout=60)).message_id
        assert len(list(spool.glob("*.eml"))) == 2


@pytest.mark.parametrize(
    ("what", "error", "said"),
    [
        ("object", "InvalidJob", "result cannot be written as JSON"),
        ("nested", "InvalidJob", "nested more than 190 levels deep"),
        ("looped", "InvalidJob", "result cannot be written as JSON"),
        ("unspeakable", "UnspeakableError", "its text cannot be read"),
        ("surrogates", "ValueError", r"half a character: \ud800"),
    ],
)
async def test_what_cannot_be_written_down_is_recorded_as_such(
    workshop: WorkshopFactory, what: str, error: str, said: str
) -> None:
    shop = workshop(max_tries=1)
    async with shop.producer() as producer:
        worker = await shop.started()
        job = await producer.enqueue(Strange(what=what))
        with pytest.raises(JobFailed) as failed:
            await job.result(timeout=60)
        assert (failed.value.type.rpartition(".")[2], said in failed.value.message) == (error, True)
        assert (await job.info()).state is JobState.FAILED
        assert (await (await producer.enqueue(Work(name="after"))).result(timeout=60)).pid == worker.pid


PRODUCER = """
import asyncio, sys
from daemon.producer import Producer
from tests.faults.family import Quiet

async def main():
    async with Producer.connect(sys.argv[1]) as producer:
        print("ready", flush=True)
        while True:
            await producer.enqueue_many([Quiet(tail="x" * 5000) for _ in range(3000)])

asyncio.run(main())
"""


async def test_a_producer_killed_in_the_middle_leaves_whole_jobs_or_none(workshop: WorkshopFactory) -> None:
    shop = workshop(lease=2)
    counts = []
    for kill in range(6):
        command = [sys.executable, "-c", PRODUCER, shop.server.url]
        producing = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        assert producing.stdout is not None
        await producing.stdout.readline()
        with shop.server.client() as redis:
            begun = redis.zcard(KEYS.queue)
            # In the middle of a hand-over: some of its jobs are there.
            await shop.until(lambda n=begun: redis.zcard(KEYS.queue) > n, "it hands jobs over")
            await asyncio.sleep(0.013 * kill)
            producing.kill()
            await producing.wait()
            # What it had sent is still done.
            await shop.until(lambda: len(redis.client_list()) == 1, "the server has seen it go")
            queued = redis.zcard(KEYS.queue)
            payloads = sum(1 for _ in redis.scan_iter(f"{JOB}*", count=1000))
        assert queued == payloads
        counts.append(queued)
        assert await shop.leaks() == {}
    print(f"\nproducer killed {len(counts)} times in mid-enqueue_many, jobs there after each: {counts}, all whole")
    assert any(count % 3000 for count in counts), "it was never in the middle"
