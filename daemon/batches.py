"""Many jobs in the calls their number and size need; many outcomes in one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from daemon.keys import spoken_id

if TYPE_CHECKING:
    from daemon.broker import NewJob, Outcome

#: Jobs and bytes one call of the enqueue script takes: about 10 ms of the server's time.
ENQUEUE_JOBS, ENQUEUE_BYTES = 1000, 1_000_000
#: Of a `NewJob`: what neighbours mostly have in common, and what is a job's own.
_COMMON, _OWN, _TAIL = itemgetter(1, 2, 3, 4, 5), itemgetter(0, 6), itemgetter(6)


def batches_of(jobs: Sequence[NewJob]) -> list[Sequence[NewJob]]:
    """Give the jobs of each call."""
    if len(jobs) <= ENQUEUE_JOBS and sum(map(len, map(_TAIL, jobs))) <= ENQUEUE_BYTES:
        return [jobs]
    batches: list[Sequence[NewJob]] = []
    batch: list[NewJob] = []
    size = 0
    for job in jobs:
        if batch and (len(batch) >= ENQUEUE_JOBS or size + len(job.tail) > ENQUEUE_BYTES):
            batches.append(batch)
            batch, size = [], 0
        batch.append(job)
        size += len(job.tail)
    return [*batches, batch]


def pack_jobs(jobs: Iterable[NewJob]) -> list[Any]:
    """Give jobs as ``lua/enqueue.lua`` takes them: what neighbours have in common is told once."""
    args: list[Any] = []
    for common, group in groupby(jobs, _COMMON):
        run = list(group)
        args += (len(run), *common)
        args += chain.from_iterable(map(_OWN, run))
    return args


def ids_added(batches: Sequence[Sequence[NewJob]], replies: Sequence[Any]) -> list[str]:
    """Give the ids, as people write them, of the jobs added where some calls were refused."""
    ids = []
    for batch, reply in zip(batches, replies, strict=True):
        if reply[0] != b"full":
            ids += [spoken_id(job.id) for job, new in zip(batch, reply, strict=True) if new == 1]
    return ids


def pack_outcomes(outcomes: Iterable[Outcome]) -> list[Any]:
    """Give outcomes as ``lua/tick.lua`` takes them: what neighbours have in common is told once."""
    args: list[Any] = []
    common, start = None, 0
    for kind, job_id, claim, stamp, a, b, c, detail, *_ in outcomes:
        if (kind, claim, b, c) != common:
            common, start = (kind, claim, b, c), len(args) + 5
            args += (kind, claim, b, c, 0)
        args[start - 1] += 1
        args += (job_id, stamp, a, detail)
    return args
