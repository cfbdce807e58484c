"""Traces of jobs: when each is enqueued, when it is due, how long it runs. Seconds; each is the same in every run."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """One job; ``due`` is later than ``enqueued`` where it was delayed."""

    enqueued: float
    due: float
    runs: float


@dataclass(frozen=True, slots=True)
class Trace:
    """Jobs, and the family they are of: its slots per pod, and its drain timeout."""

    name: str
    about: str
    jobs: list[Job]
    seconds: int
    slots: int
    drain_timeout: float = 30.0


def traces() -> list[Trace]:
    """Give the four traces."""
    draw = random.Random(13)  # noqa: S311 - not for secrets

    def job(at: float, mean: float, delay: float = 0.0) -> Job:
        return Job(at, at + delay, mean * draw.uniform(0.5, 1.5))

    steady = [job(draw.uniform(0, 7200), 2.0) for _ in range(7200 * 8)]
    # Retries and reminders: a tenth is due an hour later.
    steady = [Job(each.enqueued, each.due + 3600 * (draw.random() < 0.1), each.runs) for each in steady]
    burst = [job(draw.uniform(0, 3600), 0.5) for _ in range(3600)] + [job(600, 0.5) for _ in range(20_000)]
    # Handed over in the evening, due at two o'clock; the day is short here.
    nightly = [job(draw.uniform(0, 1800), 3.0, 0) for _ in range(900)]
    nightly += [Job(at, 14_400, 3.0 * draw.uniform(0.5, 1.5)) for at in (draw.uniform(1800, 3600) for _ in range(6000))]
    long = [job(at, 600.0) for at in (draw.uniform(0, 7200) for _ in range(120))]
    return [
        Trace("steady", "8 a second of 2 s, a tenth of them due an hour later", steady, 10_800, 10),
        Trace("burst", "1 a second of 0.5 s, and 20,000 at once", burst, 3600, 10),
        Trace("nightly batch", "6,000 of 3 s, handed over three hours before they are due", nightly, 18_000, 10),
        Trace("long jobs", "1 a minute of 10 minutes, 2 slots", long, 10_800, 2),
    ]
