"""dramatiq."""

from __future__ import annotations

import time
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.driver import WAIT_SECONDS, SharedCounter, serve, tell_start, url

count = SharedCounter()
broker = RedisBroker(url=url())
broker.add_middleware(Results(backend=RedisBackend(url=url(1)), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(user: int, name: str) -> int:
    """Do nothing."""
    count()
    return user


@dramatiq.actor
def wait(user: int, name: str) -> int:
    """Wait."""
    time.sleep(WAIT_SECONDS)
    count()
    return user


@dramatiq.actor
def started(sent: int) -> int:
    """Tell when it started."""
    return tell_start(sent)


JOBS: dict[str, Any] = {"noop": noop, "wait": wait, "started": started}


class Producer:
    """The producer; it blocks."""

    async def enqueue(self, job: str, **values: Any) -> Any:
        return JOBS[job].send(**values)

    async def enqueue_many(self, job: str, values: list[dict[str, Any]], delay: float) -> None:
        for each in values:
            JOBS[job].send_with_options(kwargs=each, delay=int(delay * 1000) or None)

    async def result(self, handle: Any) -> Any:
        return handle.get_result(block=True, timeout=30_000)


if __name__ == "__main__":
    serve(Producer)
