"""Huey."""

from __future__ import annotations

import time
from typing import Any

from huey import RedisHuey

from benchmarks.driver import WAIT_SECONDS, SharedCounter, serve, setting, tell_start, url

count = SharedCounter()
huey = RedisHuey("bench", url=url(), notify_result=bool(setting("notify_result", False)))


@huey.task()
def noop(user: int, name: str) -> int:
    """Do nothing."""
    count()
    return user


@huey.task()
def wait(user: int, name: str) -> int:
    """Wait."""
    time.sleep(WAIT_SECONDS)
    count()
    return user


@huey.task()
def started(sent: int) -> int:
    """Tell when it started."""
    return tell_start(sent)


JOBS: dict[str, Any] = {"noop": noop, "wait": wait, "started": started}


class Producer:
    """The producer; it blocks."""

    async def enqueue(self, job: str, **values: Any) -> Any:
        return JOBS[job](**values)

    async def enqueue_many(self, job: str, values: list[dict[str, Any]], delay: float) -> None:
        for each in values:
            if delay:
                JOBS[job].schedule(kwargs=each, delay=delay)
            else:
                JOBS[job](**each)

    async def result(self, handle: Any) -> Any:
        return handle.get(blocking=True, timeout=30)


if __name__ == "__main__":
    # A task's name has its module's in it, and the consumer imports this one by its name.
    from benchmarks.peers import huey as imported

    serve(imported.Producer)
