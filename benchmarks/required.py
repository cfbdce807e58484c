"""What arqd has to reach, and whether it does: ratios to its peers in the same run, and what it is against itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.results import Results
from benchmarks.systems import SYSTEMS

#: The field that is compared with as "Python": neither arqd, nor what runs on Node, nor arq at its defaults.
PYTHON = tuple(system.name for system in SYSTEMS if system.name not in {"arqd", "bullmq", "arq-default"})
BASE_BACKLOG = "100,000 waiting"

Value = Callable[[Results], float | None]


@dataclass(frozen=True, slots=True)
class Requirement:
    """A line: ``least`` says that more is better."""

    what: str
    value: Value
    required: float
    aim: float
    least: bool = True

    def met(self, value: float) -> bool:
        """Whether it is."""
        return value >= self.required if self.least else value <= self.required


def _against(workload: str, other: str, figure: str) -> Value:
    return lambda results: results.ratio(workload, "arqd", other, figure)


def _against_best(workload: str, figure: str, best: Callable[..., str], names: tuple[str, ...]) -> Value:
    def value(results: Results) -> float | None:
        medians = {name: results.median(workload, name, figure) for name in names}
        known = {name: median for name, median in medians.items() if median is not None}
        return results.ratio(workload, "arqd", best(known, key=lambda name: known[name]), figure) if known else None

    return value


def _own(figure: str, workload: str = "own") -> Value:
    return lambda results: results.median(workload, "arqd", figure)


def _of_possible(results: Results) -> float | None:
    rate = results.median("waiting", "arqd", "jobs/s")
    return rate / 10_000 if rate else None


def cpu(results: Results, system: str) -> float | None:
    """Processor time of worker and server, µs a job."""
    parts = [results.median("drain", system, f"{who} CPU µs") for who in ("worker", "server")]
    return sum(part for part in parts if part is not None) if None not in parts else None


def _cpu(results: Results) -> float | None:
    ours, theirs = cpu(results, "arqd"), cpu(results, "bullmq")
    return ours / theirs if ours and theirs else None


def backlogs(results: Results, kind: str = "waiting") -> list[str]:
    """The backlogs that were measured, by size."""
    repeats = results.rows.get("backlog", {}).get("arqd", {}).get("repeats", [])
    names = {name for repeat in repeats for name in repeat if name.endswith(kind)}
    return sorted(names, key=lambda name: int(name.split()[0].replace(",", "")))


def _large(kind: str) -> Value:
    def value(results: Results) -> float | None:
        names = backlogs(results, kind)
        return results.ratio("backlog", "arqd", "arqd", names[-1], BASE_BACKLOG) if names else None

    return value


def _backlog_against_bullmq(results: Results) -> float | None:
    names = [*backlogs(results), *backlogs(results, "delayed")]
    ratios = [results.ratio("backlog", "arqd", "bullmq", name) for name in names]
    known = [ratio for ratio in ratios if ratio is not None]
    return min(known) if known else None


REQUIREMENTS: tuple[Requirement, ...] = (
    Requirement("drain, one process, against arq", _against("drain", "arq", "jobs/s"), 15, 20),
    Requirement("drain, one process, against BullMQ", _against("drain", "bullmq", "jobs/s"), 2, 3),
    Requirement(
        "drain, one process, against the best other Python peer",
        _against_best("drain", "jobs/s", max, tuple(name for name in PYTHON if name != "arq")),
        6,
        9,
    ),
    Requirement("two worker processes against one", _own("of one", "two"), 1.2, 1.25),
    Requirement("enqueue one by one against BullMQ", _against("enqueue", "bullmq", "one by one/s"), 1, 1.5),
    Requirement("enqueue in bulk against BullMQ", _against("enqueue", "bullmq", "in bulk/s"), 3, 4),
    Requirement("pick-up p50 when idle against BullMQ", _against("idle", "bullmq", "pick-up p50 ms"), 0.6, 0.4, False),
    Requirement(
        "pick-up p50 when idle against the best Python peer",
        _against_best("idle", "pick-up p50 ms", min, PYTHON),
        1,
        0.7,
        False,
    ),
    Requirement(
        "round trip to the result p50 against BullMQ", _against("idle", "bullmq", "round trip p50 ms"), 0.35, 0.2, False
    ),
    Requirement("jobs of 10 ms, 100 at a time: of the 10,000/s possible", _of_possible, 0.9, 0.95),
    Requirement("processor time of worker and server against BullMQ", _cpu, 0.45, 0.3, False),
    Requirement("memory of a waiting job against arq", _against("memory", "arq", "bytes a waiting job"), 1, 0.9, False),
    Requirement("drain with the largest backlog against 100,000 waiting", _large("waiting"), 0.6, 0.8),
    Requirement("drain with as many delayed beside against 100,000 waiting", _large("delayed"), 0.6, 0.8),
    Requirement("drain with any of these backlogs against BullMQ", _backlog_against_bullmq, 2, 2),
    Requirement("14 families in one process against one", _own("14 families / 1"), 0.9, 0.9),
    Requirement("1,000 groups against none", _own("1,000 groups / none"), 0.8, 0.8),
    Requirement("append-only file, synced every second, against none", _own("of without", "aof"), 0.7, 0.74),
    Requirement("idle: commands a second", _own("idle commands/s", "idle"), 2, 1.2, False),
    Requirement("idle: commands a second, 14 families", _own("idle commands/s, 14 families"), 5, 1.2, False),
    Requirement("import of the producer against redis.asyncio", _own("import ratio"), 1.3, 1.3, False),
    Requirement("start of a worker to its first job, seconds", _own("start to first job s"), 1, 1, False),
)
