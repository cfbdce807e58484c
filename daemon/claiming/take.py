"""The claim a sleeping worker leaves with the server: a call behind the pop in which it sleeps (``lua/take.lua``).

The server runs it as soon as the pop has ended, so the job that ends it comes along, and nobody has to ask: waking two
processes for a question and its answer is what the start of a single job mostly costs.

1. `load` comes before a pop; `send` sends one with the call behind it.
2. What it brings is started as soon as it is read; `arrived` tells whether that was a job. A process that stands still
   takes one, too: where it is late with its lease, the job counts as not begun, and that it begins is told on the
   connection that has just shown that it lives.
3. What was taken before the session registered anew has been released by that. What finds no slot goes back uncounted,
   and so does what waited for a process that stood still: another may have it by now.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, ResponseError

from daemon.broker import Claim, Outcome
from daemon.claiming.prefetch import PATIENCE
from daemon.connecting.channel import Channel
from daemon.lua import SCRIPTS

if TYPE_CHECKING:
    from daemon.worker import Worker

logger = logging.getLogger("arqd.wakeups")


class Take:
    """What one worker claims in its sleep.

    Args:
        worker: one that may claim ahead (`Prefetch.allowed`).
        channel: the connection of its pops.
    """

    def __init__(self, worker: Worker, channel: Channel) -> None:
        self._worker = worker
        self._channel = channel
        self._reply: asyncio.Future[Any] | None = None
        self._number = self._loaded = 0
        self._brought = False

    def load(self) -> None:
        """Load the scripts, before a pop, where this connection has not yet."""
        if self._loaded != self._channel.opened:
            self._loaded = self._channel.opened
            for name in ("take", "begin"):
                self._channel.tell("SCRIPT", "LOAD", SCRIPTS[name].text)

    async def send(self, pop: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Send a pop with the call behind it; gives the pop's reply to wait for."""
        worker, self._reply = self._worker, None
        if worker.session.registering:
            # What it claims would be released at once.
            return await self._channel.start(*pop)
        self._number, self._brought = worker.session.reserve(), False
        timeout, lease = worker.tick_settings.default_timeout, worker.lease_ms
        call = worker.broker.call("take", worker.supervisor.session, self._number, timeout, lease)
        popped, self._reply = await self._channel.start_both(pop, call, self._heard)
        return popped

    async def arrived(self) -> bool:
        """Wait for the call's reply; False when it brought no job.

        Raises:
            redis.exceptions.RedisError: when the connection was lost.
        """
        if self._reply is None:
            return False
        try:
            await self._reply
        except NoScriptError:
            self._loaded = 0
        except ResponseError as error:
            logger.debug("nothing claimed in sleep: %s", error)
        self._reply = None
        return self._brought

    @property
    def under_way(self) -> bool:
        """Whether there may be a claim that was not heard of."""
        return self._reply is not None

    def _heard(self, reply: list[Any]) -> None:
        if reply:
            self._brought = True
            now, job_id, record, score, begun = reply
            self._start(Claim(job_id, record, score), now, begun == b"1")

    def _start(self, claim: Claim, now_ms: int, begun: bool) -> None:
        worker, number = self._worker, self._number
        if number < worker.session.registered:
            return
        # By the time of day: it goes on while a machine is suspended.
        waited = time.time() * 1000 - worker.session.clock_ahead - now_ms
        if not worker.may_claim or waited > PATIENCE * 1000:
            worker.session.outcomes.append(Outcome("l", claim.id, number, "", -1, score=claim.score))
            worker.nudge()
        elif begun or self._channel.tell(*worker.broker.call("begin", worker.supervisor.session, claim.id)):
            worker.take(claim, number, now_ms)
