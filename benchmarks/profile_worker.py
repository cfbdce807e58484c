"""Where the time of arqd's worker goes in a drain: ``python -m benchmarks.profile_worker [jobs]``.

A sample each millisecond of processor time, filed under the innermost function of arqd's own (or of redis-py).
"""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from types import FrameType

import uvloop

from benchmarks.arqd import Tuned, fill
from benchmarks.server import measured_server
from daemon.family import load_family
from daemon.supervisor import Supervisor

samples: Counter[str] = Counter()


def sample(number: int, frame: FrameType | None) -> None:
    """File where the program is."""
    while frame is not None and not frame.f_globals["__name__"].startswith(("daemon.", "redis.")):
        frame = frame.f_back
    samples[f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}" if frame else "event loop"] += 1


async def run(url: str, jobs: int) -> None:
    """Drain so many jobs and print the shares."""
    fill(url, jobs)
    signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    wall, cpu = time.perf_counter(), time.process_time()
    await Supervisor([load_family(Tuned)], url, burst=True).run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    signal.setitimer(signal.ITIMER_PROF, 0)
    print(
        f"{jobs / wall:,.0f} jobs/s; {cpu / jobs * 1e6:.1f} µs of the processor per job, {cpu / wall:.0%} of the time"
    )
    for name, count in samples.most_common(25):
        print(f"{count / samples.total():6.1%}  {name}")


if __name__ == "__main__":
    with measured_server() as (server, _):
        uvloop.run(run(server, int(sys.argv[1]) if len(sys.argv) > 1 else 50_000))
