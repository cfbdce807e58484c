"""Many jobs in the calls their number and size need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from daemon.keys import spoken_id

if TYPE_CHECKING:
    from daemon.broker import NewJob

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


def ids_added(batches: Sequence[Sequence[NewJob]], replies: Sequence[Any]) -> list[str]:
    """Give the ids, as people write them, of the jobs added where some calls were refused."""
    ids = []
    for batch, reply in zip(batches, replies, strict=True):
        if reply[0] != b"full":
            ids += [spoken_id(job.id) for job, new in zip(batch, reply, strict=True) if new == 1]
    return ids
