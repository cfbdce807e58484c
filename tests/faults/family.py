"""The family the fault tests run in real worker processes.

Every job notes its start and its end in a journal, a file: it outlives what the tests kill.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Literal

from daemon.context import JobContext
from daemon.family import FamilySettings, Fixed, func
from daemon.payload import Payload, PayloadModel

#: Names the folder with the journal and the files that release jobs.
FOLDER = "FAULTS_FOLDER"


class Done(PayloadModel):
    """Which job, and the process that ran it."""

    name: str
    pid: int


class Work(Payload, family="faults", returns=Done):
    """Takes ``seconds``."""

    name: str
    seconds: float = 0.0


class Hold(Payload, family="faults", returns=Done):
    """Runs until the test releases it."""

    name: str


class Cling(Payload, family="faults", returns=Done):
    """As `Hold`, and takes no notice of being cancelled."""

    name: str


class Plain(Payload, family="faults", returns=Done):
    """As `Hold`, in a thread."""

    name: str


class Crunch(Payload, family="faults", returns=Done):
    """As `Hold`, in a process of the pool."""

    name: str


class Block(Payload, family="faults", returns=Done):
    """Keeps the event loop for ``seconds``."""

    name: str
    seconds: float


class Spin(Payload, family="faults", returns=Done):
    """Never yields until the test releases it."""

    name: str


class Quiet(Payload, family="faults", returns=int):
    """Takes ``seconds`` and writes nothing anywhere."""

    seconds: float = 0.0
    tail: str = ""


class Soak(Payload, family="faults"):
    """Fails, or hangs until its time limit."""

    what: Literal["fail", "hang"]


class EndTask(Payload, family="faults"):
    """Ends a task or a thread of its worker, by name."""

    name: str


class Strange(Payload, family="faults"):
    """Gives a result, or raises an error, that cannot be written down."""

    what: Literal["object", "nested", "looped", "unspeakable", "surrogates"]


class Crash(Payload, family="faults", returns=Done):
    """Kills its worker."""

    name: str


class CrashOnce(Payload, family="faults", returns=Done):
    """Kills its worker, and must not be run again."""

    name: str


class Steps(Payload, family="faults", returns=list[str]):
    """Takes three steps, each kept with ``ctx.once``."""

    name: str


def note(event: str, name: str, job_try: int = 0) -> None:
    """Add a line to the journal; lines of several processes do not mix."""
    line = f"{time.time()} {event} {name} {job_try} {os.getpid()}\n"
    journal = os.open(Path(os.environ[FOLDER]) / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(journal, line.encode())
    finally:
        os.close(journal)


def released(name: str, pid: int | None = None) -> bool:
    """Tell whether the test lets a held job end, in every process or in this one."""
    folder = Path(os.environ[FOLDER])
    return (folder / f"release-{name}").exists() or (folder / f"release-{name}-{pid or os.getpid()}").exists()


def _end(ctx: JobContext, name: str) -> Done:
    note("end", name, ctx.job_try)
    return Done(name=name, pid=os.getpid())


async def work(ctx: JobContext, job: Work) -> Done:
    note("start", job.name, ctx.job_try)
    await asyncio.sleep(job.seconds)
    return _end(ctx, job.name)


async def hold(ctx: JobContext, job: Hold) -> Done:
    note("start", job.name, ctx.job_try)
    try:
        while not released(job.name):
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        note("cancelled", job.name, ctx.job_try)
        raise
    return _end(ctx, job.name)


async def cling(ctx: JobContext, job: Cling) -> Done:
    note("start", job.name, ctx.job_try)
    while not released(job.name):
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            note("cancelled", job.name, ctx.job_try)
    return _end(ctx, job.name)


def plain(ctx: JobContext, job: Plain) -> Done:
    note("start", job.name, ctx.job_try)
    while not released(job.name):
        time.sleep(0.02)
    return _end(ctx, job.name)


def _compute(name: str, parent: int) -> None:
    note("child", name)
    # Bounded, should it outlive its parent and the test.
    for _ in range(20_000):
        if released(name, parent):
            return
        sum(range(30_000))


async def crunch(ctx: JobContext, job: Crunch) -> Done:
    note("start", job.name, ctx.job_try)
    await ctx.run_in_process(_compute, job.name, os.getpid())
    return _end(ctx, job.name)


async def block(ctx: JobContext, job: Block) -> Done:
    note("start", job.name, ctx.job_try)
    time.sleep(job.seconds)  # noqa: ASYNC251
    return _end(ctx, job.name)


async def spin(ctx: JobContext, job: Spin) -> Done:
    note("start", job.name, ctx.job_try)
    while not released(job.name):
        sum(range(10_000))
    return _end(ctx, job.name)


async def steps(ctx: JobContext, job: Steps) -> list[str]:
    note("start", job.name, ctx.job_try)

    async def step(name: str) -> str:
        await asyncio.sleep(0.05)
        note(f"did-{name}", job.name, ctx.job_try)
        await asyncio.sleep(0.05)
        return f"{name} by {os.getpid()}"

    done = [await ctx.once(name, lambda name=name: step(name)) for name in ("one", "two", "three")]
    note("end", job.name, ctx.job_try)
    return done


async def quiet(ctx: JobContext, job: Quiet) -> int:
    await asyncio.sleep(job.seconds)
    return os.getpid()


async def soak(ctx: JobContext, job: Soak) -> None:
    if job.what == "fail":
        raise ValueError("it always fails")
    await asyncio.sleep(3600)


async def end_task(ctx: JobContext, job: EndTask) -> None:
    for task in asyncio.all_tasks():
        if task.get_name() == job.name:
            task.cancel()
    for thread in threading.enumerate():
        if thread.name == job.name:
            # SystemExit, raised in it.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
    await asyncio.sleep(30)


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


async def strange(ctx: JobContext, job: Strange) -> Any:
    nested: list[Any] = []
    for _ in range(220):
        nested = [nested]
    if job.what == "looped":
        nested[:] = [nested]
    if job.what == "unspeakable":
        raise UnspeakableError
    if job.what == "surrogates":
        raise ValueError("half a character: \ud800")
    return object() if job.what == "object" else nested


async def crash(ctx: JobContext, job: Any) -> None:
    note("start", job.name, ctx.job_try)
    os.kill(os.getpid(), signal.SIGKILL)


async def crash_by_name(ctx: JobContext, job: Crash) -> None:
    await crash(ctx, job)


async def crash_once(ctx: JobContext, job: CrashOnce) -> None:
    await crash(ctx, job)


class WorkerSettings(FamilySettings):
    family = "faults"
    functions = (
        work,
        hold,
        cling,
        plain,
        crunch,
        block,
        spin,
        steps,
        quiet,
        soak,
        end_task,
        strange,
        func(crash_by_name, name="crash"),
        func(crash_once, at_most_once=True),
    )
    backoff = Fixed(0.05)
    keep_completed = None


class SoakSettings(WorkerSettings):
    """What the soak works its first family by."""

    lease, max_jobs, max_tries, job_timeout, drain_timeout = 2, 20, 2, 2, 10
    keep_completed, keep_result = 3000, 60


class SteadySettings(SoakSettings):
    """And its second one, whose processes nobody kills."""

    family = "steady"
