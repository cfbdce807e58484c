"""Sending dead letters back with care: some of each cause first, then the rest at a limited rate.

Of each group a few jobs, its canaries, are sent back and watched. Only when none of them is a dead letter of the same
cause again, and one has completed, the rest follows in portions; a dead letter of the same cause stops that. Groups are
independent of each other: one bug that is not fixed does not hold up the jobs of another that is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from daemon.broker import Broker
from daemon.connecting.connections import translated
from daemon.control import Control, Progress
from daemon.dead_letters import DeadGroup, Walk, group, groups
from daemon.errors import InvalidJob, JobStateError
from daemon.keys import raw_id
from daemon.pages import EVERY, INDEX, PAGE, JobFilter, server_ms

#: Groups that are sent back at the same time: canaries that are tried several times take a while.
AT_ONCE = 8
#: Jobs in one call of a script without a rate, and the part of a second they are for with one.
PORTION, SLICE = 100, 0.2
#: Waits between looks at canaries, seconds: the first, and the longest.
FIRST_LOOK, LONGEST_LOOK = 0.05, 1.0


class RedriveState(StrEnum):
    """How far a group is: the last four are ends."""

    FOUND = "found"
    CANARIES = "canaries"
    SENDING = "sending"
    DONE = "done"
    CAME_BACK = "came_back"
    NONE_COMPLETED = "none_completed"
    NOT_IN_TIME = "not_in_time"


@dataclass(slots=True)
class Redriven:
    """A group on its way back.

    Attributes:
        found: dead letters the filter let through at the beginning.
        retried: how many were sent back, canaries included.
        left: how many were not.
        came_back: dead letters of this cause that ended since the beginning.
    """

    group: DeadGroup
    found: int
    left: int
    retried: int = 0
    came_back: int = 0
    state: RedriveState = RedriveState.FOUND


class Redrive:
    """Sends a family's dead letters back, those that a filter lets through.

    It can be interrupted at any point (cancelled, or its process killed): what was not sent is still a dead letter, and
    a new one goes on with it. ``groups`` tells all the while what has been done.

    Args:
        control: with a connection to the family's Redis.
        canaries: jobs of each group that are tried first, at most 500; 0: none.
        rate: jobs a second, canaries included, over all groups; None: no limit.
        tolerance: so many new dead letters of the same cause stop a group once its canaries are through.
        patience: how long canaries are watched, in seconds.

    Raises:
        InvalidJob: for an unknown family or a number that cannot be meant.
    """

    def __init__(
        self, control: Control, family: str, where: JobFilter = EVERY, *, canaries: int = 3, rate: float | None = 50,
        tolerance: int = 1, patience: float = 600,
    ) -> None:  # fmt: skip
        if not 0 <= canaries <= PAGE:
            raise InvalidJob(f"canaries are 0 to {PAGE}, not {canaries}")
        if rate is not None and not rate > 0:
            raise InvalidJob(f"rate is more than 0 jobs a second, not {rate:g}; None is no limit")
        if tolerance < 1:
            raise InvalidJob(f"tolerance is 1 or more dead letters, not {tolerance}")
        self.groups: list[Redriven] = []
        self._inspector, self._redis = control.inspector, control.redis
        self._keys = control.inspector.of(family)
        self._broker = Broker(control.redis, self._keys)
        self._family, self._where = family, where
        self._canaries, self._rate, self._tolerance, self._patience = canaries, rate, tolerance, patience
        self._began = 0
        self._free_at = 0.0
        self._progress: Progress = lambda done, total: None

    async def look(self) -> list[Redriven]:
        """Count what `run` would send back; changes nothing.

        Raises:
            JobNotFound: when the filter names a group that is not there.
            InvalidJob: when it is one of another family.
        """
        with translated():
            self._began = await server_ms(self._redis, self._keys)
            self.groups = []
            for found in await self._candidates():
                count = await self._walk(found).count()
                if count:
                    self.groups.append(Redriven(found, count, count))
        return self.groups

    async def run(self, progress: Progress | None = None) -> list[Redriven]:
        """Send back; ends when every group is done or stopped.

        Args:
            progress: called after every portion with how many were sent back and how many there were.

        Raises:
            JobStateError: when the queue is paused or has no worker, so that no canary would run.
            JobNotFound, InvalidJob: as `look`. RedisUnavailable, RedisRefused: ``groups`` tells what was done.
        """
        self._progress = progress or self._progress
        waiting = iter(await self.look())
        if self._canaries and self.groups:
            await self.refuse_idle_queue()
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(AT_ONCE, len(self.groups))):
                    tasks.create_task(self._work(waiting))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return self.groups

    async def _candidates(self) -> list[DeadGroup]:
        where = self._where
        if where.cause is not None:
            found = await group(self._inspector, where.cause)
            if found.family != self._keys.family:
                raise InvalidJob(f"group {where.cause} is one of {found.family}, not of {self._family}")
            return [found]
        return [
            found
            for found in await groups(self._inspector, self._family)
            if where.error in (None, found.type) and (where.function is None or where.function in found.functions)
        ]

    def _walk(self, of: DeadGroup) -> Walk:
        return Walk(self._redis, self._keys, replace(self._where, cause=of.id), self._began)

    async def refuse_idle_queue(self) -> None:
        """Refuse a queue in which no canary would run; `run` does so, too.

        Raises:
            JobStateError: when it is paused or has no worker.
        """
        queue = await self._inspector.queue(self._family)
        if queue.paused or not queue.workers:
            why = "is paused" if queue.paused else "has no worker"
            raise JobStateError(f"{self._family} {why}, so canaries would not run: see to that, or ask for no canaries")

    # ------------------------------------------------------------------ one group

    async def _work(self, waiting: Iterator[Redriven]) -> None:
        with translated():
            for one in waiting:
                one.state = await self._send_back(one)

    async def _send_back(self, one: Redriven) -> RedriveState:
        walk = self._walk(one.group)
        if self._canaries:
            one.state = RedriveState.CANARIES
            canaries = await walk.take(self._canaries)
            await self._pace(len(canaries))
            sent = await self._send(one, canaries)
            stopped = await self._watch(one, sent) if one.left else None
            if stopped:
                return stopped
        one.state = RedriveState.SENDING
        portion = PORTION if self._rate is None else max(1, int(min(PORTION, self._rate * SLICE)))
        while ids := await walk.take(portion):
            await self._pace(len(ids))
            if await self._came_back(one) >= self._tolerance:
                return RedriveState.CAME_BACK
            await self._send(one, ids)
        one.left = 0
        return RedriveState.DONE

    async def _send(self, one: Redriven, ids: Sequence[str]) -> list[str]:
        """Send jobs back; gives those that still were dead letters."""
        sending = asyncio.create_task(self._sent(one, ids))
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            # What the call under way does is told, too.
            await sending
            raise

    async def _sent(self, one: Redriven, ids: Sequence[str]) -> list[str]:
        words = await self._broker.redrive(ids) if ids else []
        sent = [job_id for job_id, word in zip(ids, words, strict=True) if word == "retried"]
        one.retried += len(sent)
        one.left = max(0, one.left - len(ids))
        self._progress(sum(each.retried for each in self.groups), sum(each.found for each in self.groups))
        return sent

    async def _pace(self, count: int) -> None:
        """Wait until so many jobs may be sent."""
        if self._rate is not None:
            now = asyncio.get_running_loop().time()
            start = max(self._free_at, now)
            self._free_at = start + count / self._rate
            await asyncio.sleep(start - now)

    async def _came_back(self, one: Redriven) -> int:
        key = self._keys.key("cause", one.group.id)
        one.came_back = int(await self._redis.zcount(key, f"({self._began}", "+inf"))
        return one.came_back

    async def _watch(self, one: Redriven, canaries: Sequence[str]) -> RedriveState | None:
        """Wait until the canaries have ended; None when the rest may follow."""
        loop = asyncio.get_running_loop()
        until, wait, waiting, completed = loop.time() + self._patience, FIRST_LOOK, list(canaries), 0
        while waiting:
            waiting, done, same = await self._states(waiting, one.group.id.encode())
            completed += done
            if same:
                await self._came_back(one)
                return RedriveState.CAME_BACK
            if waiting and loop.time() >= until:
                return RedriveState.NOT_IN_TIME
            if waiting:
                await asyncio.sleep(min(wait, max(0.0, until - loop.time())))
                wait = min(wait * 1.5, LONGEST_LOOK)
        return None if completed else RedriveState.NONE_COMPLETED

    async def _states(self, ids: Sequence[str], cause: bytes) -> tuple[list[str], int, int]:
        """Give the jobs that have not ended, how many completed, and how many are dead letters of this cause."""
        raw = [raw_id(job_id) for job_id in ids]
        async with self._redis.pipeline(transaction=False) as pipe:
            # First whether they are queued: one that is not has ended, and stays so during the other commands.
            pipe.zmscore(self._keys.queue, raw)
            for index in INDEX.values():
                pipe.zmscore(self._keys.key(index), raw)
            pipe.hmget(self._keys.key("caused"), raw)
            queued, *ended, causes = await pipe.execute()
        waiting, completed, same = [], 0, 0
        for i, job_id in enumerate(ids):
            done, dead, aborted, expired = (index[i] is not None for index in ended)
            if queued[i] is not None:
                waiting.append(job_id)
            elif dead:
                same += causes[i] == cause
            else:
                # One of which nothing is left keeps no result: it has completed, and not failed at any rate.
                completed += done or not (aborted or expired)
        return waiting, completed, same
