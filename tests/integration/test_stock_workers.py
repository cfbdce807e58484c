"""Stock arq's own command and ``arqd run --accept-pickle`` work one queue at the same time."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.jobs import Job, JobStatus
from arq.worker import JobExecutionFailed

from tests.engine import eventually
from tests.marks import one_url

pytestmark = one_url

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = "tests.integration.stock_settings"
COMMANDS = {
    "arq": ["-m", "arq", f"{SETTINGS}.WorkerSettings"],
    "arqd": ["-m", "daemon", "run", f"{SETTINGS}:WorkerSettings", "--accept-pickle"],
}


class Workers:
    """Worker processes on one server."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, kind: str, name: str = "") -> subprocess.Popen[bytes]:
        name = name or kind
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("ARQD_")}
        heartbeat = str(self._folder / f"{name}.json")
        environ = {**inherited, "ARQD_REDIS_URL": self._url, "WORKER": name, "ARQD_HEARTBEAT_FILE": heartbeat}
        with self.log(name).open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *COMMANDS[kind]], cwd=ROOT, env=environ, stdout=output, stderr=output
            )
        self._started.append(process)
        return process

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()


@pytest.fixture
def workers(redis_url: str, tmp_path: Path) -> Iterator[Workers]:
    found = Workers(redis_url, tmp_path)
    yield found
    found.end()


@pytest.fixture
async def pool(redis_url: str) -> AsyncIterator[ArqRedis]:
    pool = await create_pool(RedisSettings.from_dsn(redis_url))
    yield pool
    await pool.aclose()


async def both(workers: Workers, pool: ArqRedis) -> None:
    """Start a worker of each kind, and wait until both work."""
    for kind in COMMANDS:
        workers.start(kind)

    async def up() -> bool:
        return await pool.llen("up") == len(COMMANDS)

    await eventually(up)


async def listed(pool: ArqRedis, key: str) -> list[list[str]]:
    return [entry.decode().split() for entry in await pool.lrange(key, 0, -1)]


async def enqueued(pool: ArqRedis, function: str, *args: object) -> Job:
    job = await pool.enqueue_job(function, *args)
    assert job is not None
    return job


async def test_no_job_runs_twice_and_none_is_lost(workers: Workers, pool: ArqRedis) -> None:
    before = [await enqueued(pool, "quick", number) for number in range(100)]
    await both(workers, pool)
    jobs = before + [await enqueued(pool, "quick", number) for number in range(100, 500)]
    retried = [await enqueued(pool, "third_time") for _ in range(12)]
    given_up = [await enqueued(pool, "never") for _ in range(6)]
    assert [await job.result(40, poll_delay=0.05) for job in jobs] == list(range(500))
    assert [await job.result(60, poll_delay=0.05) for job in retried] == [3] * 12
    for job in given_up:
        with pytest.raises(JobExecutionFailed, match="max 3 retries exceeded"):
            await job.result(60, poll_delay=0.05)
    runs = await listed(pool, "runs")
    assert Counter(int(number) for number, _ in runs) == Counter(range(500))
    assert {worker for _, worker in runs} == {"arq", "arqd"}
    tries = Counter(tuple(entry) for entry in await listed(pool, "tries"))
    assert tries == {(job.job_id, str(number)): 1 for job in (*retried, *given_up) for number in (1, 2, 3)}

    async def only_a_cron_job_is_left() -> bool:
        return await pool.zcard("arq:queue") <= 1

    await eventually(only_a_cron_job_is_left)


async def test_stock_clients_read_right_states_and_stop_jobs_on_either_side(workers: Workers, pool: ArqRedis) -> None:
    await both(workers, pool)
    jobs = {job.job_id: job for job in [await enqueued(pool, "hold") for _ in range(8)]}

    async def all_held() -> bool:
        return await pool.llen("held") == len(jobs)

    await eventually(all_held)
    where = {job_id: worker for job_id, worker in await listed(pool, "held")}  # noqa: C416
    assert Counter(where.values()) == {"arq": 4, "arqd": 4}
    waiting = await enqueued(pool, "quick", 1)
    assert {await job.status() for job in jobs.values()} == {JobStatus.in_progress}
    assert await waiting.status() is JobStatus.queued
    for worker in COMMANDS:
        job = next(job for job_id, job in jobs.items() if where[job_id] == worker)
        info = await job.info()
        assert info is not None
        assert info.function == "hold"
        assert await job.abort(timeout=60, poll_delay=0.05) is True
        assert await job.status() is JobStatus.complete
        del jobs[job.job_id]
    await pool.set("go", 1)
    assert {job_id: await job.result(60, poll_delay=0.05) for job_id, job in jobs.items()} == {
        job_id: where[job_id] for job_id in jobs
    }
    assert await waiting.result(60, poll_delay=0.05) == 1
    assert await pool.llen("held") == 8


async def test_a_cron_job_runs_once_each_time(workers: Workers, pool: ArqRedis) -> None:
    await both(workers, pool)

    async def enough() -> bool:
        return await pool.llen("beats") >= 4

    await eventually(enough)
    times = sorted(int(job_id.rpartition(":")[2]) for (job_id,) in await listed(pool, "beats"))
    assert len(times) == len(set(times))
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == [1000] * (len(times) - 1)


async def test_a_job_handed_back_by_one_is_run_by_the_other(workers: Workers, pool: ArqRedis) -> None:
    arqd = workers.start("arqd")
    jobs = [await enqueued(pool, "hold") for _ in range(4)]

    async def held() -> bool:
        return await pool.llen("held") == 4

    await eventually(held)
    arqd.terminate()
    arqd.wait(60)
    workers.start("arq")
    await pool.set("go", 1)
    assert [await job.result(60, poll_delay=0.05) for job in jobs] == ["arq"] * 4
    assert await pool.zcard("arq:abort") == 0


async def test_pickle_is_warned_of_loudly_and_only_where_it_is_on(workers: Workers, pool: ArqRedis) -> None:
    workers.start("arqd")
    job = await enqueued(pool, "quick", 1)
    await job.result(60, poll_delay=0.05)
    log = workers.log("arqd").read_text()
    (line,) = [line for line in log.splitlines() if "PICKLE IS ACCEPTED" in line]
    assert '"level": "warning"' in line.lower()
    assert "redis_settings is not used" in log


async def test_an_idle_worker_that_shares_its_queue_polls(workers: Workers, pool: ArqRedis) -> None:
    workers.start("arqd")
    await eventually(lambda: pool.llen("up"))
    calls = (await pool.info("commandstats"))["cmdstat_evalsha"]["calls"]

    async def polled() -> bool:
        return bool((await pool.info("commandstats"))["cmdstat_evalsha"]["calls"] >= calls + 5)

    await eventually(polled)
