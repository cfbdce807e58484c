"""A worker that is to end while its Redis is away: it waits for what it has to tell, and for nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from daemon.job import JobState
from daemon.producer import Producer
from daemon.servers import Servers
from daemon.supervisor import Supervisor
from tests.engine import in_state, make_family, until
from tests.marks import one_server
from tests.servers import RedisServer

#: They are on servers of their own, whatever the others run on.
pytestmark = one_server

#: Who waits for it does not end in time.
DRAIN = 600


async def double(ctx: object, n: int) -> int:
    return 2 * n


@pytest.mark.parametrize("burst", [False, True])
async def test_redis_was_never_there(tmp_path: Path, caplog: pytest.LogCaptureFixture, burst: bool) -> None:
    server = RedisServer(tmp_path).start()
    server.kill()
    family = make_family("idle", double, drain_timeout=DRAIN)
    supervisor = Supervisor([family], server.url, handle_signals=False, burst=burst)
    task = asyncio.create_task(supervisor.run())
    await until(lambda: "idle: Redis cannot be reached" in caplog.text)
    supervisor.drain()
    # It was asked to end, and does, without an error.
    await asyncio.wait_for(task, 60)


async def test_what_runs_elsewhere_goes_on_and_what_is_to_be_told_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "near").mkdir()
    (tmp_path / "far").mkdir()
    near, far = (RedisServer(tmp_path / name, appendonly="yes").start() for name in ("near", "far"))
    held = asyncio.Event()

    async def hold(ctx: object) -> str:
        await held.wait()
        return "held"

    families = [make_family("far", double, drain_timeout=DRAIN), make_family("near", hold, drain_timeout=DRAIN)]
    try:
        far.kill()
        async with Producer.connect(near.url) as producer:
            supervisor = Supervisor(families, Servers(near.url, {"far": far.url}), handle_signals=False)
            task = asyncio.create_task(supervisor.run())
            job = await producer.enqueue("hold", [], family="near")
            await in_state(job, JobState.ACTIVE)
            supervisor.drain()
            gone = next(each for each in asyncio.all_tasks() if each.get_name() == "far")
            await asyncio.wait([gone], timeout=60)
            assert gone.done()
            # What ends while nobody can be told is told once its server is back.
            near.kill()
            held.set()
            await until(lambda: not supervisor.workers[1].running)
            await asyncio.sleep(0)
            assert not task.done()
            near.start()
            await asyncio.wait_for(task, 60)
            assert await job.result(timeout=60) == "held"
    finally:
        near.kill()
        far.kill()


async def test_a_server_that_hangs_is_not_asked_again_and_again(tmp_path: Path) -> None:
    # Its time limit passes once (5 s), not once for each family and each thing to tidy up.
    server = RedisServer(tmp_path).start()
    try:
        families = [make_family(f"family{n}", double, drain_timeout=DRAIN) for n in range(14)]
        supervisor = Supervisor(families, server.url, handle_signals=False)
        task = asyncio.create_task(supervisor.run())
        # What a call may have claimed whose reply is lost would be waited for.
        await until(lambda: supervisor.workers and all(each.listening and not each.busy for each in supervisor.workers))
        server.pause()
        supervisor.drain()
        await asyncio.wait_for(task, 50)
    finally:
        server.kill()
