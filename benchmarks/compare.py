"""The comparison: its options and the order of its runs."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import redis

from benchmarks.measure import Bench
from benchmarks.processes import Site
from benchmarks.report import write_report
from benchmarks.results import Results, tried
from benchmarks.server import measured_server
from benchmarks.systems import BY_NAME, SYSTEMS, Setting, System
from benchmarks.workloads import WORKLOADS, Sizes, Workload, by_name
from daemon.errors import ArqdError

FULL = Sizes(jobs=20_000, singles=100, seconds=20, waiting=(10_000, 100_000, 1_000_000))
QUICK = Sizes(jobs=1000, singles=10, seconds=1, waiting=(1000, 10_000))


def main(arguments: Sequence[str]) -> int:
    """Run the comparison; returns the exit status: 1 when a figure could not be taken."""
    options = _parser().parse_args(arguments)
    # Ended from outside it must not leave a server and workers behind.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return _run(options, shlex.join(arguments))
    except (ArqdError, redis.RedisError, OSError) as error:
        print(f"arqd bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="arqd bench", description="Compare the speed of arqd and other systems: docs/benchmarks.md tells how."
    )
    add = parser.add_argument
    add("--only", metavar="WORKLOADS", help=", ".join(workload.name for workload in WORKLOADS))
    add("--peers", metavar="SYSTEMS", help=", ".join(system.name for system in SYSTEMS))
    add("--quick", action="store_true", help="small sizes, once: minutes, and figures that mean little")
    add("--jobs", type=_positive, metavar="N", help=f"drained by a usual system ({FULL.jobs:,})")
    add("--singles", type=_positive, metavar="N", help=f"single jobs sent to an idle worker ({FULL.singles})")
    add("--waiting", type=_positive, nargs="+", metavar="N", help="backlogs (10,000 100,000 1,000,000)")
    add("--repeats", type=_positive, metavar="N", help="of everything, the systems in turn (3; settings: 1)")
    add("--add", action="store_true", help="keep the repeats that are in the report, and add to them")
    add(
        "--report",
        type=Path,
        default=Path("var/bench/report"),
        metavar="DIR",
        help="folder of the report (%(default)s)",
    )
    add("--cache", type=Path, default=Path("var/bench"), metavar="DIR", help="folder of environments (%(default)s)")
    add("--install", action="store_true", help="only make the environments")
    return parser


def _positive(text: str) -> int:
    number = int(text.replace(",", "").replace("_", ""))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _run(options: argparse.Namespace, command_line: str) -> int:
    workloads = by_name(options.only, {workload.name: workload for workload in WORKLOADS}, "workload")
    systems = by_name(options.peers, BY_NAME, "system")
    usual = QUICK if options.quick else FULL
    sizes = Sizes(
        options.jobs or usual.jobs,
        options.singles or usual.singles,
        usual.seconds,
        sorted(options.waiting or usual.waiting),
    )
    options.report.mkdir(parents=True, exist_ok=True)
    results = Results(options.report)
    with ExitStack() as stack:
        url, server = stack.enter_context(measured_server())
        client = stack.enter_context(redis.Redis.from_url(url, socket_timeout=120))
        sites = {system.name: stack.enter_context(Site(system, options.cache, url)) for system in systems}
        benches = {name: Bench(site, url, client) for name, site in sites.items()}
        if options.install:
            return 0
        results.begin(time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()), command_line, server)
        failed = False
        for workload in workloads:
            some = [each for each in systems if options.peers or workload.takes_part(each)]
            repeats = options.repeats or (1 if options.quick or workload.tries else 3)
            failed |= _measure(
                workload, [benches[each.name] for each in some], results, sizes, repeats, add=options.add
            )
    print(write_report(results, options.report), end="")
    for error in results.errors():
        print(f"arqd bench: {error}", file=sys.stderr)
    return int(failed)


def _measure(
    workload: Workload, benches: Sequence[Bench], results: Results, sizes: Sizes, repeats: int, *, add: bool
) -> bool:
    """Measure a workload of all systems in turn, again and again; tell whether a figure could not be taken."""
    turns = [
        (bench, setting)
        for bench in benches
        for setting in workload.settings(bench.site.system, results.best_setting(bench.site.system.name))
    ]
    failed = False
    for bench, setting in turns:
        results.start(workload.name, _row(workload, bench.site.system, setting), setting.name, add=add)
    for repeat in range(repeats):
        for bench, setting in turns:
            _tell(f"{workload.name}, {repeat + 1} of {repeats}: {bench.site.system.title}, {setting.name}")
            bench.clear()
            try:
                figures = workload.measure(bench, setting, sizes, repeat)
            except ArqdError as error:
                figures, failed = {"error": str(error)}, True
            results.add(workload.name, _row(workload, bench.site.system, setting), repeat, figures)
            results.save()
    return failed


def _row(workload: Workload, system: System, setting: Setting) -> str:
    return tried(system.name, setting.name) if workload.tries else system.name


def _tell(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
