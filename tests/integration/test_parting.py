"""A worker that is to end while its Redis is away: it waits for what it has to tell, and for nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from daemon.claiming import session
from daemon.errors import RedisUnavailable
from daemon.job import JobState
from daemon.producer import Producer
from daemon.servers import Servers
from daemon.supervisor import Supervisor
from tests.engine import in_state, make_family, until
from tests.marks import one_server
from tests.servers import KEPT, RedisServer

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


async def test_a_call_that_was_never_sent_leaves_nothing_to_tell(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path).start()
    # One alone leaves a claim with its pop, and may have to register again before it looks.
    families = [make_family(name, double, drain_timeout=DRAIN) for name in ("idle", "beside")]
    supervisor = Supervisor(families, server.url, handle_signals=False)
    task = asyncio.create_task(supervisor.run())
    await until(lambda: supervisor.workers and all(each.listening and not each.busy for each in supervisor.workers))
    server.kill()
    await until(lambda: not supervisor.redis_up)
    # It looks for jobs, as it does where one is due.
    supervisor.workers[0].notify_due()
    await until(lambda: "idle: Redis is away, 0 jobs go on" in caplog.text)
    supervisor.drain()
    await asyncio.wait_for(task, 60)


async def test_in_a_hurry_it_ends_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PARTING_SECONDS", DRAIN)
    server = RedisServer(tmp_path).start()
    server.kill()
    supervisor = Supervisor([make_family("idle", double)], server.url, handle_signals=False)
    task = asyncio.create_task(supervisor.run())
    await until(lambda: supervisor.workers)
    supervisor.drain()
    supervisor.drain()
    await asyncio.wait_for(task, 60)


async def test_what_could_not_be_told_is_an_error_that_says_so(tmp_path: Path) -> None:
    held = asyncio.Event()

    async def hold(ctx: object) -> None:
        await held.wait()

    server = RedisServer(tmp_path).start()
    supervisor = Supervisor([make_family("held", hold, lease=20)], server.url, handle_signals=False)
    async with Producer.connect(server.url) as producer:
        task = asyncio.create_task(supervisor.run())
        await in_state(await producer.enqueue("hold", [], family="held"), JobState.ACTIVE)
    server.kill()
    await until(lambda: not supervisor.redis_up)
    supervisor.drain()
    supervisor.drain()
    with pytest.raises(RedisUnavailable, match=r"^held: .* was not told of 1 job, .* lease of 20 s") as error:
        await asyncio.wait_for(task, 60)
    assert str(server.port) in str(error.value)


async def test_what_runs_elsewhere_goes_on_and_what_is_to_be_told_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "near").mkdir()
    (tmp_path / "far").mkdir()
    near, far = (RedisServer(tmp_path / name, **KEPT).start() for name in ("near", "far"))
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
