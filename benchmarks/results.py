"""What was measured, kept as JSON in the report's folder, so that parts can be run by themselves."""

from __future__ import annotations

import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

from daemon import __version__

FILE = "results.json"
Row = dict[str, Any]


class Results:
    """Rows by workload and system. A row has the name of its setting, and its figures repeat by repeat.

    Args:
        folder: of the report; what is there is read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        found = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        self.runs: list[dict[str, Any]] = found.get("runs", [])
        self.rows: dict[str, dict[str, Row]] = found.get("rows", {})

    def begin(self, at: str, arguments: str, server: str) -> None:
        """Note a run, its command line and what it runs on."""
        machine = {
            "arqd": __version__,
            "server": server,
            "python": platform.python_version(),
            "system": platform.system(),
            "processor": _processor(),
            "processors": os.cpu_count(),
        }
        self.runs.append({"at": at, "arguments": arguments, **machine})

    def start(self, workload: str, system: str, setting: str, *, add: bool) -> None:
        """Begin a row anew, or go on with it when it is of the same setting."""
        row = self.rows.setdefault(workload, {}).get(system)
        if not add or row is None or row["setting"] != setting:
            self.rows[workload][system] = {"setting": setting, "repeats": []}

    def add(self, workload: str, system: str, repeat: int, figures: dict[str, Any]) -> None:
        """Add the figures of a repeat, or ``{"error": ...}``."""
        self.rows[workload][system]["repeats"].append({"run": len(self.runs) - 1, "repeat": repeat, **figures})

    def save(self) -> None:
        """Write everything."""
        found = {"runs": self.runs, "rows": self.rows}
        text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        unfinished = self.path.with_suffix(".new")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(self.path)

    def values(self, workload: str, system: str, figure: str) -> list[float]:
        """A figure's value in each repeat that gave one."""
        repeats = self.rows.get(workload, {}).get(system, {}).get("repeats", [])
        return [repeat[figure] for repeat in repeats if repeat.get(figure) is not None]

    def median(self, workload: str, system: str, figure: str) -> float | None:
        """Its median, None when there is none."""
        values = self.values(workload, system, figure)
        return statistics.median(values) if values else None

    def ratio(self, workload: str, system: str, other: str, figure: str, base: str | None = None) -> float | None:
        """What a figure is of another system's: the median over repeats that ran side by side, else that of medians.

        Args:
            base: the other's figure, when it has another name.
        """

        def by_repeat(name: str, figure: str) -> dict[tuple[int, int], float]:
            repeats = self.rows.get(workload, {}).get(name, {}).get("repeats", [])
            return {(each["run"], each["repeat"]): each[figure] for each in repeats if each.get(figure) is not None}

        above, below = by_repeat(system, figure), by_repeat(other, base or figure)
        if pairs := [above[key] / below[key] for key in above.keys() & below.keys() if below[key]]:
            return statistics.median(pairs)
        return statistics.median(above.values()) / statistics.median(below.values()) if above and below else None

    def best_setting(self, system: str) -> str | None:
        """The setting it was quickest with, of those tried; None when none was."""
        rates = {
            row["setting"]: rate
            for name, row in self.rows.get("settings", {}).items()
            if name == tried(system, row["setting"])
            if (rate := self.median("settings", name, "jobs/s")) is not None
        }
        return max(rates, key=lambda setting: rates[setting]) if rates else None

    def errors(self) -> list[str]:
        """What the last run could not measure."""
        return [
            f"{workload}, {system}: {repeat['error']}"
            for workload, rows in self.rows.items()
            for system, row in rows.items()
            for repeat in row["repeats"]
            if "error" in repeat and repeat["run"] == len(self.runs) - 1
        ]


def tried(system: str, setting: str) -> str:
    """The row of a setting that is tried."""
    return f"{system}: {setting}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
