"""The comparison: its options, the server, the order of the runs."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis
import uvloop

from benchmarks.arq_side import ArqSide
from benchmarks.arqd_side import ArqdSide
from benchmarks.drain import drain
from benchmarks.latency import latency
from benchmarks.report import Results
from benchmarks.side import NAME, Side
from daemon.connections import safe_url
from daemon.embedded import EmbeddedServer
from daemon.errors import ArqdError, ConfigurationError

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
    try:
        with _server(options) as (url, server):
            results = _compare(url, server, options)
    except (ArqdError, redis.RedisError, OSError) as error:
        print(f"arqd bench: {error}", file=sys.stderr)
        return 1
    print(results.as_text())
    if options.json:
        options.json.write_text(json.dumps(results.as_json(), indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="arqd bench", description="Compare the speed of arqd and stock arq: docs/benchmarks.md tells how."
    )
    positive = _positive
    parser.add_argument("--quick", action="store_true", help="small sizes: seconds, and figures that mean little")
    parser.add_argument("--waiting", type=positive, nargs="+", metavar="N", help="backlogs (10000 500000)")
    parser.add_argument("--jobs", type=positive, metavar="N", help="completions timed at each backlog (20000)")
    parser.add_argument("--singles", type=positive, metavar="N", help="single jobs sent to an idle worker (200)")
    parser.add_argument("--repeats", type=positive, metavar="N", help="of everything, the systems in turn (3)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every figure of every repeat there")
    parser.add_argument("--url", help="an empty server to use instead of one of its own")
    parser.add_argument("--force", action="store_true", help=f"use it even with data; only keys *{NAME}* are touched")
    return parser


def _positive(text: str) -> int:
    number = int(text.replace(",", "").replace("_", ""))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


@contextmanager
def _server(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Give a server's URL and what it is: one of our own, without persistence, or the one named, cleaned up after."""
    if options.url is None:
        with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "valkey") as own:
            with redis.Redis.from_url(own.url) as client:
                client.config_set("appendonly", "no")
                yield own.url, _describe(client)
        return
    with redis.Redis.from_url(options.url, socket_timeout=30) as client:
        _remove_own(client)
        count = client.dbsize()
        if count and not options.force:
            raise ConfigurationError(
                f"{safe_url(options.url)} holds {count} keys: name an empty database, or give --force "
                f"(only keys *{NAME}* are written and removed, but whatever else it does disturbs the figures)"
            )
        try:
            yield options.url, _describe(client)
        finally:
            _remove_own(client)


def _describe(client: redis.Redis) -> str:
    info = client.info("server")
    return f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}"


def _remove_own(client: redis.Redis) -> None:
    keys: list[bytes] = []
    for key in client.scan_iter(match=f"*{NAME}*", count=1000):
        keys.append(key)
        if len(keys) == 1000:
            client.unlink(*keys)
            keys.clear()
    if keys:
        client.unlink(*keys)


def _compare(url: str, server: str, options: argparse.Namespace) -> Results:
    quick = options.quick
    repeats = options.repeats or (1 if quick else 3)
    jobs = options.jobs or (2000 if quick else 20_000)
    sizes = sorted(options.waiting or ([1000, 5000] if quick else [10_000, 500_000]))
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
    return results


def _tell(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{what:<70}", end="", file=sys.stderr, flush=True)
