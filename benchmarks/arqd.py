"""arqd: its jobs, its worker process and its producer (``python -m benchmarks.arqd work | produce``).

Run as the peers' programs are, in arqd's own environment. Everything a user has by default is on: leases, results,
events, statistics, typed payloads, the heartbeat file.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.driver import WAIT_SECONDS, Counter, serve, setting, tell_start, url
from daemon.context import JobContext
from daemon.family import FamilySettings, func, load_family
from daemon.keys import FamilyKeys
from daemon.payload import Payload
from daemon.producer import Producer, SyncProducer
from daemon.producing.handle import JobHandle
from daemon.producing.options import JobOptions
from daemon.supervisor import Supervisor

#: The family; of several the first.
NAME = "bench"
KEYS = FamilyKeys.of(NAME)
FILL = 10_000

count = Counter()


class Noop(Payload, family=NAME, returns=int):
    """Payload of the job whose rate is measured."""

    user: int
    name: str


class Wait(Noop, family=NAME, returns=int):
    """Payload of the job that waits."""


class Started(Payload, family=NAME, returns=int):
    """Payload of the job that tells when it started."""

    sent: int = 0


async def noop(ctx: JobContext, job: Noop) -> int:
    """Do nothing."""
    count()
    return job.user


async def wait(ctx: JobContext, job: Wait) -> int:
    """Wait."""
    await asyncio.sleep(WAIT_SECONDS)
    count()
    return job.user


async def started(ctx: JobContext, job: Started) -> int:
    """Tell when it started."""
    return tell_start(job.sent)


class Default(FamilySettings):
    """What arqd does when nothing is set."""

    family = NAME
    functions = (noop, wait, started)


class Tuned(Default):
    """Many slots, and all results kept."""

    max_jobs = 500
    keep_completed = None


def fill(address: str, jobs: int) -> None:
    """Add jobs as a service does that has many."""
    with SyncProducer.connect(address) as producer:
        for done in range(0, jobs, FILL):
            producer.enqueue_many(Noop(user=number, name="Ada") for number in range(done, min(done + FILL, jobs)))


def further_family(number: int) -> tuple[type[Payload], type[FamilySettings]]:
    """Give payload and settings of one more family with a ``noop`` of its own."""
    name = f"{NAME}-{number}"

    class Further(Noop, family=name, function="noop", returns=int):
        pass

    async def handler(ctx: JobContext, job: Any) -> int:
        count()
        return int(job.user)

    handler.__annotations__["job"] = Further
    return Further, type("Settings", (FamilySettings,), {"family": name, "functions": (func(handler, name="noop"),)})


PAYLOADS: dict[str, type[Payload]] = {"noop": Noop, "wait": Wait, "started": Started}


class _Producer:
    def __init__(self) -> None:
        self._producer = Producer.connect(url())

    async def enqueue(self, job: str, **values: Any) -> JobHandle:
        return await self._producer.enqueue(PAYLOADS[job](**values))

    async def enqueue_many(
        self, job: str, values: list[dict[str, Any]], delay: float, groups: int = 0, family: int = 0
    ) -> None:
        payload = further_family(family)[0] if family else PAYLOADS[job]
        options: JobOptions = {"delay": delay} if delay else {}
        if groups:
            each = [((payload(**fields), None), JobOptions(group=f"g{fields['user'] % groups}")) for fields in values]
            await self._producer.enqueue_each(each)
        else:
            await self._producer.enqueue_many([payload(**fields) for fields in values], **options)

    async def result(self, handle: JobHandle) -> Any:
        return await handle.result(timeout=30)


async def work(*settings: type[FamilySettings]) -> None:
    """Run a worker with all that ``arqd run`` does beside the work, the heartbeat file included."""
    with tempfile.TemporaryDirectory() as folder:
        await Supervisor([load_family(each) for each in settings], url(), heartbeat=Path(folder, "heartbeat")).run()


def _settings() -> list[type[FamilySettings]]:
    names = ("max_jobs", "keep_completed", "max_events", "statistics")
    values = {name: setting(name, None) for name in names if setting(name, "") != ""}
    bases: list[type[FamilySettings]] = [Default]
    bases += [further_family(number)[1] for number in range(1, setting("families", 1))]
    return [type("Settings", (base,), values) for base in bases]


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    if sys.argv[1] == "work":
        uvloop.run(work(*_settings()))
    else:
        serve(_Producer, uvloop.run)
