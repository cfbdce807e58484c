"""What in real time the blocking connections of a simulation's processes would hear, and how long they may sleep.

When nothing can go on at once, `Waiting.settle` looks once for every process whether a wake-up mark or a message is
there for it. Leases are renewed as time passes, and a family has one timer in place of its workers' own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from daemon.claiming.session import SUSPECT_SCORE
from daemon.family import Family
from daemon.flows.courier import SWEEP_SECONDS
from daemon.keys import FamilyKeys
from daemon.testing.process import Process, SimulatedWorker
from daemon.testing.wire import Command

if TYPE_CHECKING:
    from daemon.testing.simulation import Simulation

#: Bands of the queue (lua/prelude.lua).
HELD, BLOCKED, LANE, PARKED = 2**45, 2**46 + 2**45, 2**47, 2**47 + 2**46
QUESTIONS = 5


class Waiting:
    """Who waits for what in a simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._heard = 0
        self._looked: dict[str, Family] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._sweeping = False

    def settle(self) -> bool:
        """Nothing can go on: hear whether what was written since then concerns anybody, and who may sleep how long."""
        if self._simulation.wire.calls == self._heard:
            return False
        told = self._simulation.wire.look()
        asked: list[tuple[Process, SimulatedWorker, Command]] = []
        popped: set[Command] = set()
        # Who has waited longest gets a mark; which process that is, is chance.
        for process in self._simulation.random.sample(self._simulation.processes, len(self._simulation.processes)):
            for worker in process.workers if not process.cut_off else ():
                if worker.started:
                    asked.append((process, worker, ("LPOP", worker.keys.key("ctl", process.session))))
                for name in ("mark", "suspects") if worker.listening else ():
                    command = ("ZPOPMIN", worker.keys.key(name))
                    # It is one mark: there is nothing left for who comes second.
                    if command not in popped and (name == "mark" or process.idle):
                        popped.add(command)
                        asked.append((process, worker, command))
        looked = [(family, _questions(family.keys, self._simulation.now_ms)) for family in self._looked.values()]
        outboxes = ("EXISTS", *(family.keys.key("outbox") for family in self._simulation.families))
        commands = [command for _, _, command in asked] + [each for _, questions in looked for each in questions]
        commands.append(outboxes)
        replies = self._simulation.wire.run(*commands)
        for (process, worker, command), reply in zip(asked, replies, strict=False):
            if reply:
                told = True
                process.context.run(_tell, process, worker, command, reply)
        if replies[-1] and not self._sweeping:
            self._sweeping = True
            self._simulation.later(SWEEP_SECONDS, self._sweep)
        if not told:
            self._heard = self._simulation.wire.calls
            self._looked.clear()
            for i, (family, _) in enumerate(looked):
                self._plan(family, replies[len(asked) + i * QUESTIONS :][:QUESTIONS])
        # The next timer may be another now.
        return told or bool(looked)

    def look_ahead(self, family: Family) -> None:
        """A worker of this family was told to wait: find out for how long nothing can happen.

        A worker asks at least once an hour, with delayed jobs once a minute, and when leases of others end: in a month
        of virtual time that would be most of what happens. Here a family has one timer.
        """
        self._looked[family.name] = family

    def _plan(self, family: Family, answers: Sequence[Any]) -> None:
        now = self._simulation.now_ms
        ready, suspect, in_lanes, later, leases = answers
        living = {process.session.encode() for process in self._simulation.processes if not process.cut_off}
        ends = [float(end) + 1 for name, end in zip(leases[::2], leases[1::2], strict=True) if name not in living]
        times = [*map(float, later[1:]), *ends]
        if ready or suspect or in_lanes or any(time <= now for time in times):
            # Limits and crashes have times of their own: its workers ask as they would.
            return
        for process in self._simulation.processes:
            for worker in process.workers:
                if worker.family is family:
                    worker.sleep()
        timer = self._timers.pop(family.name, None)
        if timer is not None:
            timer.cancel()
        if times:
            due = math.floor(min(times)) / 1000
            self._timers[family.name] = self._simulation.loop.call_at(
                due, self._wake, family, context=self._simulation.context
            )

    def _wake(self, family: Family) -> None:
        """Let one worker ask; the mark wakes others if there is more."""
        waiting = [
            (process, worker)
            for process in self._simulation.processes
            for worker in process.workers
            if worker.family is family and worker.listening and not process.cut_off
        ]
        if waiting:
            process, worker = self._simulation.random.choice(waiting)
            process.context.run(worker.notify_due)

    def _sweep(self) -> None:
        """Whoever was to carry what stands in an outbox is dead, perhaps."""
        self._sweeping = False
        for process in self._simulation.processes:
            process.courier.wake()

    def pass_time(self, target: float) -> None:
        """Renew leases until ``target``."""
        for process in self._simulation.processes:
            uncertain = process.uncertain
            for worker, calls in process.renewals(target):
                self._simulation.wire.run_before(calls, partial(self._renewed, process, worker))
            if uncertain and not process.uncertain:
                # It may have lost its jobs, and must hear of it.
                self._simulation.wire.run()

    def _renewed(self, process: Process, worker: SimulatedWorker, replies: list[Any]) -> None:
        if replies[-1][0] == 0:
            self._simulation.loop.call_soon(worker.lost, context=process.context)


def _questions(keys: FamilyKeys, now: int) -> list[Command]:
    """Ask for what `Simulation._plan` takes."""
    return [
        ("ZCOUNT", keys.queue, "-inf", f"({now + 1}"),
        ("ZCOUNT", keys.queue, SUSPECT_SCORE, f"({BLOCKED}"),
        ("ZCOUNT", keys.queue, LANE, f"({PARKED}"),
        ("ZRANGEBYSCORE", keys.queue, now + 1, f"({HELD}", "WITHSCORES", "LIMIT", 0, 1),
        ("ZRANGE", keys.key("workers"), 0, -1, "WITHSCORES"),
    ]


def _tell(process: Process, worker: SimulatedWorker, command: Command, reply: Any) -> None:
    if command[0] == "LPOP":
        worker.control(reply.decode("utf-8", "surrogateescape"))
    elif command[1] == worker.keys.key("mark"):
        worker.notify()
    else:
        if process.idle:
            process.isolate(worker)
        worker.notify()
