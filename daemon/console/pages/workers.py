"""Workers: heartbeat, what they run, how busy their event loops are; and the Redis behind them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from daemon.connecting.connections import translated
from daemon.console.api.common import Viewer
from daemon.console.pages import formats
from daemon.console.pages.frame import board_of, page
from daemon.console.queues import running_jobs
from daemon.console.services import Services, services_of
from daemon.errors import RedisRefused
from daemon.inspector import WorkerInfo
from daemon.job import JobInfo

router = APIRouter()

#: Jobs of one worker that are named.
NAMED = 5


@dataclass(slots=True)
class Row:
    """What a process does of one family: some of its jobs, and how many more it holds."""

    worker: WorkerInfo
    jobs: list[JobInfo]
    more: int


@dataclass(slots=True)
class Process:
    """A process, which has one lease and one event loop for all its families."""

    session: str
    rows: list[Row] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Host and process id."""
        worker = self.rows[0].worker
        return f"{worker.host}:{worker.pid}" if worker.pid else "Just starting"

    @property
    def lease(self) -> float:
        """Seconds until it counts as dead; negative: it does."""
        return max(row.worker.lease_seconds for row in self.rows)

    @property
    def state(self) -> str:
        """In a word."""
        workers = [row.worker for row in self.rows]
        if self.lease <= 0:
            return "lost"
        if any(worker.draining for worker in workers):
            return "draining"
        return "running" if any(worker.holds for worker in workers) else "idle"

    @property
    def lag(self) -> float:
        """How late its event loop was, seconds."""
        return max(row.worker.lag for row in self.rows)

    @property
    def memory(self) -> int | None:
        """Bytes it takes, where it tells."""
        return self.rows[0].worker.memory

    @property
    def started(self) -> datetime | None:
        """When it started."""
        return self.rows[0].worker.started


@router.get("/workers")
async def workers(request: Request, actor: Viewer) -> Response:
    """Show every process that works a queue."""
    services = services_of(request)
    board = await board_of(request).board()
    found = await services.inspector.only(queue.family for queue in board.queues).workers()
    running = await running_jobs(services.inspector, {worker.family for worker in found if worker.holds})
    processes: dict[str, Process] = {}
    for worker in found:
        jobs = running.get((worker.family, worker.session), [])
        shown = jobs[:NAMED]
        row = Row(worker, shown, max(worker.holds, len(jobs)) - len(shown))
        processes.setdefault(worker.session, Process(worker.session)).rows.append(row)
    live = [worker for worker in found if worker.lease_seconds > 0]
    return await page(
        request,
        actor,
        "workers.html",
        section="workers",
        processes=sorted(processes.values(), key=lambda process: process.name),
        # What a worker publishes itself is some seconds old.
        running=sum(worker.holds for worker in live),
        slots=sum(worker.slots for worker in live),
        server=await _server(services),
    )


async def _server(services: Services) -> list[tuple[str, str]]:
    """Give what is worth knowing of Redis; nothing where its user may not ask."""
    try:
        with translated():
            info: dict[str, Any] = await services.redis.info()
    except RedisRefused:
        return []
    used, limit = info.get("used_memory", 0), info.get("maxmemory", 0)
    memory = (
        f"{formats.size(used)} of {formats.size(limit)} ({formats.percent(used, limit)})"
        if limit
        else f"{formats.size(used)}, no limit"
    )
    clients = [formats.number(info.get(f"{name}_clients", 0)) for name in ("connected", "blocked")]
    return [
        (
            "Server",
            f"{info.get('server_name', 'redis')} {info.get('valkey_version') or info.get('redis_version', '?')}",
        ),
        ("Memory", memory),
        ("When full", str(info.get("maxmemory_policy", "?"))),
        ("Clients", f"{clients[0]} connected, {clients[1]} waiting for work"),
        ("Commands", f"{formats.number(info.get('instantaneous_ops_per_sec', 0))} a second"),
        ("Up for", formats.span(float(info.get("uptime_in_seconds", 0)))),
        ("Role", f"{info.get('role', '?')}, {formats.number(info.get('connected_slaves', 0))} replicas"),
        ("Persistence", "append-only file" if info.get("aof_enabled") else "no append-only file"),
    ]
