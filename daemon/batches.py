"""Many jobs in the calls their number and size need; many outcomes in one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from daemon.keys import spoken_id

if TYPE_CHECKING:
    from daemon.broker import NewJob, Outcome

#: Jobs and bytes one call of the enqueue script takes: about 10 ms of the server's time.
ENQUEUE_JOBS, ENQUEUE_BYTES = 1000, 1_000_000


def batches_of(jobs: Sequence[NewJob]) -> list[list[NewJob]]:
    """Give the jobs of each call."""
    batches: list[list[NewJob]] = [[]]
    size = 0
    for job in jobs:
        if batches[-1] and (len(batches[-1]) >= ENQUEUE_JOBS or size + len(job.tail) > ENQUEUE_BYTES):
            batches.append([])
            size = 0
        batches[-1].append(job)
        size += len(job.tail)
    return batches


def pack_jobs(jobs: Iterable[NewJob]) -> list[Any]:
    """Give jobs as ``lua/enqueue.lua`` takes them: what neighbours have in common is told once."""
    args: list[Any] = []
    common, start = None, 0
    for job_id, *rest, tail in jobs:
        if rest != common:
            common, start = rest, len(args)
            args += (0, *rest)
        args[start] += 1
        args += (job_id, tail)
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
