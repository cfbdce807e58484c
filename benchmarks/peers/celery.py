"""Celery with its Redis transport and result backend."""

from __future__ import annotations

import time
from typing import Any

from celery import Celery

from benchmarks.driver import WAIT_SECONDS, SharedCounter, serve, setting, tell_start, url

count = SharedCounter()
app = Celery("bench", broker=url(), backend=url(1))
app.conf.worker_prefetch_multiplier = setting("prefetch", 4)
app.conf.broker_connection_retry_on_startup = True


@app.task(name="noop")
def noop(user: int, name: str) -> int:
    """Do nothing."""
    count()
    return user


@app.task(name="wait")
def wait(user: int, name: str) -> int:
    """Wait."""
    time.sleep(WAIT_SECONDS)
    count()
    return user


@app.task(name="started")
def started(sent: int) -> int:
    """Tell when it started."""
    return tell_start(sent)


JOBS: dict[str, Any] = {"noop": noop, "wait": wait, "started": started}


class Producer:
    """The producer; it blocks."""

    async def enqueue(self, job: str, **values: Any) -> Any:
        return JOBS[job].delay(**values)

    async def enqueue_many(self, job: str, values: list[dict[str, Any]], delay: float) -> None:
        with app.producer_or_acquire() as producer:
            for each in values:
                JOBS[job].apply_async(kwargs=each, countdown=delay or None, producer=producer)

    async def result(self, handle: Any) -> Any:
        return handle.get(timeout=30)


if __name__ == "__main__":
    serve(Producer)
