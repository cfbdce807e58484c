"""Makes the due ticks of a family's schedules. Any number of processes may: the script makes each tick once."""

from __future__ import annotations

import logging
from typing import NamedTuple

from daemon.broker import Broker, DueTick
from daemon.job import from_ms
from daemon.keys import FamilyKeys
from daemon.pages import server_ms
from daemon.scheduling.schedule import Planned, Schedule, read_schedules

logger = logging.getLogger("arqd.scheduler")

#: A tick made this late at most is only late, later it was missed: what a restart or a change of the leader takes.
GRACE_MS = 60_000
#: How many ticks ``run_all`` makes up for at most: the newest.
RUN_ALL = 100
#: A clock that went back by less is the same clock.
BACK_MS = 1000
#: Schedules looked at in one go.
BATCH = 100


class Step(NamedTuple):
    """What to do about a due tick: make one for the time ``made`` (None: leave it out); it is next due then."""

    made: int | None
    following: int | None


def step(schedule: Schedule, due: int, now: int, runs: int = 0) -> Step:
    """Decide on a tick.

    Args:
        due: when it was due, ms.
        now: Redis's clock, ms.
        runs: ticks made before.
    """
    timing = schedule.timing
    made: int | None = due
    if now - due <= GRACE_MS:
        following = timing.after(due)
    elif schedule.missed == "run_once":
        following = timing.after(now)
    elif schedule.missed == "skip":
        made, following = None, timing.after(now - GRACE_MS - 1)
    else:
        following = timing.after(due)
        oldest = timing.newest(now, RUN_ALL, since=due)
        if oldest is not None and oldest > due:
            made, following = None, oldest
    if made is not None and schedule.count is not None and runs + 1 >= schedule.count:
        following = None
    return Step(made, following)


class Ticks:
    """The schedules of one family.

    Args:
        broker: of the family; with a clock of its own, that counts in place of Redis's.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._told: set[bytes] = set()
        self._now = 0

    async def make_due(self) -> float | None:
        """Make ticks that are due, some at a time.

        Returns:
            Seconds until there is more to do; None when no tick is to come.
        """
        redis, keys = self.broker.redis, self.broker.keys
        ticks = keys.key("ticks")
        now = await server_ms(redis, keys) if self.broker.now is None else self.broker.now
        if now < self._now - BACK_MS:
            await self._bring_back(now)
        self._now = now
        async with redis.pipeline(transaction=False) as pipe:
            pipe.zrange(ticks, "-inf", now, byscore=True, offset=0, num=BATCH, withscores=True)
            pipe.zrange(ticks, f"({now}", "+inf", byscore=True, offset=0, num=1, withscores=True)
            found, coming = await pipe.execute()
        if found:
            names = [name for name, _ in found]
            async with redis.pipeline(transaction=False) as pipe:
                pipe.hmget(keys.key("schedules"), names)
                pipe.hmget(keys.key("schedule:runs"), names)
                definitions, counted = await pipe.execute()
            steps = [
                self._prepared(name.decode(), now, Planned.of(raw or b"", due, runs))
                for (name, due), raw, runs in zip(found, definitions, counted, strict=True)
            ]
            made = [tick for tick in steps if tick is not None]
            words = await self.broker.make_ticks(made) if made else []
            for tick, word in zip(made, words, strict=True):
                if word == "clear":
                    name = f"{keys.family}:{tick.name}"
                    logger.error("schedule %s makes no job: its family is encrypted, its payload is not", name)
            if made and (len(found) == BATCH or not {"ok", "clear"}.issuperset(words)):
                # More are due, or another process has made or changed one of them.
                return 0.0
            coming += [(b"", tick.following) for tick in made if tick.following is not None]
        return max(min(due for _, due in coming) - now, 0) / 1000 if coming else None

    async def _bring_back(self, now: int) -> None:
        """The clock was ahead, and what is due next by it would be silent until then."""
        for name, found in (await read_schedules(self.broker.redis, self.broker.keys)).items():
            schedule = found.readable()
            due = schedule.next_due(now, found.runs) if schedule and found.due is not None else None
            if due is not None and found.due is not None and due < found.due:
                await self.broker.plan(name, (found.definition, found.due), found.definition, due)
                written = f"{self.broker.keys.family}:{name}"
                logger.warning("schedule %s: Redis's clock went back, next due %s", written, from_ms(due).isoformat())

    def _prepared(self, name: str, now: int, found: Planned) -> DueTick | None:
        """Give the call for a tick; None when its definition cannot be used here."""
        written, due = f"{self.broker.keys.family}:{name}", found.due or 0
        try:
            schedule = found.schedule
            made, following = step(schedule, due, now, found.runs)
            job = None if made is None else schedule.job(self.broker.keys, made)
        except Exception as error:
            # Whatever stands there, perhaps of a newer version: it must not keep the others from running.
            if found.definition not in self._told:
                self._told.add(found.definition)
                logger.error("schedule %s cannot be used, its ticks are not made: %s", written, error)
            return None
        if now - due > GRACE_MS and (made is None or schedule.missed == "run_once"):
            times = from_ms(due).isoformat(), "never" if following is None else from_ms(following).isoformat()
            logger.warning(
                "schedule %s: missed since %s (%s), next due %s", written, times[0], schedule.missed, times[1]
            )
        runs = found.runs + (made is not None)
        return DueTick(name, due, found.definition, following, runs, made or found.last, job)


def ticks_of(redis: object, family: str) -> Ticks:
    """Give the schedules of a family by its name."""
    return Ticks(Broker(redis, FamilyKeys.of(family)))
