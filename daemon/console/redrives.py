"""Redrives that run beside requests: dead letters sent back with care, which takes as long as their canaries do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from daemon.console.audit import Audit, Doing
from daemon.console.problems import problem_of
from daemon.console.roles import Actor
from daemon.errors import ArqdError, JobNotFound
from daemon.job import new_id
from daemon.redrive import Redrive, Redriven, RedriveState

logger = logging.getLogger("arqd.console")

#: Redrives that have ended and are still told.
_TOLD = 50


@dataclass(frozen=True, slots=True)
class Care:
    """How carefully to send back: see `daemon.redrive.Redrive`; ``rate`` in jobs a second, ``patience`` in seconds."""

    canaries: int = 3
    rate: float | None = 50.0
    tolerance: int = 1
    patience: float = 600.0


@dataclass(slots=True)
class RedriveView:
    """Dead letters on their way back.

    Attributes:
        state: ``stopped``: a cause came back, or no canary completed.
        groups: how far each cause is.
    """

    id: str
    family: str
    by: str
    begun: datetime
    state: Literal["running", "done", "stopped", "cancelled", "failed"] = "running"
    error: str | None = None
    groups: list[Redriven] = field(default_factory=list)


class Redrives:
    """Those that this process runs, and the last that have ended.

    One ends with the process; what was not sent back then is still a dead letter.
    """

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._views: dict[str, RedriveView] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def known(self) -> list[RedriveView]:
        """Give them, the newest first."""
        return list(reversed(self._views.values()))

    def begin(self, actor: Actor, work: Redrive, family: str, **detail: Any) -> RedriveView:
        """Run one beside requests.

        Args:
            detail: what else the audit log is to say of it.
        """
        view = RedriveView(new_id(), family, actor.name, datetime.now(UTC), groups=work.groups)
        self._views[view.id] = view
        ended = [each for each, known in self._views.items() if known.state != "running"]
        for old in ended[:-_TOLD]:
            del self._views[old]
        doing = Doing(actor, "dead.redrive", family, {"redrive": view.id, **detail})
        self._tasks[view.id] = asyncio.create_task(self._run(work, view, doing), name=f"redrive {view.id}")
        return view

    async def cancel(self, redrive: str) -> RedriveView:
        """Stop one; what was not sent back stays a dead letter.

        Raises:
            JobNotFound: when there is none of this id.
        """
        if redrive not in self._views:
            raise JobNotFound(f"there is no redrive {redrive[:70]!r} in this process")
        await self._end([redrive])
        return self._views[redrive]

    async def close(self) -> None:
        """Stop all of them."""
        await self._end(list(self._tasks))

    async def _end(self, ids: Sequence[str]) -> None:
        tasks = [self._tasks[each] for each in ids if each in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, work: Redrive, view: RedriveView, doing: Doing) -> None:
        def look(done: int, total: int) -> None:
            view.groups = work.groups

        try:
            async with self._audit.entry(doing):
                try:
                    await work.run(look)
                finally:
                    view.groups = work.groups
                    doing.detail["retried"] = sum(group.retried for group in work.groups)
        except asyncio.CancelledError:
            view.state = "cancelled"
        except ArqdError as error:
            view.state, view.error = "failed", problem_of(error).detail
        except Exception as error:
            view.state, view.error = "failed", type(error).__name__
            logger.exception("a redrive failed")
        else:
            view.state = "done" if all(one.state is RedriveState.DONE for one in work.groups) else "stopped"
        finally:
            self._tasks.pop(view.id, None)
