"""Compares arqd with other systems on one server; docs/benchmarks.md says how and what the figures mean.

`compare` has the options and the order of the runs, `systems` says what is compared and `workloads` what is measured;
`measure` takes a figure, with `server`, `processes` and `environments` around it. A system's own program is in `peers`
(arqd's in `arqd`) and measures with `driver`. `results` keeps the figures; `report`, `required` and `plots` show them.
`own` is what is measured of arqd alone. The other modules measure one feature each and run by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run the comparison; returns the exit status."""
    from benchmarks.compare import main as compare

    return compare(arguments)
