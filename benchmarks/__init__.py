"""Compares arqd with stock arq on one server; docs/benchmarks.md says how and what the figures mean.

`main` in `compare` runs it. `arq_side` and `arqd_side` are the two systems: their jobs, and their worker processes.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run the comparison; returns the exit status."""
    from benchmarks.compare import main as compare

    return compare(arguments)
