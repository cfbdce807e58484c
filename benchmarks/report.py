"""What was measured, as tables and as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from benchmarks.drain import Drain
from benchmarks.latency import Latency
from daemon import __version__

RunName = tuple[str, str]
BASE: RunName = ("arq", "tuned")
BEST: RunName = ("arqd", "tuned")


@dataclass(slots=True)
class Results:
    """All repeats of a comparison, by system and setup (drains also by backlog), in the order to show."""

    server: str
    jobs: int
    repeats: int
    drains: dict[tuple[str, str, int], list[Drain]] = field(default_factory=dict)
    latencies: dict[RunName, list[Latency]] = field(default_factory=dict)

    @property
    def machine(self) -> dict[str, Any]:
        """What it ran on."""
        return {
            "arqd": __version__,
            "arq": version("arq"),
            "redis-py": version("redis"),
            "python": platform.python_version(),
            "system": platform.system(),
            "processors": os.cpu_count(),
            "server": self.server,
        }

    def as_json(self) -> dict[str, Any]:
        """Every figure of every repeat; times in seconds, costs per job."""
        return {
            "machine": self.machine,
            "jobs": self.jobs,
            "repeats": self.repeats,
            "drain": [
                {"system": system, "setup": setup, "runs": [{"rate": run.rate, **asdict(run)} for run in runs]}
                for (system, setup, _), runs in self.drains.items()
            ],
            "latency": [
                {
                    "system": system,
                    "setup": setup,
                    **{
                        name: {"p50": quantile(times, 50), "p99": quantile(times, 99), "times": times}
                        for name, times in _times(runs).items()
                    },
                }
                for (system, setup), runs in self.latencies.items()
            ],
            "ratios": ratios(self),
        }

    def as_text(self) -> str:
        """The tables."""
        about = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        ratio_lines = [f"{name}: {_spread(found, '.2f')}" for name, found in ratios(self).items()]
        tables = (_rate_table(self), _cost_table(self), _latency_table(self), ratio_lines)
        return "\n\n".join([about, *("\n".join(lines) for lines in tables)])


def quantile(times: Sequence[float], percent: int) -> float:
    """The time that so many percent of the jobs did not exceed (nearest rank)."""
    return sorted(times)[-(-len(times) * percent // 100) - 1]


def ratios(results: Results) -> dict[str, list[float]]:
    """The figures that the comparison is about, one per repeat: what ran side by side is compared."""
    sizes = sorted({waiting for _, _, waiting in results.drains})

    def rates(name: RunName, waiting: int) -> list[float]:
        return [run.rate for run in results.drains[(*name, waiting)]]

    def divided(above: list[float], below: list[float]) -> list[float]:
        return [a / b for a, b in zip(above, below, strict=True)]

    found = {
        f"jobs/s with {waiting:,} waiting, arqd tuned / arq tuned": divided(rates(BEST, waiting), rates(BASE, waiting))
        for waiting in sizes
    }
    for name in (BEST, BASE) if len(sizes) > 1 else ():
        between = f"jobs/s of {' '.join(name)}, {sizes[-1]:,} / {sizes[0]:,} waiting"
        found[between] = divided(rates(name, sizes[-1]), rates(name, sizes[0]))
    return found


def _times(runs: Sequence[Latency]) -> dict[str, list[float]]:
    return {
        "pick_up": [time for run in runs for time in run.pick_up],
        "round_trip": [time for run in runs for time in run.round_trip],
    }


def _rate_table(results: Results) -> list[str]:
    header = ("drain by one process", "waiting", "jobs/s", "(min–max)", "without a producer")
    rows = []
    for (system, setup, waiting), runs in results.drains.items():
        rate, spread = _spread([run.rate for run in runs], ",.0f").split()
        alone = f"{statistics.median(run.alone_rate for run in runs):,.0f}"
        rows.append((f"{system} {setup}", f"{waiting:,}", rate, spread, alone))
    return _table(header, rows)


def _cost_table(results: Results) -> list[str]:
    header = ("cost of a job", "waiting", "calls", "commands", "bytes in", "out", "worker CPU µs", "server CPU µs")
    rows = []
    for (system, setup, waiting), runs in results.drains.items():

        def cell(name: str, form: str, runs: list[Drain] = runs) -> str:
            values = [value for run in runs if (value := getattr(run, name)) is not None]
            return format(statistics.median(values), form) if values else "-"

        forms = {"calls": ".2f", "commands": ".1f", "bytes_in": ",.0f", "bytes_out": ",.0f"}
        cells = [cell(name, form) for name, form in {**forms, "worker_cpu": ".0f", "server_cpu": ".0f"}.items()]
        rows.append((f"{system} {setup}", f"{waiting:,}", *cells))
    return _table(header, rows)


def _latency_table(results: Results) -> list[str]:
    header = ("idle, milliseconds", "pick-up p50", "p99", "round trip p50", "p99", "jobs")
    rows = []
    for (system, setup), runs in results.latencies.items():
        times = _times(runs)
        cells = [f"{quantile(times[name], percent) * 1000:,.2f}" for name in times for percent in (50, 99)]
        rows.append((f"{system} {setup}", *cells, str(len(times["pick_up"]))))
    return _table(header, rows)


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = (header, *rows)
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
