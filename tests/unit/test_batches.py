"""How many jobs are packed: into calls, and in a call what neighbours share is told once."""

from __future__ import annotations

from daemon.broker import Outcome
from daemon.producing.batches import (
    ENQUEUE_BYTES,
    ENQUEUE_JOBS,
    JobRun,
    NewJob,
    batches_of,
    ids_of,
    pack_jobs,
    pack_outcomes,
)


def _job(name: str, *, level: int = 5, when: str = "now", tail: bytes = b"f\t\n{}") -> NewJob:
    return NewJob(name, level, when, 0, 0, 0, tail)


def test_neighbours_share_what_they_have_in_common() -> None:
    jobs = [_job("a"), _job("b"), _job("c", level=1), _job("d"), _job("e")]
    common = ("now", 0, 0, 0)
    tail = b"f\t\n{}"
    expected = [2, 5, *common, "a", tail, "b", tail, 1, 1, *common, "c", tail, 2, 5, *common, "d", tail, "e", tail]
    assert pack_jobs(jobs) == expected
    assert pack_jobs(jobs[2:3]) == [1, 1, *common, "c", tail]
    assert pack_jobs([]) == []


def test_a_call_takes_a_thousand_jobs() -> None:
    jobs = [_job(str(n)) for n in range(2 * ENQUEUE_JOBS + 1)]
    batches = batches_of(jobs)
    assert [len(batch) for batch in batches] == [ENQUEUE_JOBS, ENQUEUE_JOBS, 1]
    assert [job for batch in batches for job in batch] == jobs
    assert [len(batch) for batch in batches_of(jobs[:ENQUEUE_JOBS])] == [ENQUEUE_JOBS]


def test_a_call_takes_a_megabyte_or_one_job() -> None:
    large, most = b"x" * (ENQUEUE_BYTES // 4), b"x" * (ENQUEUE_BYTES + 1)
    jobs = [*(_job(str(n), tail=large) for n in range(6)), _job("most", tail=most), _job("last")]
    assert [len(batch) for batch in batches_of(jobs)] == [4, 2, 1, 1]


def test_a_run_is_packed_and_cut_as_its_jobs_are() -> None:
    ids = [str(n) for n in range(ENQUEUE_JOBS + 2)]
    run = JobRun(ids, (5, "now", 0, 0, 0), [b"%s\t\n" % name.encode() for name in ids])
    jobs = list(run)
    assert jobs == [_job(name, tail=b"%s\t\n" % name.encode()) for name in ids]
    assert pack_jobs(run) == pack_jobs(jobs)
    assert [pack_jobs(batch) for batch in batches_of(run)] == [pack_jobs(batch) for batch in batches_of(jobs)]
    assert ids_of(run) == ids_of(jobs) == ids


def test_one_outcome_is_packed_as_one_of_many() -> None:
    ended = Outcome("c", b"a", 3, "17", b"result", 5000, b"line", "send\t1\t0")
    packed = pack_outcomes([ended])
    assert pack_outcomes([ended, ended._replace(id=b"b", kind="a")])[: len(packed)] == packed
