"""RQ."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from redis import Redis
from rq import Queue

from benchmarks.driver import WAIT_SECONDS, SharedCounter, serve, tell_start, url

count = SharedCounter()


def noop(user: int, name: str) -> int:
    """Do nothing."""
    count()
    return user


def wait(user: int, name: str) -> int:
    """Wait."""
    time.sleep(WAIT_SECONDS)
    count()
    return user


def started(sent: int) -> int:
    """Tell when it started."""
    return tell_start(sent)


class Producer:
    """The producer; it blocks."""

    def __init__(self) -> None:
        self._queue = Queue(connection=Redis.from_url(url()))

    async def enqueue(self, job: str, **values: Any) -> Any:
        return self._queue.enqueue(f"benchmarks.peers.rq.{job}", kwargs=values)

    async def enqueue_many(self, job: str, values: list[dict[str, Any]], delay: float) -> None:
        name = f"benchmarks.peers.rq.{job}"
        if delay:
            for each in values:
                self._queue.enqueue_in(timedelta(seconds=delay), name, kwargs=each)
        else:
            self._queue.enqueue_many([Queue.prepare_data(name, kwargs=each) for each in values])

    async def result(self, handle: Any) -> Any:
        return handle.latest_result(timeout=30).return_value


if __name__ == "__main__":
    serve(Producer)
