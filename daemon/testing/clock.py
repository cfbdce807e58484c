"""An event loop whose time is virtual: when nothing can go on at once, it jumps to the next timer.

What runs in it belongs to a *process* of the simulation, or to none: `current_process` in its context says to which. A
process that is `halted` stands as a killed one does: none of its code runs any more, not even a ``finally``.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import selectors
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any

_Callback = tuple[Callable[..., Any], tuple[Any, ...], Context]


class Halting:
    """Something whose code can be stopped at once and for good."""

    def __init__(self) -> None:
        self.halted = False
        # Held here: nobody else holds what stands still, and its end as garbage would run its code at any time.
        self.tasks: set[asyncio.Task[Any]] = set()
        self.stopped_calls: list[_Callback] = []


current_process: ContextVar[Halting | None] = ContextVar("arqd_simulated_process", default=None)


class _Selector(selectors.DefaultSelector):
    """Lets the loop jump where another would wait."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # The loop's own pipe is always there, and in a simulation nothing comes through it.
        found = super().select(0) if len(self.get_map()) > 1 else []
        if not found and (timeout is None or timeout > 0):
            self.loop.nothing_to_do(timeout)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop.

    Args:
        start: seconds since the epoch; `time` goes on from there.
        settle: called when nothing can go on at once; True when it has found something that can.
        passing: called with the time the loop is about to jump to.
    """

    def __init__(self, start: float, settle: Callable[[], bool], passing: Callable[[float], None]) -> None:
        selector = _Selector()
        selector.loop = self
        self._now = start
        self._settle = settle
        self._passing = passing
        self._quiet: list[asyncio.Future[None]] = []
        super().__init__(selector)
        # A float holds today's time to 2.4e-7 s: a timer that is so near is due.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Virtual seconds since the epoch."""
        return self._now

    def nothing_to_do(self, timeout: float | None) -> None:
        """Jump to the next timer, ``timeout`` seconds away, unless something has come up for this moment."""
        if self._settle():
            return
        if self._quiet:
            for future in self._quiet:
                if not future.done():
                    future.set_result(None)
            self._quiet.clear()
            return
        if timeout is None:
            raise RuntimeError("the simulation stands still: what is waited for cannot happen any more")
        target = self._now + timeout
        self._passing(target)
        self._now = target

    async def quiet(self) -> None:
        """Wait until all that can happen at this moment has happened."""
        future = self.create_future()
        self._quiet.append(future)
        await future

    # ------------------------------------------------------------------ halted processes

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """See ``asyncio``; the calls of a halted process are put away."""
        context = copy_context() if context is None else context
        handle = super().call_soon(callback, *args, context=context)
        owner = context.get(current_process)
        if owner is not None and owner.halted:
            owner.stopped_calls.append((callback, args, context))
            handle.cancel()
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See ``asyncio``; a halted process has no timers."""
        context = copy_context() if context is None else context
        handle = super().call_at(when, callback, *args, context=context)
        owner = context.get(current_process)
        if owner is not None and owner.halted:
            handle.cancel()
        return handle

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """See ``asyncio``; a task belongs to the process that makes it."""
        task = super().create_task(coro, **options)
        context: Context | None = options.get("context")
        owner = current_process.get() if context is None else context.get(current_process)
        if owner is not None:
            owner.tasks.add(task)
            task.add_done_callback(owner.tasks.discard)
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run it here and now: no thread or process could be waited for while time is virtual."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def halt(self, process: Halting) -> None:
        """Stop a process where it stands."""
        process.halted = True
        for handle in [*self._ready, *self._scheduled]:  # type: ignore[attr-defined]
            if not handle._cancelled and handle._context.get(current_process) is process:
                if not isinstance(handle, asyncio.TimerHandle):
                    process.stopped_calls.append((handle._callback, handle._args, handle._context))
                handle.cancel()

    async def bury(self, process: Halting) -> None:
        """Let go of what a halted process left, by cancelling it: its coroutines would complain of being dropped."""
        process.halted = False
        for callback, args, context in process.stopped_calls:
            self.call_soon(callback, *args, context=context)
        process.stopped_calls.clear()
        while tasks := [task for task in process.tasks if not task.done()]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=60)


class World:
    """What a program can ask that is not the same each time: the clocks of ``time``, ``random``, ``os.urandom``,
    ``secrets.token_hex``.

    Args:
        loop: whose time it is.
        seed: of what is random.
    """

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        self._loop = loop
        self._bytes = random.Random(f"bytes {seed}")  # noqa: S311
        self._tokens = random.Random(f"tokens {seed}")  # noqa: S311
        self._state = random.Random(f"random {seed}").getstate()  # noqa: S311

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be in it; what was there before comes back afterwards."""
        replaced: dict[str, Callable[[], Any]] = {}
        for name in ("time", "monotonic", "perf_counter"):
            replaced[name] = self._loop.time
            replaced[f"{name}_ns"] = self._nanoseconds
        kept = {name: getattr(time, name) for name in replaced}
        state, urandom, token_hex = random.getstate(), os.urandom, secrets.token_hex
        try:
            vars(time).update(replaced)
            os.urandom, secrets.token_hex = self._bytes.randbytes, self._token_hex
            random.setstate(self._state)
            yield
        finally:
            self._state = random.getstate()
            random.setstate(state)
            os.urandom, secrets.token_hex = urandom, token_hex
            vars(time).update(kept)

    def _token_hex(self, nbytes: int | None = None) -> str:
        return self._tokens.randbytes(nbytes or 32).hex()

    def _nanoseconds(self) -> int:
        return round(self._loop.time() * 1000) * 1_000_000
