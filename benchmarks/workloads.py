"""The workloads: what is measured of which systems, and with which setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import DELAY_SECONDS, Bench, Figures
from benchmarks.own import OWN
from benchmarks.server import append_only
from benchmarks.systems import Setting, System
from daemon.errors import ArqdError

#: So that a payload takes 100 bytes as JSON.
NAME_100 = "x" * 76


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        jobs: drained by a usual system; others by their share.
        singles: jobs sent to an idle worker.
        seconds: an idle worker is watched; longer than its periods but those of a minute (docs/benchmarks.md).
        waiting: backlogs; beside the largest, as many delayed jobs.
    """

    jobs: int
    singles: int
    seconds: float
    waiting: Sequence[int]

    def of(self, system: System, factor: float = 1, most: float = float("inf")) -> int:
        """Jobs of a system."""
        return max(round(self.jobs * factor * min(system.share, most)), 40)


Measure = Callable[[Bench, Setting, Sizes, int], Figures]


def _drain(bench: Bench, setting: Setting, sizes: Sizes, repeat: int) -> Figures:
    return bench.drain(setting.values, sizes.of(bench.site.system))


def _two(bench: Bench, setting: Setting, sizes: Sizes, repeat: int) -> Figures:
    one = bench.drain(setting.values, sizes.of(bench.site.system))["jobs/s"]
    bench.clear()
    # Twice as many, since it starts to count when the second is there.
    two = bench.drain(setting.values, sizes.of(bench.site.system, 2), workers=2)["jobs/s"]
    return {"jobs/s": two, "one": one, "of one": two / one}


def _waiting(bench: Bench, setting: Setting, sizes: Sizes, repeat: int) -> Figures:
    return bench.drain(setting.values, sizes.of(bench.site.system, 1, 1), job="wait")


def _enqueue(bench: Bench, setting: Setting, sizes: Sizes, repeat: int) -> Figures:
    return bench.enqueue(setting.values, sizes.of(bench.site.system, 0.1, 1), sizes.of(bench.site.system))


def _idle(bench: Bench, setting: Setting, sizes: Sizes, repeat: int) -> Figures:
    # arq at its defaults needs half a second for each.
    count = sizes.singles if bench.site.system.share >= 0.1 else max(sizes.singles // 5, 3)
    return bench.idle(setting.values, count, sizes.seconds, seed=repeat)


def _memory(bench: Bench, setting: Setting, sizes: Sizes, repeat: int) -> Figures:
    # As many of every system: tables of keys grow by doubling.
    return bench.memory(setting.values, sizes.jobs, NAME_100)


def _backlog(bench: Bench, setting: Setting, sizes: Sizes, repeat: int) -> Figures:
    figures: Figures = {}
    jobs = sizes.of(bench.site.system)
    for waiting in sizes.waiting:
        found = bench.drain(setting.values, min(jobs, waiting), beyond=max(waiting - jobs, 0))
        figures[f"{waiting:,} waiting"] = found["jobs/s"]
        bench.clear()
    delayed = max(sizes.waiting)
    bench.fill(setting.values, "noop", delayed, delay=DELAY_SECONDS)
    figures[f"{delayed:,} delayed"] = bench.drain(setting.values, jobs)["jobs/s"]
    return figures


def _aof(bench: Bench, setting: Setting, sizes: Sizes, repeat: int) -> Figures:
    without = bench.drain(setting.values, sizes.of(bench.site.system))["jobs/s"]
    bench.clear()
    with append_only(bench.client):
        everysec = bench.drain(setting.values, sizes.of(bench.site.system))["jobs/s"]
    return {"jobs/s": everysec, "without": without, "of without": everysec / without}


def _own(bench: Bench, setting: Setting, sizes: Sizes, repeat: int) -> Figures:
    figures: Figures = {}
    for measure in OWN:
        figures |= measure(bench, setting, sizes.of(bench.site.system), sizes.seconds)
        bench.clear()
    return figures


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload.

    Attributes:
        takes_part: the systems it is measured of unless others are asked for.
        tries: every setting of a system is measured, to find the best.
        waits: takes the systems' settings for jobs that wait.
    """

    name: str
    measure: Measure
    takes_part: Callable[[System], bool] = lambda system: True
    tries: bool = False
    waits: bool = False

    def settings(self, system: System, best: str | None) -> list[Setting]:
        """Give the settings it is measured with; ``best``: name of the one that was found."""
        if self.tries:
            return list(system.settings) if len(system.settings) > 1 else []
        if self.waits:
            return [system.waiting] if system.waiting else []
        return [next((each for each in system.settings if each.name == best), system.settings[0])]


WORKLOADS: tuple[Workload, ...] = (
    Workload("settings", _drain, tries=True),
    Workload("drain", _drain),
    Workload("two", _two),
    Workload("waiting", _waiting, waits=True),
    Workload("enqueue", _enqueue),
    Workload("idle", _idle),
    Workload("memory", _memory),
    Workload("backlog", _backlog, lambda system: system.large),
    Workload("aof", _aof),
    Workload("own", _own, lambda system: system.name == "arqd"),
)


def by_name(names: str | None, known: Mapping[str, Any], what: str) -> list[Any]:
    """Give what names with commas between them mean, in the order it is known in; all for None.

    Raises:
        ArqdError: naming the one there is none of, and what there is.
    """
    wanted = list(known) if names is None else [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        raise ArqdError(f"there is no {what} {unknown[0]!r}, only {', '.join(known)}")
    return [known[name] for name in known if name in wanted]
