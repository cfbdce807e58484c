"""The comparison: its options and the order of its runs."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import redis
import uvloop

from benchmarks.arq_side import ArqSide
from benchmarks.arqd_side import ArqdSide
from benchmarks.drain import drain
from benchmarks.latency import latency
from benchmarks.report import Results
from benchmarks.server import measured_server
from benchmarks.side import NAME, Side
from daemon.errors import ArqdError

ARQ, ARQD = ArqSide(), ArqdSide()
#: arq at its defaults starts about 200 jobs a second, whatever waits: a share of the jobs tells as much.
SLOW_SHARE = 0.05
DRAINS: tuple[tuple[Side, str, float], ...] = (
    (ARQ, "tuned", 1),
    (ARQD, "tuned", 1),
    (ARQ, "default", SLOW_SHARE),
    (ARQD, "default", 1),
)
#: With how often a caller asks arq for a result: its default, and as often as the tuned worker polls.
LATENCIES: tuple[tuple[Side, str, float], ...] = ((ARQ, "default", 0.5), (ARQ, "tuned", 0.01), (ARQD, "default", 0))


def main(arguments: Sequence[str]) -> int:
    """Run the comparison; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    # Ended from outside it must not leave a server and a worker behind.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if options.json:
            options.json.touch()  # better told now than at the end
        with measured_server(options.url, force=options.force) as (url, server):
            results = _compare(url, server, options)
    except (ArqdError, redis.RedisError, OSError) as error:
        print(f"arqd bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    print(results.as_text())
    if options.json:
        options.json.write_text(json.dumps(results.as_json(), indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="arqd bench", description="Compare the speed of arqd and stock arq: docs/benchmarks.md tells how."
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: seconds, and figures that mean little")
    parser.add_argument("--waiting", type=_positive, nargs="+", metavar="N", help="backlogs (10000 500000)")
    parser.add_argument("--jobs", type=_positive, metavar="N", help="completions timed at each backlog (20000)")
    parser.add_argument("--singles", type=_positive, metavar="N", help="single jobs sent to an idle worker (200)")
    parser.add_argument("--repeats", type=_positive, metavar="N", help="of everything, the systems in turn (3)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every figure of every repeat there")
    parser.add_argument("--url", help="an empty server to use instead of one of its own")
    parser.add_argument("--force", action="store_true", help=f"use it even with data; only keys *{NAME}* are touched")
    return parser


def _positive(text: str) -> int:
    number = int(text.replace(",", "").replace("_", ""))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _compare(url: str, server: str, options: argparse.Namespace) -> Results:
    quick = options.quick
    repeats = options.repeats or (1 if quick else 3)
    jobs = options.jobs or (2000 if quick else 20_000)
    sizes = sorted({*(options.waiting or ([1000, 5000] if quick else [10_000, 500_000]))})
    singles = -(-(options.singles or (20 if quick else 200)) // repeats)
    results = Results(server, jobs, repeats)
    # Latency first: the server is still empty. Later the backlogs of all systems stand in it side by side.
    for repeat in range(repeats):
        for side, setup, poll_delay in LATENCIES:
            _tell(f"idle: {side.name} {setup}, {repeat + 1} of {repeats}")
            measured = uvloop.run(latency(url, side, setup, singles, poll_delay, seed=repeat))
            results.latencies.setdefault((side.name, setup), []).append(measured)
    for waiting in sizes:
        for repeat in range(repeats):
            for side, setup, share in DRAINS:
                _tell(f"drain, {waiting:,} waiting: {side.name} {setup}, {repeat + 1} of {repeats}")
                count = max(round(jobs * share), 20)
                run = drain(url, side, setup, waiting, count)
                results.drains.setdefault((side.name, setup, waiting), []).append(run)
    _tell("")
    return results


def _tell(what: str) -> None:
    if sys.stderr.isatty():
        print(f"{what:<70}", end="\r", file=sys.stderr, flush=True)
