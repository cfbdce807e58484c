"""arqd: its jobs, and its worker process (``python -m benchmarks.arqd_side default|tuned``)."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import uvloop

from benchmarks.side import NAME, URL_VARIABLE
from benchmarks.side import Producer as SideProducer
from daemon import codec
from daemon.broker import Broker
from daemon.context import JobContext
from daemon.family import FamilySettings, load_family
from daemon.handle import JobHandle
from daemon.keys import FamilyKeys
from daemon.options import new_job
from daemon.payload import Payload
from daemon.producer import Producer, SyncProducer
from daemon.supervisor import Supervisor

KEYS = FamilyKeys.of(NAME)
CHUNK = 10_000


class Noop(Payload, family=NAME, returns=int):
    """Payload of the job whose rate is measured."""

    user: int
    name: str


class Started(Payload, family=NAME, returns=int):
    """Payload of the job that tells when it started."""


async def noop(ctx: JobContext, job: Noop) -> int:
    """The job whose rate is measured."""
    return job.user


async def started(ctx: JobContext, job: Started) -> int:
    """Tell when it started."""
    return time.monotonic_ns()


class Default(FamilySettings):
    """What arqd does when nothing is set."""

    family = NAME
    functions = (noop, started)


class Tuned(Default):
    """As many slots as tuned arq, and all results kept as arq keeps them."""

    max_jobs = 500
    keep_completed = None


class _Producer:
    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    async def enqueue(self) -> JobHandle:
        return await self._producer.enqueue(Started())

    async def result(self, handle: JobHandle, poll_delay: float) -> int:
        return cast(int, await handle.result(timeout=30))

    async def close(self) -> None:
        await self._producer.close()


class ArqdSide:
    """arqd."""

    name = "arqd"
    module = "benchmarks.arqd_side"
    queue = KEYS.queue
    client_commands: frozenset[str] | None = frozenset(
        {"evalsha", "eval", "script|load", "bzpopmin", "blpop", "client|unblock"}
    )

    def fill(self, url: str, count: int) -> None:
        """Add jobs as a service does that has many."""
        with SyncProducer.connect(url) as producer:
            for done in range(0, count, CHUNK):
                size = min(CHUNK, count - done)
                producer.enqueue_many(Noop(user=number, name="Ada") for number in range(size))

    def commands(self, count: int) -> Iterable[tuple[Any, ...]]:
        """One call of the script for all, as ``enqueue_many`` makes it."""
        values: list[Any] = []
        for number in range(count):
            args = b"[" + codec.encode({"user": number, "name": "Ada"}) + b"]"
            values += new_job(KEYS, "noop", args, 5, {})
        yield Broker(None, KEYS).call("enqueue", 0, *values)

    async def producer(self, url: str) -> SideProducer:
        """Connect as a service does."""
        return _Producer(Producer.connect(url))


async def _work(settings: type[FamilySettings], folder: Path) -> None:
    # With all that `arqd run` does beside the work, the heartbeat file included.
    await Supervisor([load_family(settings)], os.environ[URL_VARIABLE], heartbeat=folder / "heartbeat.json").run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as made:
        uvloop.run(_work({"default": Default, "tuned": Tuned}[sys.argv[1]], Path(made)))
