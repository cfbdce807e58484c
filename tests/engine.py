"""Families on a Supervisor in the test's own event loop, started and stopped cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from daemon.errors import JobNotFound
from daemon.family import Family, FamilySettings, JobFunction, func, load_family
from daemon.job import JobInfo, JobState
from daemon.producer import JobHandle
from daemon.supervisor import Supervisor
from tests.servers import each_node

T = TypeVar("T")


def make_family(name: str, *functions: Callable[..., Any] | JobFunction, **values: Any) -> Family:
    """Give a family as its ``WorkerSettings`` class would; a plain function is registered by its bare name."""
    registered = [f if isinstance(f, JobFunction) else func(f, name=f.__name__) for f in functions]
    return load_family(type("WorkerSettings", (FamilySettings,), {"family": name, "functions": registered, **values}))


@asynccontextmanager
async def working(url: str, *families: Family, **options: Any) -> AsyncIterator[Supervisor]:
    """Work these families until the block ends; what then still runs is handed back at once.

    An error that ends the process, at start or later, is raised here.
    """
    supervisor = Supervisor(families, url, handle_signals=False, **options)
    task = asyncio.create_task(supervisor.run())
    try:
        await until(lambda: supervisor.state != "starting" or task.done())
        yield supervisor
    finally:
        if not task.done():
            supervisor.drain()
            supervisor.drain()
        await asyncio.wait_for(task, 60)


async def run_burst(url: str, *families: Family, timeout: float = 60, **options: Any) -> Supervisor:
    """Work these families until nothing waits any more."""
    supervisor = Supervisor(families, url, handle_signals=False, burst=True, **options)
    await asyncio.wait_for(supervisor.run(), timeout)
    return supervisor


async def until(condition: Callable[[], T], seconds: float = 60) -> T:
    """Poll a condition until it is true, and give what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.005)
    return found


async def eventually(condition: Callable[[], Awaitable[T]], seconds: float = 60) -> T:
    """Poll an asynchronous condition until it is true, and give what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := await condition()):
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)
    return found


def calls(url: str, *commands: str) -> int:
    """How often clients have called these commands; scripts' own calls of them count, too."""
    stats = [node.info("commandstats") for node in each_node(url)]
    return sum(found.get(f"cmdstat_{command}", {}).get("calls", 0) for found in stats for command in commands)


async def in_state(job: JobHandle, state: JobState, tries: int = 0) -> JobInfo:
    """Wait for a state and a number of ended tries."""

    async def reached() -> JobInfo | None:
        with contextlib.suppress(JobNotFound):
            info = await job.info()
            return info if info.state is state and info.tries >= tries else None
        return None

    found = await eventually(reached)
    assert found is not None
    return found
