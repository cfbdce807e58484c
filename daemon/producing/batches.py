"""Many jobs in the calls their number and size need; many outcomes in one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from daemon.keys import spoken_id

if TYPE_CHECKING:
    from daemon.broker import Outcome

#: Jobs and bytes one call of the enqueue script takes: about 10 ms of the server's time.
ENQUEUE_JOBS, ENQUEUE_BYTES = 1000, 1_000_000
#: Of a `NewJob`: what neighbours mostly have in common, and what is a job's own.
_COMMON, _OWN, _TAIL = itemgetter(1, 2, 3, 4, 5), itemgetter(0, 6), itemgetter(6)
#: The same of an `Outcome`: kind, claim, b, c and detail; its stamp; id and a.
_ALIKE, _STAMP, _ENDED = itemgetter(0, 2, 5, 6, 7), itemgetter(3), itemgetter(1, 4)


class NewJob(NamedTuple):
    """A job to add: ``when`` is ``now``, ``in`` (``ms`` from now) or ``at`` (``ms`` since the epoch).

    With a dedup key ``when`` goes on with its mode, its window in ms (0: while the job lives) and the key itself, a
    blank before each.
    """

    id: str
    level: int
    when: str
    ms: int
    timeout_ms: int
    expires_ms: int
    tail: bytes


class JobRun(Sequence[NewJob]):
    """Jobs that have all in common but id and record; a `NewJob` is made of one when it is looked at.

    Args:
        common: what stands between the two in a `NewJob`.
    """

    __slots__ = ("common", "ids", "tails")

    def __init__(self, ids: list[str], common: tuple[int, str, int, int, int], tails: list[bytes]) -> None:
        self.ids, self.common, self.tails = ids, common, tails

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> NewJob: ...
    @overload
    def __getitem__(self, index: slice) -> JobRun: ...
    def __getitem__(self, index: int | slice) -> NewJob | JobRun:
        if isinstance(index, slice):
            return JobRun(self.ids[index], self.common, self.tails[index])
        return NewJob(self.ids[index], *self.common, self.tails[index])


def batches_of(jobs: Sequence[NewJob]) -> list[Sequence[NewJob]]:
    """Give the jobs of each call."""
    if len(jobs) == 1:
        return [jobs]
    sizes = list(map(len, jobs.tails if type(jobs) is JobRun else map(_TAIL, jobs)))
    if len(sizes) <= ENQUEUE_JOBS and sum(sizes) <= ENQUEUE_BYTES:
        return [jobs]
    batches = []
    first = size = 0
    for n, more in enumerate(sizes):
        if n > first and (n - first >= ENQUEUE_JOBS or size + more > ENQUEUE_BYTES):
            batches.append(jobs[first:n])
            first, size = n, 0
        size += more
    return [*batches, jobs[first:]]


def pack_jobs(jobs: Sequence[NewJob]) -> list[Any]:
    """Give jobs as ``lua/enqueue.lua`` takes them: what neighbours have in common is told once."""
    if type(jobs) is JobRun:
        return [len(jobs), *jobs.common, *chain.from_iterable(zip(jobs.ids, jobs.tails, strict=True))]
    if len(jobs) == 1:
        job_id, *common, tail = jobs[0]
        return [1, *common, job_id, tail]
    args: list[Any] = []
    for common, group in groupby(jobs, _COMMON):
        run = list(group)
        args += (len(run), *common)
        args += chain.from_iterable(map(_OWN, run))
    return args


def ids_of(jobs: Sequence[NewJob]) -> list[str]:
    """Give the ids of jobs."""
    return jobs.ids if type(jobs) is JobRun else [job.id for job in jobs]


def ids_added(batches: Sequence[Sequence[NewJob]], replies: Sequence[Any]) -> list[str]:
    """Give the ids, as people write them, of the jobs added where some calls were refused."""
    ids = []
    for batch, reply in zip(batches, replies, strict=True):
        if reply[0] != b"full":
            ids += [spoken_id(job.id) for job, new in zip(batch, reply, strict=True) if new == 1]
    return ids


def pack_outcomes(outcomes: Sequence[Outcome]) -> list[Any]:
    """Give outcomes as ``lua/tick.lua`` takes them: what neighbours have in common is told once."""
    if len(outcomes) == 1:
        one = outcomes[0]
        return [*_ALIKE(one), one.stamp, 1, one.id, one.a]
    args: list[Any] = []
    for common, group in groupby(outcomes, _ALIKE):
        run = list(group)
        args += (*common, " ".join(map(_STAMP, run)), len(run))
        args += chain.from_iterable(map(_ENDED, run))
    return args
