"""Dead letters by cause: the groups there are, and a walk over what a filter lets through.

A list of them is `Inspector.jobs` in the state ``failed``, of one group with ``JobFilter(cause=...)``; one of them is
`Inspector.job`. Sending them back and discarding them is `daemon.control`'s, doing so with care `daemon.redrive`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json

from daemon.connecting.connections import translated
from daemon.errors import JobNotFound
from daemon.inspector import Inspector
from daemon.job import JobState, from_ms
from daemon.keys import JOB, RESULT, FamilyKeys, raw_id, spoken_id
from daemon.pages import PAGE, JobFilter, Listing


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """The dead letters of one cause.

    Attributes:
        id: the cause's, ten hexadecimal digits; no two families share one.
        type: class name of the error.
        place: ``module:function`` of the user's code that raised it; the job's function where none of it ran.
        message: the error's text without numbers, ids and quoted text.
        functions: those whose jobs failed so, since the group is there.
        count: how many there are now.
        first: when the group appeared; it goes with its last dead letter.
        last: when the newest one ended.
        example: id of the newest one, as people write it.
    """

    id: str
    family: str
    type: str
    place: str
    message: str
    functions: tuple[str, ...]
    count: int
    first: datetime
    last: datetime
    example: str


async def groups(inspector: Inspector, family: str | None = None) -> list[DeadGroup]:
    """Give the groups of a family, or of all of them, the largest first.

    Raises:
        InvalidJob: for an unknown family. RedisUnavailable, RedisRefused: when Redis, or one of several servers, cannot
            tell; ``await inspector.ask(groups)`` tells of the others all the same.
    """
    found: list[DeadGroup] = []
    with translated():
        for name in sorted(inspector.families) if family is None else [family]:
            keys = inspector.of(name)
            at = None
            while at != 0:
                at, part = await inspector.redis.hscan(keys.key("causes"), at or 0, count=PAGE)
                found += await _groups(inspector.redis, keys, part)
    # A scan may tell a field twice.
    return largest_first({group.id: group for group in found}.values())


def largest_first(found: Iterable[DeadGroup]) -> list[DeadGroup]:
    """Put groups into the order `groups` gives them in."""
    return sorted(found, key=lambda group: (-group.count, group.family, group.id))


async def group(inspector: Inspector, cause: str) -> DeadGroup:
    """Give one group.

    Raises:
        InvalidJob: when it is no id of a cause. JobNotFound: when no dead letter has it.
        RedisUnavailable, RedisRefused: when none has it on the servers that answer.
    """
    JobFilter(cause=cause)
    answers = await inspector.ask(lambda part: _group_of(part, cause))
    for found in answers.told:
        if found is not None:
            return found
    for error in answers.away.values():
        # It may be there.
        raise error
    raise JobNotFound(f"there is no group {cause}: arqd dead groups lists those there are")


async def _group_of(inspector: Inspector, cause: str) -> DeadGroup | None:
    with translated():
        for keys in inspector.families.values():
            text = await inspector.redis.hget(keys.key("causes"), cause)
            if text is not None:
                for found in await _groups(inspector.redis, keys, {cause.encode(): text}):
                    return found
    return None


async def _groups(redis: Any, keys: FamilyKeys, texts: dict[bytes, bytes]) -> list[DeadGroup]:
    found = []
    async with redis.pipeline(transaction=False) as pipe:
        for cause in texts:
            pipe.zcard(keys.key("cause", cause.decode()))
            pipe.zrange(keys.key("cause", cause.decode()), -1, -1, withscores=True)
        counted = await pipe.execute() if texts else []
    for (cause, text), count, newest in zip(texts.items(), counted[::2], counted[1::2], strict=True):
        if newest:
            ((example, last),) = newest
            found.append(_group(keys, cause, text, count, example, last))
    return found


def _group(keys: FamilyKeys, cause: bytes, text: bytes, count: int, example: bytes, last: float) -> DeadGroup:
    first, described, *functions = text.decode().split("\n")
    return DeadGroup(
        id=cause.decode(),
        family=keys.family,
        **from_json(described),
        functions=tuple(sorted(filter(None, functions))),
        count=count,
        first=from_ms(int(first)),
        last=from_ms(int(last)),
        example=spoken_id(example.decode("utf-8", "backslashreplace")),
    )


async def outlook(redis: Any, keys: FamilyKeys, ids: Sequence[str], done: str) -> list[str]:
    """Tell what sending jobs back (``done`` is ``retried``) or discarding them (``discarded``) would answer.

    Args:
        ids: as they are in Redis.

    Returns:
        For each ``done``, ``not_failed`` or ``not_found``, as the scripts say it (``lua/redrive.lua``).
    """
    ended = await redis.zmscore(keys.key("dead"), [raw_id(job_id) for job_id in ids])
    records, results = [await redis.mget([prefix.encode() + raw_id(each) for each in ids]) for prefix in (JOB, RESULT)]
    words = []
    for dead, record, result in zip(ended, records, results, strict=True):
        if dead is not None and (record is not None or done == "discarded"):
            words.append(done)
        else:
            words.append("not_found" if record is result is None else "not_failed")
    return words


class Walk:
    """Goes once over the dead letters a filter lets through, oldest first: those there were at one moment.

    What fails again meanwhile is not among them. It can stop at any point.

    Args:
        redis: an asynchronous redis-py client without response decoding.
        now: that moment, the server's time in ms.
    """

    def __init__(self, redis: Any, keys: FamilyKeys, where: JobFilter, now: int) -> None:
        until = datetime.fromtimestamp((now + 1) / 1000, UTC)
        where = replace(where, until=min(where.until or until, until))
        self._listing = Listing(redis, keys, JobState.FAILED, where, now, down=False)
        self._at: Any = None
        self.end = False

    async def size(self) -> int:
        """Give how many there are to look at."""
        return await self._listing.size()

    async def look(self, most: int, wanted: int = PAGE) -> list[str]:
        """Look at the next ``most`` of them (at most 500), until ``wanted`` were found; gives the ids in Redis."""
        found, last, self.end = await self._listing.portion(self._at, most, wanted)
        self._at = last or self._at
        return await self._listing.confirmed(found)

    async def take(self, wanted: int) -> list[str]:
        """Give the next ``wanted`` of them (at most 500), fewer only at the end."""
        found: list[str] = []
        while len(found) < wanted and not self.end:
            found += await self.look(PAGE, wanted - len(found))
        return found

    async def count(self) -> int:
        """Give how many the filter lets through; the walk is over then, unless it is known without one."""
        if self._listing.exact:
            return await self.size()
        count = 0
        while not self.end:
            count += len(await self.look(PAGE))
        return count
