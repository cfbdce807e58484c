"""Commands that watch: ``stats``, ``top``, ``tail``."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.common import (
    Function,
    Json,
    away_json,
    cell,
    inspector,
    instant,
    plain,
    print_json,
    print_table,
    redis_url,
    refuse_away,
    refuse_unknown_family,
    settings,
    with_away,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from daemon.errors import RedisError
    from daemon.events import Event, Since
    from daemon.inspecting.answers import Answers
    from daemon.inspector import Inspector, QueueStats, WorkerInfo
    from daemon.statistics import FamilyStatistics, Figures

    _Seen = tuple[QueueStats, Figures, list[WorkerInfo]]

REFRESH_SECONDS = 1.0
_OUTCOMES = ("completed", "failed", "retried", "aborted", "expired", "released", "parked")
_FIGURES = ("enqueued", *_OUTCOMES, "jobs/s", "run s", "p95", "wait s", "p95")
_QUEUES = ("family", "waiting", "active", "delayed", "dead", "jobs/s", "failed", "retried", "p95 run", "p95 wait",
           "oldest s", "workers", "slots", "paused")  # fmt: skip
_WORKERS = ("family", "session", "host", "pid", "slots", "running", "draining", "lease_seconds", "mean_seconds", "lag")

Table = tuple[Sequence[str], list[tuple[Any, ...]]]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(stats)
    app.command()(top)
    app.command()(tail)


# ---------------------------------------------------------------------- stats


def stats(
    family: Annotated[str | None, typer.Argument(help="Of this family, by function.", metavar="[FAMILY]")] = None,
    function: Function = None,
    last: Annotated[str, typer.Option(help="Of so long: 90s, 1h, 7d; at most 14d.")] = "1h",
    json: Json = False,
) -> None:
    """Show throughput, failures, run times and waits; without a family also what was done so far, and the workers."""
    if family is None:
        if function is not None:
            raise typer.BadParameter("name its family too", param_hint="--function")
        answers = asyncio.run(_all_stats(last))
        _print_all(answers.some(), answers.away, json=json)
        refuse_away(answers.away)
        return
    found = asyncio.run(_stats(family, function, last))
    if json:
        print_json(found)
        return
    print(f"{family}, {_time(found)}")
    rows = [(name, *_figures(figures)) for name, figures in found.functions.items()]
    print_table(("function", *_FIGURES), [*rows, ("all", *_figures(found.total))] if function is None else rows)


async def _stats(family: str, function: str | None, last: str) -> FamilyStatistics:
    async with inspector(family) as found:
        statistics = await found.stats(family, last=last, function=function)
        if not statistics.functions:
            await refuse_unknown_family(found, family)
        return statistics


#: What is known of the families of a server: statistics, what was done so far, workers.
_All = tuple["dict[str, FamilyStatistics]", dict[str, dict[str, int]], "list[WorkerInfo]"]


async def _all_stats(last: str) -> Answers[_All]:
    async def look(part: Inspector) -> _All:
        statistics = {family: await part.stats(family, last=last) for family in sorted(part.families)}
        return statistics, {queue.family: queue.totals for queue in await part.queues()}, await part.workers()

    async with inspector() as found:
        return await found.ask(look)


def _print_all(parts: list[_All], away: Mapping[str, RedisError], *, json: bool) -> None:
    statistics = {family: found for part, _, _ in parts for family, found in part.items()}
    totals = {family: counts for _, part, _ in parts for family, counts in part.items()}
    workers = [worker for _, _, part in parts for worker in part]
    if json:
        print_json({"statistics": statistics, "totals": totals, "workers": workers})
        return
    print("all families" + "".join(f", {_time(found)}" for found in list(statistics.values())[:1]))
    rows = [(family, *_figures(found.total)) for family, found in statistics.items()]
    print_table(("family", *_FIGURES), with_away(rows, away, 1 + len(_FIGURES)))
    print("\nsince the queues exist")
    names = sorted({name for counts in totals.values() for name in counts})
    rows = [(family, *(counts.get(name, 0) for name in names)) for family, counts in totals.items()]
    print_table(("family", *names), with_away(rows, away, 1 + len(names)))
    print()
    if workers:
        print_table(_WORKERS, [tuple(getattr(worker, name) for name in _WORKERS) for worker in workers])
    else:
        print("no worker is running")


def _time(found: FamilyStatistics) -> str:
    return f"{cell(found.since)} to {cell(found.until)}"


def _figures(found: Figures) -> tuple[Any, ...]:
    counts = (getattr(found, name) for name in _OUTCOMES)
    times = (found.mean_run, found.p95_run, found.mean_wait, found.p95_wait)
    return found.enqueued, *counts, f"{found.throughput:.2f}", *map(_short, times)


def _short(seconds: float | None) -> str | None:
    """Give a time in three digits: handlers take microseconds or hours."""
    return None if seconds is None else f"{seconds:.3g}" if seconds < 1000 else f"{seconds:.0f}"


# ---------------------------------------------------------------------- top


def top(
    families: Annotated[list[str] | None, typer.Argument(help="Only these families.", metavar="[FAMILY]...")] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Print one frame and end, as where there is no terminal.")
    ] = False,
    json: Json = False,
) -> None:
    """Watch queues and workers, anew each second; Ctrl-C ends it. Rates and times are of the last minute or two."""
    if json:
        answers = asyncio.run(_known(families))
        told = [each for part in answers.some() for each in part]
        print_json({
            "queues": [*({"stats": queue, "minute": last} for queue, last, _ in told), *away_json(answers.away)],
            "workers": [worker for _, _, several in told for worker in several],
        })  # fmt: skip
        refuse_away(answers.away)
        return
    if once or not sys.stdout.isatty():
        queues, workers, away = asyncio.run(_frame(families))
        print_table(*queues)
        print()
        print_table(*workers)
        refuse_away(away)
    else:
        asyncio.run(_live(families))


async def _live(families: list[str] | None) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from daemon.errors import RedisUnavailable

    async with inspector(*families or ()) as found:
        with Live(screen=True, auto_refresh=False) as live:
            while True:
                shown: list[RenderableType] = []
                try:
                    queues, workers, away = await _tables(found, families)
                    shown += map(_table, (queues, workers))
                    refuse_away(away)
                except RedisUnavailable as error:
                    shown.append(Text(cell(error)))
                live.update(Group(*shown), refresh=True)
                await asyncio.sleep(REFRESH_SECONDS)


async def _frame(families: list[str] | None) -> tuple[Table, Table, Mapping[str, RedisError]]:
    async with inspector(*families or ()) as found:
        return await _tables(found, families)


async def _tables(found: Inspector, families: list[str] | None) -> tuple[Table, Table, Mapping[str, RedisError]]:
    """Give both tables, and which families cannot be asked.

    Raises:
        RedisError: where no server answers.
    """

    answers = await _look(found, families)
    told = sorted((each for part in answers.some() for each in part), key=lambda each: each[0].family)
    rows = with_away((_row(queue, last) for queue, last, _ in told), answers.away, len(_QUEUES))
    workers = [tuple(getattr(worker, field) for field in _WORKERS) for _, _, several in told for worker in several]
    return (_QUEUES, rows), (_WORKERS, workers), answers.away


async def _known(families: list[str] | None) -> Answers[list[_Seen]]:
    async with inspector(*families or ()) as found:
        return await _look(found, families)


async def _look(found: Inspector, families: list[str] | None) -> Answers[list[_Seen]]:
    """Look at queues; one that was named is refused where it is unknown."""

    async def look(part: Inspector) -> list[_Seen]:
        seen = []
        for name in sorted(part.families):
            queue, last = await part.queue(name), (await part.stats(name, last=60)).total
            if families:
                await refuse_unknown_family(part, name)
            seen.append((queue, last, await part.workers(name)))
        return seen

    return await found.only(families or found.families).ask(look)


def _row(queue: QueueStats, last: Figures) -> tuple[Any, ...]:
    return (
        queue.family, queue.waiting, queue.active, queue.delayed, queue.failed, f"{last.throughput:.2f}", last.failed,
        last.retried, _short(last.p95_run), _short(last.p95_wait), queue.oldest_age_seconds, queue.workers,
        queue.slots, queue.paused,
    )  # fmt: skip


def _table(shown: Table) -> RenderableType:
    from rich.box import SIMPLE
    from rich.table import Table as RichTable
    from rich.text import Text

    header, rows = shown
    table = RichTable(box=SIMPLE)
    for column, name in enumerate(header):
        table.add_column(name, justify="left" if column == 0 else "right")
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))
    return table


# ---------------------------------------------------------------------- tail


def tail(
    families: Annotated[
        list[str] | None, typer.Argument(help="Families; default all.", metavar="[FAMILY]...")
    ] = None,
    since: Annotated[
        str, typer.Option(help="From here on: now, start (of what is kept), 10m (ago), a time, or an event's position.")
    ] = "now",
    function: Function = None,
    once: Annotated[bool, typer.Option("--once", help="Print what there is and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for programs, an object a line.")] = False,
) -> None:  # fmt: skip
    """Print what happens to jobs, as it happens; Ctrl-C ends it. With --function events of the queue are left out."""
    try:
        asyncio.run(_tail(families, _since(since), function, once, json))
    except BrokenPipeError:
        # Whoever read it has seen enough; what is left must not be flushed at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _since(text: str) -> Since:
    from datetime import UTC, datetime, timedelta

    from daemon.errors import InvalidJob
    from daemon.job import seconds

    if text in ("now", "start") or re.fullmatch(r"\d+-\d+\.\d+", text):
        return text
    try:
        return datetime.now(UTC) - timedelta(seconds=seconds(text))
    except (InvalidJob, OverflowError):
        return instant(text, "--since")


async def _tail(families: list[str] | None, since: Since, function: str | None, once: bool, json: bool) -> None:
    from pydantic_core import to_json

    from daemon.connecting.connections import connect
    from daemon.events import EventReader

    config = settings()
    url = redis_url(config)
    async with inspector(*families or ()) as found:
        for family in families or ():
            await refuse_unknown_family(found, family)
        names = families or sorted(found.families)
        away = None if once else _Away()
        reader = EventReader(found.redis, lambda timeout: connect(url, timeout=timeout), names, since, away)
        async with aclosing(reader.present() if once else reader.follow()) as events:
            async for event in events:
                if function is None or event.function == function:
                    print(to_json(event).decode() if json else _line(event), flush=True)
        refuse_away(reader.away)


class _Away:
    """Tells on standard error whose events cannot be read, and of whom they can be again."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self, away: Mapping[str, RedisError]) -> None:
        for family in sorted(away.keys() ^ self._known):
            error = away.get(family)
            told = f"{family} cannot be asked, trying again: {error}" if error else f"{family} can be asked again"
            print(f"arqd: {plain(told)}", file=sys.stderr, flush=True)
        self._known = set(away)


def _line(event: Event) -> str:
    parts = [f"{event.at:%H:%M:%S.%f}"[:12], f"{event.kind:<13}", event.id or event.family, event.function]
    if event.job_try is not None:
        parts.append(f"try {event.job_try}")
    if event.duration is not None:
        parts.append(f"{event.duration:g} s")
    return "  ".join(plain(part) for part in [*parts, event.detail] if part)
