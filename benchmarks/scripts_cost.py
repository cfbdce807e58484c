"""What the scripts of the hot path cost the server: ``python -m benchmarks.scripts_cost [--against CHECKOUT]``.

One client drives the scripts without a worker beside it, and what counts is the server's processor time, not the
clock's. With ``--against`` the scripts of another checkout take turns with these on the same server, a few calls each,
so that a small change shows also on a machine that others use.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
import redis.asyncio

from benchmarks.server import measured_server
from daemon import codec
from daemon.broker import Broker, Claim, Outcome, TickSettings
from daemon.keys import FamilyKeys
from daemon.producing.options import JobOptions, new_job

SESSION = "00000000000000aa"
SETTINGS = TickSettings(
    lease=600_000, default_timeout=300_000, max_crashes=3, keep_count=-1, keep_age=3_600_000, poll=0
)
MOST = 128
#: Of each case: jobs a call, groups, limits of the queue (rate, global), limits of lanes.
CASES: dict[str, tuple[int, int, tuple[tuple[int, int] | None, int | None], dict[str, str]]] = {
    "plain": (MOST, 0, (None, None), {}),
    "plain-10": (10, 0, (None, None), {}),
    "plain-1": (1, 0, (None, None), {}),
    "limits": (MOST, 0, ((1_000_000, 1_000_000), 100_000), {}),
    "turns": (MOST, 100, (None, None), {}),
    "group": (MOST, 100, (None, None), {"s:g:*": "10000||"}),
    "together": (MOST, 100, ((1_000_000, 1_000_000), 100_000), {"s:g:*": "10000||"}),
}
#: What takes turns: calls that enqueue 1,000 jobs, and a portion of them worked off.
BULK, PORTION = 1000, 1000


class Side:
    """The scripts of this checkout, or of that which `PYTHONPATH` names, on a family of their own."""

    def __init__(self, url: str, family: str, case: str) -> None:
        self.size, self.groups, self.limits, self.lanes = CASES[case]
        self.keys = FamilyKeys.of(family)
        self.client = redis.asyncio.Redis.from_url(url)
        self.broker = Broker(self.client, self.keys)
        self.number, self.made = 1, 0
        # A worker has the claims of two calls: those it runs and those of the reply under way.
        self.outcomes: deque[list[Outcome]] = deque([[], []])

    async def begin(self) -> None:
        """Register the session."""
        await self.broker.sync(SESSION, 1, 600_000, b"{}", 5, *self.limits, [], lanes=self.lanes)

    async def enqueue(self, count: int) -> int:
        """Add jobs as a producer does: in bulk, or one by one where calls are small."""
        jobs = []
        for number in range(self.made, self.made + count):
            options: JobOptions = {"group": f"group {number % self.groups}"} if self.groups else {}
            args = b"[" + codec.encode({"user": number, "name": "Ada"}) + b"]"
            jobs.append(new_job(self.keys, "noop", args, 5, options))
        self.made += count
        size = BULK if self.size == MOST else self.size
        for start in range(0, count, size):
            await self.broker.enqueue(jobs[start : start + size])
        return count

    async def work(self, count: int) -> int:
        """Make calls until so many jobs have been settled."""
        settled = 0
        while settled < count:
            self.number += 1
            counts = {f"noop\x1f{what}": 100 for what in ("c", "R", "R8", "R9", "R10", "W", "W40")}
            reply = await self.broker.tick(
                SESSION, self.number, self.size, False, SETTINGS, settles := self.outcomes.popleft(), statistics=counts
            )
            assert (reply.status, reply.refused) == ("ok", []), reply
            settled += len(settles)
            self.outcomes.append([self._completed(claim) for claim in reply.claims])
        return settled

    def _completed(self, claim: Claim) -> Outcome:
        result = (
            b'{"t":1,"f":"noop","a":[{"user":12345,"name":"Ada"}],"k":{},"et":1763775600000,"s":true,"r":12345,'
            b'"st":1763775600000,"ft":1763775600001,"q":"arq:{cost}","j":"%s"}' % claim.id
        )
        # Of a job that is held the stamp is not looked at.
        return Outcome("c", claim.id, self.number, "", result, 3_660_000, b"1", "noop\t1\t0", claim.score)

    async def serve(self) -> None:
        """Do what standard input says, a word and a count a line."""
        await self.begin()
        print(0, flush=True)
        for line in sys.stdin:
            word, count = line.split()
            print(await (self.enqueue if word == "enqueue" else self.work)(int(count)), flush=True)


def _start(stack: ExitStack, checkout: Path, url: str, family: str, case: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--serve", url, family, case]
    path = os.pathsep.join((str(checkout), str(Path(__file__).parent.parent)))
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    stack.enter_context(process)
    stack.callback(process.kill)
    return process


def _tell(process: subprocess.Popen[str], line: str = "") -> int:
    assert process.stdin is not None
    assert process.stdout is not None
    if line:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    return int(process.stdout.readline())


def measure(url: str, case: str, sides: Sequence[Path], jobs: int, backlog: int) -> dict[str, list[list[float]]]:
    """Give the server's microseconds a job, enqueued and worked off, of each side in each turn."""
    found: dict[str, list[list[float]]] = {what: [[] for _ in sides] for what in ("enqueue", "work")}
    with ExitStack() as stack, redis.Redis.from_url(url) as client:
        client.flushall()

        def spent() -> float:
            info: Any = client.info("cpu")
            return float(info["used_cpu_user"] + info["used_cpu_sys"]) * 1e6

        processes = [_start(stack, side, url, f"cost{i}", case) for i, side in enumerate(sides)]
        for process in processes:
            _tell(process)
            _tell(process, f"enqueue {backlog + PORTION}")
            _tell(process, f"work {PORTION // 2}")
        for turn in range(jobs // PORTION):
            for i in range(len(sides))[:: 1 if turn % 2 else -1]:
                for what, values in found.items():
                    before = spent()
                    count = _tell(processes[i], f"{what} {PORTION}")
                    values[i].append((spent() - before) / count)
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scripts_cost")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout, whose scripts take turns")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--backlog", type=int, default=5_000, help="jobs that wait all the time")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        asyncio.run(Side(*options.serve).serve())
        return 0
    sides = [Path(__file__).parent.parent] + ([options.against] if options.against else [])
    with measured_server() as (url, _):
        for case in options.cases or CASES:
            for what, runs in measure(url, case, sides, options.jobs, options.backlog).items():
                medians = [statistics.median(values) for values in runs]
                text = f"{case:10} {what:8} {medians[0]:6.1f} us a job"
                if len(runs) > 1:
                    ratio = statistics.median(mine / theirs for mine, theirs in zip(*runs, strict=True))
                    text += f", there {medians[1]:6.1f}: {ratio:.2f}"
                print(text, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
