"""The table and the plots of the simulation."""

from __future__ import annotations

from functools import cache

from benchmarks import plots as draw
from benchmarks.autoscale.fleet import Fleet, Outcome
from benchmarks.autoscale.scaler import Scaler, Trigger
from benchmarks.autoscale.traces import Trace, traces

#: How long the backlog may take to be worked off, for the drain time's target.
DRAIN_TARGET = 30.0
OWN = "load"
BEGIN, END = "<!-- autoscale:begin -->\n", "<!-- autoscale:end -->"


def scalers(trace: Trace) -> dict[str, Scaler]:
    """Give what is compared: each has a target of 0.8 slots a replica, the drain time one of its own."""
    target = 0.8 * trace.slots
    active = Trigger(lambda figures: figures.active, trace.slots)
    drain = Trigger(lambda figures: figures.drain_seconds, DRAIN_TARGET, "value")
    # Without a worker nobody knows how long it takes.
    some = Trigger(lambda figures: min(figures.load, 1), 1000)
    return {
        "ZCARD": Scaler([Trigger(lambda figures: figures.zcard, target)]),
        "load": Scaler([Trigger(lambda figures: figures.load, target)]),
        "drain time": Scaler([drain, some]),
        "drain time, running": Scaler([drain, active, some]),
    }


@cache
def outcomes() -> dict[tuple[str, str], Outcome]:
    """Give what each trace came to by each figure."""
    return {
        (trace.name, by): Fleet(trace, scaler).replay() for trace in traces() for by, scaler in scalers(trace).items()
    }


def table() -> str:
    """Give it in Markdown."""
    rows = [
        "| trace | scaled by | replica-minutes | p95 wait | begun anew | all done after |",
        "|---|---|---|---|---|---|",
    ]
    for (name, by), found in outcomes().items():
        rows.append(
            f"| {name} | {by} | {found.replica_minutes:,.0f} | {found.p95_wait:,.1f} s | {found.restarted} "
            f"| {found.finished / 60:,.0f} min |"
        )
    return "\n".join(rows)


def with_table(text: str) -> str:
    """Replace what stands between the marks of a page."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}{table()}\n{END}{rest.partition(END)[2]}"


def plots() -> dict[str, str]:
    """Give the plots by file name."""
    rows = [(f"{name}: {by}", found) for (name, by), found in outcomes().items()]
    return {
        "autoscale-replicas.svg": draw.bars(
            "replica-minutes", [(label, [found.replica_minutes]) for label, found in rows], OWN
        ),
        "autoscale-wait.svg": draw.bars(
            "p95 wait, seconds", [(label, [max(found.p95_wait, 0.1)]) for label, found in rows], OWN
        ),
    }
