"""Asks Redis what alerts judge: counts, workers, the last hour, servers, how soon jobs start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from daemon.alerts.objectives import MINUTES, Objective, Starts
from daemon.alerts.rules import Reading, Server
from daemon.inspector import Inspector

_FULL = "its memory is full: new jobs are refused"


def together(parts: Sequence[Reading], *, more: bool) -> Reading:
    """Make one reading of those of several servers.

    Args:
        more: there are other servers, which did not answer: where there is one in all, it needs no name.
    """
    found = Reading()
    servers: dict[str, Server] = {}
    for part in parts:
        found.queues += part.queues
        found.hours |= part.hours
        found.lost |= part.lost
        found.starts |= part.starts
        # Families of a cluster are read one by one, and many of them are on one node.
        servers |= {server.name: server for server in part.servers}
    found.queues.sort(key=lambda queue: queue.family)
    named = more or len(servers) > 1
    found.servers = [server if named else replace(server, name="") for server in servers.values()]
    return found


async def read(inspector: Inspector, objectives: Sequence[Objective]) -> Reading:
    """Read everything, in a number of round trips that does not depend on how many jobs there are.

    Raises:
        RedisError: of ``daemon.errors``, when Redis cannot be asked.
    """
    queues = await inspector.queues()
    names = [queue.family for queue in queues]
    reading = Reading(queues)
    figures = await inspector.figures(names)
    reading.hours = {name: hour for name, (_, hour) in zip(names, figures, strict=True)}
    for worker in await inspector.workers():
        if worker.lease_seconds <= 0:
            reading.lost[worker.family] = reading.lost.get(worker.family, 0) + 1
    reading.servers = [
        Server(each.name, each.used, each.limit, _FULL if each.full else "") for each in await inspector.servers()
    ]
    ages = {queue.family: queue.oldest_age_seconds for queue in queues}
    for objective in objectives:
        # What a group's jobs waited is not counted, only how long they wait.
        if objective.family in ages and objective.group is None:
            minutes = await inspector.starts(objective.family, objective.limit, MINUTES)
            reading.starts[objective] = Starts(minutes, ages[objective.family])
        elif objective.family in ages and objective.group is not None:
            age = await inspector.oldest_of_group(objective.family, objective.group)
            reading.starts[objective] = Starts((), age)
    return reading
