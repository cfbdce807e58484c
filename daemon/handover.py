"""The way of prepared jobs from a producer to the enqueue script, in the cases where once is not enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from daemon import codec
from daemon.broker import Broker, NewJob, Repeat
from daemon.connections import LOST
from daemon.encryption import SEALED_JSON
from daemon.errors import InClear, RedisUnavailable
from daemon.handle import JobHandle

if TYPE_CHECKING:
    from daemon.options import JobOptions
    from daemon.payload import Payload
    from daemon.producer import Producer

#: What one job was asked for with: payload or function, fields, family, options.
Asked = tuple["Payload | str", Any, "str | None", "JobOptions"]
#: What becomes of it: family, job, type of the result.
Prepared = tuple[str, NewJob, Any]

#: How often a payload is encrypted anew for a job that has its dedup key, should these end one after the other.
REBINDS = 5


async def hand_over(broker: Broker, jobs: list[NewJob], *, resend: bool = False) -> list[bool | Repeat]:
    """Enqueue; after a lost connection once more.

    Raises: as `Broker.enqueue`.
    """
    try:
        return await broker.enqueue(jobs, resend=resend)
    except LOST:
        # Unknown whether it was done: the script knows its own jobs again, so once more is safe.
        return await broker.enqueue(jobs, resend=True)


class Fallback(Protocol):
    """Keeps jobs while Redis is away, such as `daemon.outbox.OutboxFallback`."""

    @property
    def is_away(self) -> bool:
        """Whether Redis was away just now, so that it need not even be tried."""
        ...

    async def keep(self, family: str, jobs: Sequence[NewJob]) -> None:
        """Keep jobs until they can go to Redis."""
        ...


async def hand_over_or_keep(
    producer: Producer, fallback: Fallback, asked: Sequence[Asked], prepared: list[Prepared]
) -> list[JobHandle]:
    """Hand jobs over, and where Redis is away have them kept."""
    if not fallback.is_away:
        try:
            return await producer._hand_over(asked, prepared)
        except RedisUnavailable:
            pass
    family = prepared[0][0]
    await fallback.keep(family, [job for _, job, _ in prepared])
    return [JobHandle(producer, family, job.id, True, returns) for _, job, returns in prepared]


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
    broker: Broker, prepare: Callable[[str], Prepared], own: Prepared, new: Repeat
) -> tuple[bool | Repeat, Prepared]:
    """Encrypt a payload for the job that has its dedup key, and offer it again; that job may end meanwhile.

    Args:
        prepare: encrypts it for an id.
        own: as it was, for an id of its own.
        new: says which job has the key.
    """
    for _ in range(REBINDS):
        bound = prepare(new.id)
        for offered in (bound, own):
            (added,) = await hand_over(broker, [offered[1]])
            if isinstance(added, Repeat) and added.bound:
                new = added
                break
            if added is not False or offered is own:
                return added, offered
    return new, own
