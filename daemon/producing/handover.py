"""The way of prepared jobs from a producer to the enqueue script, in the cases where once is not enough."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from daemon import codec
from daemon.broker import Broker, Repeat
from daemon.connecting.connections import LOST, translated
from daemon.connecting.routed import NOT_DONE
from daemon.encryption import SEALED_JSON
from daemon.errors import InClear, RedisUnavailable
from daemon.producing.batches import NewJob, ids_of
from daemon.producing.handle import JobHandle

if TYPE_CHECKING:
    from daemon.payload import Payload
    from daemon.producer import Producer
    from daemon.producing.options import JobOptions

#: What one job was asked for with: payload or function, fields, family, options.
Asked = tuple["Payload | str", Any, "str | None", "JobOptions"]
#: What becomes of it: family, job, type of the result.
Prepared = tuple[str, NewJob, Any]


class Lot(NamedTuple):
    """What becomes of all of a call: their family, the jobs, and the types of their results."""

    family: str
    jobs: Sequence[NewJob]
    returns: Sequence[Any]


#: How often a payload is encrypted anew for a job that has its dedup key, should these end one after the other.
REBINDS = 5


async def hand_over(
    broker: Broker, jobs: Sequence[NewJob], *, resend: bool = False, waiting: str = ""
) -> list[bool | Repeat]:
    """Enqueue; after a lost connection once more, not after a cluster has refused it all the time it may take.

    Raises: as `Broker.enqueue`.
    """
    try:
        return await broker.enqueue(jobs, resend=resend, waiting=waiting)
    except NOT_DONE:
        raise
    except LOST:
        # Unknown whether it was done: the script knows its own jobs again, so once more is safe.
        return await broker.enqueue(jobs, resend=True, waiting=waiting)


class Fallback(Protocol):
    """Keeps jobs while Redis is away, such as `daemon.outbox.OutboxFallback`."""

    @property
    def is_away(self) -> bool:
        """Whether Redis was away just now, so that it need not even be tried."""
        ...

    async def keep(self, family: str, jobs: Sequence[NewJob]) -> None:
        """Keep jobs until they can go to Redis."""
        ...


async def deliver_one(producer: Producer, asked: Asked, prepared: Prepared) -> JobHandle:
    """Hand one job over that is to run now, without a fallback: what most calls are, so nothing more is on its way.

    Args, raises: as `deliver`.
    """
    family, job, returns = prepared
    job_id, level, when, ms, timeout, expires, tail = job
    waiting = producer.replies.look_ahead(family, job_id)
    reply = None
    with translated():
        try:
            how = f"0 {waiting}" if waiting else 0
            args = (how, 1, level, when, ms, timeout, expires, job_id, tail)
            reply = await producer.broker(family).run("enqueue", *args)
        except NOT_DONE:
            raise
        except LOST:
            # Unknown whether it was done: the script knows its own jobs again, so once more is safe.
            pass
    if reply == [1]:
        return JobHandle(producer, family, job_id, True, returns)
    # Nothing was written, or it is unknown.
    if waiting:
        producer.replies.forget(job_id)
    if reply == [0]:
        return JobHandle(producer, family, job_id, False, returns)
    return (await _enqueue(producer, (asked,), Lot(family, [job], [returns]), resend=reply is None))[0]


async def deliver(producer: Producer, fallback: Fallback | None, asked: Sequence[Asked], lot: Lot) -> list[JobHandle]:
    """Hand jobs over, and where Redis is away have them kept if there is a fallback.

    Args:
        asked: what they were asked for with, to prepare those anew that have to be encrypted; () where none is.

    Raises: as `Producer.enqueue`.
    """
    if fallback is None:
        return await _enqueue(producer, asked, lot)
    if not fallback.is_away:
        try:
            return await _enqueue(producer, asked, lot)
        except RedisUnavailable:
            pass
    family, jobs, returns = lot
    await fallback.keep(family, jobs)
    return [JobHandle(producer, family, job.id, True, of) for job, of in zip(jobs, returns, strict=True)]


async def _enqueue(producer: Producer, asked: Sequence[Asked], lot: Lot, *, resend: bool = False) -> list[JobHandle]:
    family, jobs, returns = lot
    broker, replies = producer.broker(family), producer.replies
    single = jobs[0] if len(jobs) == 1 else None
    replies.forget_early()
    waiting = replies.look_ahead(family, single.id) if single is not None and single.when == "now" else ""
    with translated():
        try:
            if resend:
                added = await broker.enqueue(jobs, resend=True, waiting=waiting)
            else:
                added = await hand_over(broker, jobs, waiting=waiting)
        except InClear as refused:
            # By name, or of a class that does not say so: the family's workers told its queue that it is encrypted.
            if refused.marked or not producer.keyring:
                raise
            producer._encrypts([family])
            jobs = [producer._prepare(*one, job.id)[1] for one, job in zip(asked, jobs, strict=True)]
            added = await hand_over(broker, jobs, resend=True, waiting=waiting)
        if waiting and added[0] is not True:
            replies.forget(jobs[0].id)
        ids = ids_of(jobs)
        for i, new in enumerate(added):
            if isinstance(new, Repeat) and new.bound:
                anew = functools.partial(producer._prepare, *asked[i])
                added[i], ids[i] = await rebind(broker, anew, jobs[i], new)
    return [
        JobHandle(producer, family, job_id, new, of)
        if new is True or new is False
        else JobHandle(producer, family, new.id, False, of, new.replaced)
        for job_id, new, of in zip(ids, added, returns, strict=True)
    ]


def in_clear(tail: bytes, encrypted: bytes | None, marked: bytes | None) -> InClear | None:
    """Tell whether a family must not take this in clear, as ``lua/enqueue.lua`` does."""
    head, _, body = tail.partition(b"\n")
    name, *others = head.split(b"\t")
    if not (encrypted or marked) or codec.is_sealed_body(body) or codec.carries_nothing(body):
        return None
    if encrypted:
        return InClear(name.decode(), False)
    # What a payload class wrote has its schema.
    may_hold = SEALED_JSON not in body and len(others) < 2
    return InClear(name.decode(), True) if may_hold and b"\t" + name + b"\t" in (marked or b"") else None


async def rebind(
    broker: Broker, prepare: Callable[[str], Prepared], own: NewJob, new: Repeat
) -> tuple[bool | Repeat, str]:
    """Encrypt a payload for the job that has its dedup key, and offer it again; that job may end meanwhile.

    Args:
        prepare: encrypts it for an id.
        own: as it was, for an id of its own.
        new: says which job has the key.

    Returns:
        What became of it, and under which id.
    """
    for _ in range(REBINDS):
        _, bound, _ = prepare(new.id)
        for offered in (bound, own):
            (added,) = await hand_over(broker, [offered])
            if isinstance(added, Repeat) and added.bound:
                new = added
                break
            if added is not False or offered is own:
                return added, offered.id
    return new, own.id
