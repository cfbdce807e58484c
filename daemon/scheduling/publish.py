"""What a worker process tells Redis of its family's ``cron_jobs`` when it starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from daemon.broker import Broker
from daemon.pages import server_ms
from daemon.schedules import run_once
from daemon.scheduling.cron_jobs import StaticSchedule
from daemon.scheduling.schedule import Planned, Schedule, read_schedules
from daemon.scheduling.scheduler import announce, wake

logger = logging.getLogger("arqd.scheduler")


async def publish(broker: Broker, wanted: Sequence[StaticSchedule]) -> None:
    """Make the schedules that come from a family's settings these.

    An unchanged one stays due when it is, a changed one is due anew if its times have changed, one that is not among
    them is removed. A pause stays. Those made at run time are not touched, also one that has the name of one of these.
    """
    redis, family = broker.redis, broker.keys.family
    by_name = {each.schedule.name: each.schedule for each in wanted}
    found = await read_schedules(redis, broker.keys)
    if by_name:
        await announce(redis, family)
    # What another process that starts now has changed meanwhile is looked at again.
    while changes := _changes(found, by_name, await server_ms(redis, broker.keys)):
        for name, (old, new, due) in changes.items():
            before = (old.definition, old.due) if old else (None, None)
            await broker.plan(name, before, new.as_bytes() if new else None, due)
        await wake(redis, family)
        found = await read_schedules(redis, broker.keys)
    for name in by_name:
        there = found[name].readable()
        if there and there.source != "settings":
            logger.error("schedule %s:%s of the settings is not used: one made at run time has its name", family, name)


async def run_at_startup(broker: Broker, wanted: Sequence[StaticSchedule]) -> None:
    """Enqueue the jobs of those that also run when a worker starts, unless the job of another start still lives."""
    for each in wanted:
        if each.run_at_startup:
            await run_once(broker, each.schedule, dedup_key=f"startup:{each.schedule.name}")


def _changes(
    found: dict[str, Planned], wanted: dict[str, Schedule], now: int
) -> dict[str, tuple[Planned | None, Schedule | None, int | None]]:
    """Give what there is, what it becomes and when that is due, for all that has to change."""
    changes: dict[str, tuple[Planned | None, Schedule | None, int | None]] = {}
    for name, old in found.items():
        if name not in wanted and (before := old.readable()) and before.source == "settings":
            changes[name] = (old, None, None)
    for name, schedule in wanted.items():
        planned = found.get(name)
        before = planned.readable() if planned else None
        if planned is None or before is None:
            changes[name] = (planned, schedule, schedule.next_due(now))
            continue
        schedule = replace(schedule, paused=before.paused)
        if before.source == "settings" and schedule != before:
            same = (schedule.timing, schedule.count) == (before.timing, before.count)
            changes[name] = (planned, schedule, planned.due if same else schedule.next_due(now, planned.runs))
    return changes
