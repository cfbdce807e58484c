"""A worker in a process of its own that is killed at one await point of its handler; see test_once.py."""

from __future__ import annotations

import asyncio
import os
import signal
import types
from collections import Counter
from collections.abc import Coroutine, Generator
from pathlib import Path
from typing import Any

from daemon.context import JobContext, current_job
from daemon.family import Family
from daemon.supervisor import Supervisor
from tests.engine import make_family

STEPS = ("charge", "ship", "mail")


async def effect(journal: Path, step: str) -> str:
    """Leave a mark outside, which no kill undoes, between two await points; give what another run would not."""
    await asyncio.sleep(0)
    value = f"{step}-{os.urandom(4).hex()}"
    with journal.open("a") as file:
        file.write(f"{step}\n")
    await asyncio.sleep(0)
    return value


async def order(ctx: JobContext, path: str) -> list[str]:
    values = []
    for step in STEPS:
        values.append(await ctx.once(step, lambda step=step: effect(Path(path), step)))
        await asyncio.sleep(0)
    return values


def effects(journal: Path) -> Counter[str]:
    return Counter(journal.read_text().split() if journal.exists() else ())


class Killer:
    """Counts the await points of a handler and of the tasks it makes, and kills the process at one of them.

    Args:
        point: odd numbers are the moment of going to sleep, even ones that of waking up.
    """

    def __init__(self, point: int) -> None:
        self._left = point

    def _pass(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    @types.coroutine
    def drive(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        value, error = None, None
        while True:
            try:
                awaited = coroutine.throw(error) if error else coroutine.send(value)
            except StopIteration as stop:
                return stop.value
            self._pass()
            try:
                value, error = (yield awaited), None
            except BaseException as thrown:
                value, error = None, thrown
            self._pass()

    def make_task(self, loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        """Make a task; what the handler starts is counted, too."""
        context = options.get("context")
        of_handler = (context.get(current_job) if context else current_job.get()) is not None
        return asyncio.Task(self._wrapped(coroutine) if of_handler else coroutine, loop=loop, **options)

    async def _wrapped(self, coroutine: Any) -> Any:
        return await self.drive(coroutine)

    def family(self) -> Family:
        """The family, with the handler counted."""

        async def counted(ctx: JobContext, path: str) -> list[str]:
            found: list[str] = await self._wrapped(order(ctx, path))
            return found

        counted.__name__ = "order"
        return make_family("once", counted)


def run(url: str, point: int) -> None:
    """Work until nothing waits any more, or until the point is reached."""

    async def main() -> None:
        killer = Killer(point)
        asyncio.get_running_loop().set_task_factory(killer.make_task)
        await Supervisor([killer.family()], url, handle_signals=False, burst=True).run()

    asyncio.run(main())
