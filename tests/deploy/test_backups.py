"""Copies taken under load, restored, and every acknowledged job accounted for: docs/operations/backups.md."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemon.connecting.connections import connect
from daemon.errors import PermanentError
from daemon.family import FamilySettings, load_family
from daemon.inspecting.consistency import find_leaks
from daemon.inspector import Inspector
from daemon.producer import Producer
from daemon.supervisor import Supervisor
from tests.servers import RedisServer, binary_of

FAMILY = "saved"


async def work(ctx: Any, kind: str) -> str:
    """Take a while; some are wrong for good."""
    if kind == "wrong":
        raise PermanentError("as it was told")
    await asyncio.sleep(0.02 if kind == "quick" else 0.5)
    return kind


class WorkerSettings(FamilySettings):
    family = FAMILY
    functions = (work,)
    max_jobs, lease, keep_completed = 4, 1, None


def supervisor(url: str) -> Supervisor:
    return Supervisor([load_family(WorkerSettings)], url, handle_signals=False)


async def until(condition: Callable[[], Any], what: str) -> None:
    async with asyncio.timeout(100):
        while not condition():
            await asyncio.sleep(0.02)


async def copy_dump(server: RedisServer, folder: Path) -> None:
    with server.client() as client:
        client.bgsave()
        await until(lambda: not client.info("persistence")["rdb_bgsave_in_progress"], "saved")
        assert client.info("persistence")["rdb_last_bgsave_status"] == "ok"
    shutil.copy(server.data_dir / "dump.rdb", folder)


async def copy_append_only_file(server: RedisServer, folder: Path) -> None:
    with server.client() as client:
        client.config_set("auto-aof-rewrite-percentage", 0)
        await until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "no rewrite")
        shutil.copytree(server.data_dir / "appendonlydir", folder / "appendonlydir")
        client.config_set("auto-aof-rewrite-percentage", 100)


@pytest.mark.parametrize("program", ["valkey", "redis"])
async def test_every_acknowledged_job_is_accounted_for(program: str, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("server", "dump", "append-only")}
    for folder in folders.values():
        folder.mkdir()
    binary = binary_of(program)
    server = RedisServer(folders["server"], program=binary, appendonly="yes", appendfsync="always").start()
    restored: list[RedisServer] = []
    acknowledged: dict[str, list[str]] = {}
    try:
        async with Producer.connect(server.url) as producer:
            jobs = [await producer.enqueue("work", ["quick"], family=FAMILY) for _ in range(80)]
            jobs += [await producer.enqueue("work", ["slow"], family=FAMILY) for _ in range(6)]
            jobs += [await producer.enqueue("work", ["wrong"], family=FAMILY, priority="critical") for _ in range(5)]
            jobs += [await producer.enqueue("work", ["later"], family=FAMILY, delay=3600) for _ in range(10)]
            known = [job.id for job in jobs]
            running = supervisor(server.url)
            working = asyncio.create_task(running.run())

            async def go_on() -> None:
                while True:
                    known.append((await producer.enqueue("work", ["quick"], family=FAMILY)).id)
                    await asyncio.sleep(0.005)

            producing = asyncio.create_task(go_on())
            await until(lambda: running.workers, "it begins")
            worker = running.workers[0]
            await until(lambda: worker.jobs_complete >= 40 and worker.running, "half of them, and some run")
            for name, copy in (("dump", copy_dump), ("append-only", copy_append_only_file)):
                # So many that some wait still when the copy is taken.
                known += [job.id for job in await producer.enqueue_many("work", [["quick"]] * 40, family=FAMILY)]
                acknowledged[name] = list(known)
                await copy(server, folders[name])
            producing.cancel()
            running.drain()
            running.drain()
            await asyncio.gather(producing, working, return_exceptions=True)
        server.kill()
        for name, ids in acknowledged.items():
            config = {"appendonly": "yes" if name == "append-only" else "no"}
            restored.append(RedisServer(folders[name], program=binary, **config).start())
            await _accounted_for(restored[-1], ids)
    finally:
        for each in (server, *restored):
            each.kill()


async def _accounted_for(server: RedisServer, ids: list[str]) -> None:
    async with Inspector.connect(server.url, [FAMILY]) as inspector:
        before = [await inspector.job(job_id) for job_id in ids]
        states = {str(job.state) for job in before}
        assert {"completed", "delayed", "failed", "waiting"} <= states <= {
            "completed", "delayed", "failed", "waiting", "active",
        }  # fmt: skip
        # Those that ran are taken up after a lease.
        running = supervisor(server.url)
        working = asyncio.create_task(running.run())
        async with asyncio.timeout(100):
            while {str((await inspector.job(job_id)).state) for job_id in ids} - {"completed", "delayed", "failed"}:
                await asyncio.sleep(0.2)
        running.drain()
        await working
        after = [await inspector.job(job_id) for job_id in ids]
        assert sum(str(job.state) == "failed" for job in after) == 5
        assert sum(str(job.state) == "delayed" for job in after) == 10
    client = connect(server.url)
    assert (await find_leaks(client, load_family(WorkerSettings))).leaks == []
    await client.aclose()
