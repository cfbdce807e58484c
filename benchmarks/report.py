"""What was measured, as a page of tables and as plots."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import plots
from benchmarks.required import REQUIREMENTS, backlogs, cpu
from benchmarks.results import Results, tried
from benchmarks.systems import BY_NAME, SYSTEMS, System


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a table; ``spread``: with its smallest and largest value."""

    figure: str
    form: str
    spread: bool = False
    title: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a workload: a system a row. Of ``against`` the ratios to arq and BullMQ are given."""

    title: str
    workload: str
    columns: tuple[Column, ...]
    against: str = ""


RATE = Column("jobs/s", ",.0f", spread=True)
TABLES: tuple[Table, ...] = (
    Table("Drain, one worker process", "drain", (RATE, Column("first job s", ".2f", title="first job, s")), "jobs/s"),
    Table(
        "What a job costs in that drain",
        "drain",
        (
            Column("commands a job", ".1f", title="commands"),
            Column("round trips a job", ".2f", title="round trips"),
            Column("bytes in a job", ",.0f", title="bytes in"),
            Column("bytes out a job", ",.0f", title="bytes out"),
            Column("worker CPU µs", ",.0f"),
            Column("server CPU µs", ",.0f"),
        ),
    ),
    Table(
        "Drain, two worker processes",
        "two",
        (RATE, Column("one", ",.0f"), Column("of one", ".2f", spread=True)),
        "jobs/s",
    ),
    Table("Jobs that wait 10 ms, 100 at a time", "waiting", (RATE,), "jobs/s"),
    Table(
        "Enqueue",
        "enqueue",
        (Column("one by one/s", ",.0f", spread=True), Column("in bulk/s", ",.0f", spread=True)),
        "in bulk/s",
    ),
    Table(
        "An idle worker",
        "idle",
        (
            Column("pick-up p50 ms", ".2f", spread=True),
            Column("pick-up p99 ms", ".2f"),
            Column("round trip p50 ms", ".2f", spread=True),
            Column("round trip p99 ms", ".2f"),
            Column("round trip after a pause p50 ms", ".2f", title="after a pause p50 ms"),
            Column("idle commands/s", ".1f", title="commands/s"),
            Column("resident bytes", ",.0f"),
        ),
        "round trip p50 ms",
    ),
    Table(
        "Memory of a waiting job, 100 bytes of payload",
        "memory",
        (Column("bytes a waiting job", ",.0f"),),
        "bytes a waiting job",
    ),
    Table(
        "Drain with an append-only file, synced every second",
        "aof",
        (RATE, Column("without", ",.0f"), Column("of without", ".2f", spread=True)),
        "jobs/s",
    ),
)


def write_report(results: Results, folder: Path) -> str:
    """Write ``report.md`` and the plots into the folder, and give the page.

    Raises:
        OSError: when it cannot be written.
    """
    parts = [_head(results), _requirements(results)]
    parts += [_table(results, table) for table in TABLES if table.workload in results.rows]
    parts += [_backlog(results), _own(results), _settings(results)]
    for name, text in _plots(results).items():
        (folder / f"{name}.svg").write_text(text, encoding="utf-8")
    page = "\n\n".join(part for part in parts if part) + "\n"
    (folder / "report.md").write_text(page, encoding="utf-8")
    return page


def _head(results: Results) -> str:
    last = results.runs[-1]
    about = ", ".join(
        f"{name} {last[name]}" for name in ("arqd", "server", "python", "system", "processors", "processor")
    )
    runs = "\n".join(f"- {run['at']}: `arqd bench {run['arguments']}`".rstrip() for run in results.runs)
    return f"{about}\n\n{runs}"


def _requirements(results: Results) -> str:
    rows = []
    for each in REQUIREMENTS:
        value = each.value(results)
        if value is not None:
            sign = "≥" if each.least else "≤"
            met = "met" if each.met(value) else "**not met**"
            rows.append((each.what, f"{sign} {each.required:g}", f"{sign} {each.aim:g}", f"{value:.2f}", met))
    return _markdown("What is required", ("", "required", "aim", "measured", ""), rows) if rows else ""


def _table(results: Results, table: Table) -> str:
    header = ["", "setting", *(column.title or column.figure for column in table.columns)]
    header += ["to arq", "to BullMQ"] if table.against else []
    rows = []
    for system in SYSTEMS:
        row = results.rows[table.workload].get(system.name)
        if row is None:
            continue
        cells = [_cell(results.values(table.workload, system.name, column.figure), column) for column in table.columns]
        for other in ("arq", "bullmq") if table.against else ():
            ratio = results.ratio(table.workload, system.name, other, table.against)
            cells.append("–" if ratio is None else f"{ratio:.2f}")
        rows.append([system.title, row["setting"], *cells])
    return _markdown(table.title, header, rows)


def _cell(values: Sequence[float], column: Column) -> str:
    if not values:
        return "–"
    median = format(statistics.median(values), column.form)
    if not column.spread or len(values) == 1:
        return median
    return f"{median} ({min(values):{column.form}}–{max(values):{column.form}})"


def _backlog(results: Results) -> str:
    names = [*backlogs(results), *backlogs(results, "delayed")]
    rows = [
        [system.title, *(_cell(results.values("backlog", system.name, name), RATE) for name in names)]
        for system in _measured(results, "backlog")
    ]
    return _markdown("Drain with a backlog, jobs/s", ["", *names], rows) if rows else ""


def _own(results: Results) -> str:
    repeats = results.rows.get("own", {}).get("arqd", {}).get("repeats", [])
    names = [name for repeat in repeats[:1] for name in repeat if name not in {"run", "repeat", "error"}]
    rows = [[name, _cell(results.values("own", "arqd", name), Column(name, ",.4g", spread=True))] for name in names]
    return _markdown("arqd alone", ["", "median (range)"], rows) if rows else ""


def _settings(results: Results) -> str:
    measured = {name.partition(":")[0] for rows in results.rows.values() for name in rows}
    rows = []
    for system in SYSTEMS:
        if system.name not in measured:
            continue
        settings = []
        for setting in system.settings:
            rate = results.median("settings", tried(system.name, setting.name), "jobs/s")
            settings.append(setting.name + (f" {rate:,.0f}/s" if rate is not None else ""))
        rows.append([system.title, ", ".join(system.packages) or "this clone", "; ".join(settings), system.notes])
    return _markdown("Settings", ("", "versions", "tried, with what they drained", "and"), rows)


def _measured(results: Results, workload: str) -> list[System]:
    return [BY_NAME[name] for name in BY_NAME if name in results.rows.get(workload, {})]


def _markdown(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:" if _numeric(rows, i) else "---" for i in range(1, len(header))], *rows]
    return f"## {title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _numeric(rows: Sequence[Sequence[str]], column: int) -> bool:
    return all(row[column][:1].isdigit() or row[column] == "–" for row in rows)


def _plots(results: Results) -> dict[str, str]:
    found: dict[str, str] = {}
    own = BY_NAME["arqd"].title
    for name, workload, figure, title in (
        ("drain", "drain", "jobs/s", "Jobs that do nothing, one worker process: jobs a second"),
        ("two", "two", "jobs/s", "Jobs that do nothing, two worker processes: jobs a second"),
        ("waiting", "waiting", "jobs/s", "Jobs that wait 10 ms, 100 at a time: jobs a second"),
        ("enqueue", "enqueue", "one by one/s", "Enqueued one by one: jobs a second"),
        ("bulk", "enqueue", "in bulk/s", "Enqueued a thousand at a time: jobs a second"),
        ("memory", "memory", "bytes a waiting job", "Memory of a waiting job with 100 bytes of payload: bytes"),
    ):
        rows = [
            (system.title, values)
            for system in _measured(results, workload)
            if (values := results.values(workload, system.name, figure))
        ]
        if rows:
            found[name] = plots.bars(title, rows, own)
    costs = [(system.title, [total]) for system in _measured(results, "drain") if (total := cpu(results, system.name))]
    if costs:
        found["cpu"] = plots.bars("Processor time of worker and server: µs a job", costs, own)
    for name, title in (("pick-up", "An idle worker starts a job"), ("round trip", "The result is back")):
        spans = []
        for system in _measured(results, "idle"):
            ends = [results.median("idle", system.name, f"{name} {part} ms") for part in ("p50", "p99")]
            if ends[0] is not None and ends[1] is not None:
                spans.append((system.title, ends[0], ends[1]))
        if spans:
            found[name.replace(" ", "-")] = plots.spans(f"{title}: ms after the call, p50 to p99", spans, own)
    names = [*backlogs(results), *backlogs(results, "delayed")]
    if names:
        series = {
            system.title: [results.median("backlog", system.name, name) for name in names]
            for system in _measured(results, "backlog")
            if results.values("backlog", system.name, names[0])
        }
        found["backlog"] = plots.lines("Drain with a backlog: jobs a second", names, series, own)
    return found
