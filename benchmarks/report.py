"""What was measured, as tables and as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
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
                {"system": system, "setup": setup, "waiting": waiting, "runs": [{"rate": r.rate, **asdict(r)} for r in runs]}
                for (system, setup, waiting), runs in self.drains.items()
            ],
            "latency": [
                {
                    "system": system,
                    "setup": setup,
                    **{
                        name: {"p50": quantile(times, 0.5), "p99": quantile(times, 0.99), "times": times}
                        for name, times in _times(runs).items()
                    },
                }
                for (system, setup), runs in self.latencies.items()
            ],
            "ratios": dict(ratios(self)),
        }

    def as_text(self) -> str:
        """The tables."""
        about = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        return "\n".join([about, "", *_drain_table(self), "", *_latency_table(self), "", *_ratio_lines(self)])


def quantile(times: Sequence[float], share: float) -> float:
    """The time that a share of the jobs did not exceed (nearest rank)."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1))]


def ratios(results: Results) -> Iterable[tuple[str, float]]:
    """The figures that the comparison is about."""
    rates = {name: statistics.median(run.rate for run in runs) for name, runs in results.drains.items()}
    sizes = sorted({waiting for _, _, waiting in results.drains})
    for waiting in sizes:
        yield f"drain, {waiting:,} waiting: arqd / arq tuned", rates[(*BEST, waiting)] / rates[(*BASE, waiting)]
    for system, setup in (BEST, BASE):
        of = [rates[(system, setup, waiting)] for waiting in (sizes[0], sizes[-1])]
        yield f"{system} {setup}: {sizes[-1]:,} waiting / {sizes[0]:,} waiting", of[1] / of[0]


def _times(runs: Sequence[Latency]) -> dict[str, list[float]]:
    return {
        "pick_up": [time for run in runs for time in run.pick_up],
        "round_trip": [time for run in runs for time in run.round_trip],
    }


def _ratio_lines(results: Results) -> list[str]:
    return [f"{name}: {value:.2f}" for name, value in ratios(results)]


def _drain_table(results: Results) -> list[str]:
    header = (
        "drain, one worker process", "waiting", "jobs/s", "min–max", "alone",
        "calls/job", "commands/job", "bytes in/job", "out/job", "worker CPU s", "server CPU s",
    )  # fmt: skip

    def median(runs: list[Drain], of: Callable[[Drain], float | None]) -> float | None:
        values = [value for run in runs if (value := of(run)) is not None]
        return statistics.median(values) if values else None

    rows = []
    for (system, setup, waiting), runs in results.drains.items():
        rates = sorted(run.rate for run in runs)
        rows.append(
            (
                f"{system} {setup}",
                f"{waiting:,}",
                f"{statistics.median(rates):,.0f}",
                f"{rates[0]:,.0f}–{rates[-1]:,.0f}",
                _number(median(runs, lambda run: run.alone_rate), ",.0f"),
                _number(median(runs, lambda run: run.calls), ".2f"),
                _number(median(runs, lambda run: run.commands), ".1f"),
                _number(median(runs, lambda run: run.bytes_in), ",.0f"),
                _number(median(runs, lambda run: run.bytes_out), ",.0f"),
                # Per 10,000 jobs, from microseconds per job.
                _number(median(runs, lambda run: run.worker_cpu and run.worker_cpu / 100), ".2f"),
                _number(median(runs, lambda run: run.server_cpu / 100), ".2f"),
            )
        )
    return _table(header, rows)


def _latency_table(results: Results) -> list[str]:
    header = ("idle, milliseconds", "pick-up p50", "p99", "round trip p50", "p99", "jobs")
    rows = []
    for (system, setup), runs in results.latencies.items():
        times = _times(runs)
        cells = [f"{quantile(times[name], share) * 1000:,.2f}" for name in times for share in (0.5, 0.99)]
        rows.append((f"{system} {setup}", *cells, str(len(times["pick_up"]))))
    return _table(header, rows)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    return [
        "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in (header, *rows)
    ]
