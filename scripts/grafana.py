"""Writes the dashboard for Grafana, deploy/monitoring/grafana.json; with ``--check`` it only compares.

A row of panels is a list here; what a panel asks is PromQL over the metrics of docs/metrics.md. Each query is run
against live metrics by tests/monitoring.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parents[1] / "deploy" / "monitoring" / "grafana.json"
WIDTH, HEIGHT = 24, 8
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}

#: Title, unit, and queries with what their lines are called.
Panel = tuple[str, str, dict[str, str]]
FAMILY, FUNCTION = "{{family}}", "{{family}} {{function}}"


def own(metric: str, labels: str = "") -> str:
    """Select a metric of the chosen queues, with further labels."""
    return f'{metric}{{family=~"$family"{"," + labels if labels else ""}}}'


def once(metric: str, labels: str = "", by: str = "family") -> str:
    """Take a queue's metric once: it is the same from every probe."""
    return f"max by ({by}) ({own(metric, labels)})"


def rate(selected: str) -> str:
    """Ask what is added a second."""
    return f"rate({selected}[$__rate_interval])"


def ended(outcome: str) -> str:
    """Ask how many tries end so a second."""
    label = f'outcome=~"{outcome}"'
    return f"max by (family, outcome) ({rate(own('arqd_queue_outcomes_total', label))})"


def p95(metric: str, by: str) -> str:
    """Ask for the 95th percentile of a histogram."""
    return f"histogram_quantile(0.95, sum by ({by}, le) ({rate(own(metric + '_bucket'))}))"


def total(metric: str, labels: str = "") -> str:
    """Sum up over queues."""
    return f"sum({once(metric, labels)})"


def summed(selected: str, by: str = "family") -> str:
    """Sum up over workers."""
    return f"sum by ({by}) ({selected})"


def server(selected: str) -> str:
    """Take a server's metric once."""
    return f"max by (server) ({selected})"


_FAILED, _COMPLETED = (f"sum by (family) ({ended(outcome)})" for outcome in ("failed", "completed"))
_RUN, _SCRIPTS = "arqd_job_duration_seconds", "arqd_redis_script"
#: Rows: a title and panels.
ROWS: list[tuple[str, list[Panel]]] = [
    (
        "At a glance",
        [
            ("Waiting", "short", {total("arqd_queue_jobs", 'state="waiting"'): ""}),
            ("Active", "short", {total("arqd_queue_jobs", 'state="active"'): ""}),
            ("Oldest wait", "s", {f"max({own('arqd_queue_oldest_ready_age_seconds')})": ""}),
            ("Dead letters", "short", {total("arqd_queue_jobs", 'state="failed"'): ""}),
            ("Workers", "short", {total("arqd_queue_workers"): ""}),
            ("Redis reached", "short", {"min(arqd_redis_up)": ""}),
        ],
    ),
    (
        "Queues",
        [
            (
                "Jobs by state",
                "short",
                {
                    once(
                        "arqd_queue_jobs", 'state=~"waiting|active|delayed|blocked|parked"', "family, state"
                    ): "{{family}} {{state}}"
                },
            ),
            ("Oldest job that can run", "s", {once("arqd_queue_oldest_ready_age_seconds"): FAMILY}),
            ("Paused", "short", {once("arqd_queue_paused"): FAMILY}),
        ],
    ),
    (
        "Throughput and failures",
        [
            ("Tries ended", "ops", {ended("completed|failed|retried"): "{{family}} {{outcome}}"}),
            ("Share that failed", "percentunit", {f"{_FAILED} / ({_FAILED} + {_COMPLETED})": FAMILY}),
            (
                "Tries by function",
                "ops",
                {f"{summed(rate(own('arqd_jobs_total')), 'family, function')} > 0": FUNCTION},
            ),
        ],
    ),
    (
        "Times",
        [
            ("Run time, 95th percentile", "s", {p95(_RUN, "family, function"): FUNCTION}),
            ("Wait, 95th percentile", "s", {p95("arqd_job_wait_seconds", "family"): FAMILY}),
            (
                "Run time, mean",
                "s",
                {f"{summed(rate(own(_RUN + '_sum')))} / {summed(rate(own(_RUN + '_count')))}": FAMILY},
            ),
        ],
    ),
    (
        "Workers",
        [
            (
                "Slots in use",
                "percentunit",
                {f"{summed(own('arqd_worker_slots_in_use'))} / {summed(own('arqd_worker_slots'))}": FAMILY},
            ),
            ("Event-loop lag", "s", {"arqd_worker_event_loop_lag_seconds": "{{instance}}"}),
            ("Memory", "bytes", {"arqd_worker_resident_memory_bytes": "{{instance}}"}),
            (
                "Workers lost in an hour",
                "short",
                {f"max by (family) (increase({own('arqd_queue_workers_lost_total')}[1h]))": FAMILY},
            ),
            ("Time since the start", "s", {"time() - arqd_worker_start_time_seconds": "{{instance}}"}),
            ("Releases", "short", {"count by (version) (arqd_build_info)": "{{version}}"}),
        ],
    ),
    (
        "Redis",
        [
            (
                "Memory",
                "bytes",
                {
                    server("arqd_redis_memory_bytes"): "{{server}} used",
                    server("arqd_redis_memory_limit_bytes"): "{{server}} limit",
                },
            ),
            ("Connections", "short", {server("arqd_redis_connections"): "{{server}}"}),
            (
                "Share of the time spent in scripts",
                "percentunit",
                {server(rate(_SCRIPTS + "_seconds_total")): "{{server}}"},
            ),
            (
                "Time of a script",
                "s",
                {
                    f"{server(rate(_SCRIPTS + '_seconds_total'))} / {server(rate(_SCRIPTS + '_calls_total'))}": (
                        "{{server}}"
                    )
                },
            ),
        ],
    ),
]


def queries() -> list[str]:
    """Give every query, with Grafana's variables in it."""
    return [query for _, panels in ROWS for _, _, asked in panels for query in asked]


def dashboard() -> dict[str, Any]:
    """Give the dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row, (title, shown) in enumerate(ROWS):
        panels.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1}})
        top += 1
        columns, height = (len(shown), 4) if row == 0 else (3, HEIGHT)
        for number, panel in enumerate(shown):
            place = {
                "x": number % columns * (WIDTH // columns),
                "y": top + number // columns * height,
                "w": WIDTH // columns,
                "h": height,
            }
            panels.append(_panel(panel, "stat" if row == 0 else "timeseries", place))
        top += -(-len(shown) // columns) * height
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "title": "arqd",
        "uid": "arqd",
        "tags": ["arqd"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
                {
                    "name": "family", "type": "query", "label": "Queue", "datasource": _SOURCE, "refresh": 2,
                    "query": {"query": "label_values(arqd_queue_jobs, family)", "refId": "family"},
                    "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": panels,
    }  # fmt: skip


def _panel(panel: Panel, kind: str, place: dict[str, int]) -> dict[str, Any]:
    title, unit, asked = panel
    return {
        "type": kind,
        "title": title,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": query, "legendFormat": legend or "__auto", "datasource": _SOURCE}
            for number, (query, legend) in enumerate(asked.items())
        ],
    }


def main(arguments: list[str]) -> int:
    """Write the dashboard, or tell whether it is as it would be written."""
    text = json.dumps(dashboard(), indent=2) + "\n"
    if arguments == ["--check"]:
        return int(not TARGET.exists() or TARGET.read_text("utf-8") != text)
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
