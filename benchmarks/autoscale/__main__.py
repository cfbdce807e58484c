"""``python -m benchmarks.autoscale``: print the table; ``--write`` puts it and the plots into docs/operations/."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.autoscale.report import plots, table, with_table

DOCS = Path(__file__).parents[2] / "docs/operations"


def main(arguments: list[str]) -> int:
    """Print, or write."""
    if arguments != ["--write"]:
        print(table())
        return 0
    page = DOCS / "autoscaling.md"
    page.write_text(with_table(page.read_text("utf-8")), "utf-8")
    for name, plot in plots().items():
        (DOCS / name).write_text(plot, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
