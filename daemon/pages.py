"""Lists of jobs at any size: pages that go on from a cursor, and filters that look at a bounded number of jobs a call.

A cursor is the score and the id of the last job looked at, so it holds while jobs come and go. A filter reads the two
ends of a record or a result (function, times, type of error; tags) to leave jobs out, and decides on what is left by
all that is known of it.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from daemon import codec
from daemon.broker import Broker, PageEntry
from daemon.connecting.routed import at_key
from daemon.encryption import JobCipher, KeyRing
from daemon.errors import InvalidJob, Unreadable
from daemon.inspecting.job_info import BLOCKED, HELD, LANE, PARKED, SUSPECT, job_info
from daemon.job import JobInfo, JobState
from daemon.keys import IN_PROGRESS, JOB, RESULT, RETRY, FamilyKeys
from daemon.records import split_head

#: Most jobs in a page, and in one call of a script.
PAGE = 500
#: Most jobs one call for a filtered page looks at.
SCAN = 1000
INDEX = {
    JobState.COMPLETED: "completed",
    JobState.FAILED: "dead",
    JobState.ABORTED: "aborted",
    JobState.EXPIRED: "expired",
}
#: What of a record, and of a result, holds what filters ask for; where it does not, the whole is read.
_RECORD_HEAD, _RESULT_HEAD, _TAIL = 256, 512, 512
_CAUSE = re.compile(r"[0-9a-f]{10}")


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs of a list; None asks for nothing.

    Attributes:
        function: name of the function.
        tag: one of the tags it was enqueued with.
        group: the one it was enqueued with; of jobs that have not ended, and of dead letters.
        error: type of the error it ended of, ``"ValueError"``.
        cause: the group of dead letters it is in (`daemon.dead_letters`).
        since, until: aware times, ``since`` included: when it ended, when it started (active), when it is due
            (delayed), when it was parked or began to wait (blocked), when it was enqueued (waiting).
        text: words that all occur in it, and beginnings of its id with a star; only for lists, of families that are
            searched (docs/search.md).
    """

    function: str | None = None
    tag: str | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    cause: str | None = None
    text: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        for name in ("since", "until"):
            time = getattr(self, name)
            if time is not None and getattr(time, "tzinfo", None) is None:
                raise InvalidJob(f"{name} {time!r} has no time zone: pass an aware datetime, e.g. datetime.now(UTC)")

        if self.cause is not None and not _CAUSE.fullmatch(self.cause):
            raise InvalidJob(
                f"cause {self.cause[:40]!r} is none: it is ten hexadecimal digits, as arqd dead groups tells"
            )

    def asked(self) -> dict[str, Any]:
        """Give what it asks for, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


EVERY = JobFilter()


class JobPage(list[JobInfo]):
    """Jobs of a list; ``cursor`` goes on after them, None at the end. A filtered page may be short and still go on.

    ``partial``: found in a search index that is still being built, so there may be more.
    """

    def __init__(self, jobs: Sequence[JobInfo], cursor: str | None, *, partial: bool = False) -> None:
        super().__init__(jobs)
        self.cursor = cursor
        self.partial = partial


class Portion(NamedTuple):
    """A part of a list: the ids that may match, the last job looked at, whether it was the list's last."""

    ids: list[str]
    last: PageEntry | None
    end: bool


class Listing:
    """The jobs of one family in one state that a filter lets through.

    Args:
        redis: an asynchronous redis-py client without response decoding.
        now: the server's time in ms: what is due until then waits.
        down: the highest score first; by default ended jobs, which are listed newest first.

    Attributes:
        index: the set they stand in, as lua/page.lua names it.
    """

    def __init__(
        self, redis: Any, keys: FamilyKeys, state: JobState, where: JobFilter, now: int, *, down: bool | None = None
    ) -> None:
        self._redis, self._keys, self._state, self._where = redis, keys, state, where
        self._broker = Broker(redis, keys)
        self._ended = state in INDEX
        self._down = self._ended if down is None else down
        self._bands = bands(state, where, now)
        self.index = INDEX.get(state, "queue")
        if where.text is not None:
            raise InvalidJob("a text to search for is for lists of jobs: name those it finds by their ids")
        if where.cause is not None:
            if state is not JobState.FAILED:
                raise InvalidJob(f"jobs that are {state} have no cause: list the failed ones, or leave it out")
            self.index = f"cause:{where.cause}"
        if where.error is not None and not self._ended:
            raise InvalidJob(f"jobs that are {state} have no error: list the failed ones, or leave error out")
        if where.group is not None and self._ended and state is not JobState.FAILED:
            raise InvalidJob(f"of jobs that are {state} no group is kept: leave it out")

    @property
    def exact(self) -> bool:
        """Whether the ids of a portion are the answer, without a look at each job."""
        asked = (self._where.function, self._where.tag, self._where.error, self._where.group)
        timed = self._state is JobState.WAITING and (self._where.since or self._where.until)
        return asked == (None, None, None, None) and not timed

    async def size(self) -> int:
        """Give how many jobs there are to look at."""
        key = self._keys.key(self.index) if self._ended else self._keys.queue
        return sum([await self._redis.zcount(key, low, high) for low, high in self._bands])

    async def portion(self, after: PageEntry | None, most: int, wanted: int = PAGE) -> Portion:
        """Look at the next jobs, ``most`` of them (at most 500), until ``wanted`` may match."""
        head = 0 if self.exact else _RESULT_HEAD if self._ended else _RECORD_HEAD
        found: list[PageEntry] = []
        for low, high in self._bands:
            found += await self._broker.page(
                self.index, low, high, down=self._down, after=after,
                count=most + 1 - len(found), head=head, tail=_TAIL,
            )  # fmt: skip
            if len(found) > most:
                break
        ids: list[str] = []
        last = None
        for entry in found[:most]:
            last = entry
            if self.exact or self._may_match(entry):
                ids.append(entry.id.decode("utf-8", "surrogateescape"))
                if len(ids) == wanted:
                    break
        return Portion(ids, last, last is None or last is found[-1])

    async def matching(self, ids: Sequence[str]) -> dict[str, JobInfo]:
        """Give those of a portion that really match, with what is known of them."""
        described = zip(ids, await describe(self._redis, self._keys, ids), strict=True)
        return {i: info for i, info in described if info is not None and (self.exact or self._matches(info))}

    async def confirmed(self, ids: Sequence[str]) -> list[str]:
        """Give those ids of a portion that really match."""
        return list(ids) if self.exact else list(await self.matching(ids))

    async def page(self, cursor: str | None, limit: int) -> JobPage:
        """Give at most ``limit`` jobs after a cursor, of at most `SCAN` that are looked at."""
        at = _decode_cursor(cursor, self._state)
        ids: list[str] = []
        looked, end = 0, False
        while not end and len(ids) < limit and looked < SCAN:
            most = min(limit if self.exact else PAGE, PAGE)
            found, last, end = await self.portion(at, most, limit - len(ids))
            ids += found
            looked += most
            at = last or at
        jobs = await self.matching(ids)
        return JobPage(list(jobs.values()), None if end or at is None else _encode_cursor(at, self._state))

    # ------------------------------------------------------------------ filters

    def _may_match(self, entry: PageEntry) -> bool:
        """Tell by the two ends whether a job may match: True where they do not say."""
        where = self._where
        if where.tag is not None and not _may_have_tag(entry.tail, where.tag, self._ended):
            return False
        return self._result_may_match(entry.head) if self._ended else self._record_may_match(entry.head)

    def _result_may_match(self, head: bytes) -> bool:
        cut, where = len(head) == _RESULT_HEAD, self._where
        if where.function is not None and b'"f":' + codec.encode(where.function) + b',"et":' not in head:
            return cut and b',"et":' not in head
        if where.error is not None and b'"r":{"type":' + codec.encode(where.error) + b"," not in head:
            return cut and b'","message":' not in head[head.find(b'"r":{"type":') :]
        return True

    def _record_may_match(self, head: bytes) -> bool:
        where = self._where
        try:
            times, names = split_head(head)
        except Unreadable:
            return False
        if self._state is JobState.WAITING and not _within(times.stamp, where):
            return False
        name, tab, rest = names.partition(b"\t")
        if not tab:
            return len(head) == _RECORD_HEAD
        if where.function is not None and name != where.function.encode():
            return False
        names, newline, _ = rest.partition(b"\n")
        return where.group is None or not newline or names.partition(b"\t")[0] == where.group.encode()

    def _matches(self, info: JobInfo) -> bool:
        where = self._where
        if self._state is JobState.WAITING and (where.since or where.until):
            at = info.enqueued_at
            if at is None or (where.since and at < where.since) or (where.until and at >= where.until):
                return False
        return (
            where.function in (None, info.function)
            and where.group in (None, info.group)
            and (where.tag is None or where.tag in info.tags)
            and where.cause in (None, info.cause)
            and where.error in (None, (info.error or {}).get("type"))
        )


def _may_have_tag(tail: bytes, tag: str, ended: bool) -> bool:
    """A record and a result end with the job's options; tags in them are written as JSON text."""
    if codec.encode(tag) in tail:
        return True
    # Without options the arguments are the last: a JSON array.
    return len(tail) == _TAIL and b',"o":' not in tail and not tail.endswith(b"]}" if ended else b"]")


def _ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def _within(ms: int, where: JobFilter) -> bool:
    return not ((where.since and ms < _ms(where.since)) or (where.until and ms >= _ms(where.until)))


def bands(state: JobState, where: JobFilter, now: int) -> list[tuple[str, str]]:
    """Give the score ranges of a state, in the order they are listed, narrowed to the times asked for."""
    since = _ms(where.since) if where.since else None
    until = _ms(where.until) if where.until else None
    if state is JobState.WAITING:
        return [("-inf", f"({now + 1}"), (str(SUSPECT), f"({BLOCKED}"), (str(LANE), f"({PARKED}")]
    if state is JobState.PARKED:
        return [(str(PARKED + (since or 0)), "+inf" if until is None else f"({PARKED + until}")]
    if state is JobState.BLOCKED:
        return [(str(BLOCKED + (since or 0)), f"({LANE if until is None else min(BLOCKED + until, LANE)}")]
    if state is JobState.DELAYED:
        return [(str(max(now + 1, since or 0)), f"({HELD if until is None else min(until, HELD)}")]
    if state is JobState.ACTIVE:
        return [(str(HELD + (since or 0)), f"({SUSPECT if until is None else min(HELD + until, SUSPECT)}")]
    return [("-inf" if since is None else str(since), "+inf" if until is None else f"({until}")]


def _encode_cursor(entry: PageEntry, state: JobState) -> str:
    text = b" ".join((state.encode(), entry.score, entry.id))
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def _decode_cursor(cursor: str | None, state: JobState) -> PageEntry | None:
    if cursor is None:
        return None
    with contextlib.suppress(ValueError):
        text = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), b"-_", validate=True)
        of, score, job_id = text.split(b" ", 2)
        float(score)
        if of.decode() == state:
            return PageEntry(job_id, score)
    raise InvalidJob(f"cursor {cursor[:40]!r} is not one of the {state} jobs: leave it out to begin anew")


async def describe(
    redis: Any, keys: FamilyKeys, ids: Sequence[str], keyring: KeyRing | None = None
) -> list[JobInfo | None]:
    """Give what is known of jobs by their ids in Redis, None where nothing is; with keys what is encrypted, too."""
    if not ids:
        return []
    encoded = [job_id.encode("utf-8", "surrogateescape") for job_id in ids]
    now = await server_ms(redis, keys)
    async with redis.pipeline(transaction=False) as pipe:
        for prefix in (JOB, RESULT, RETRY, IN_PROGRESS):
            pipe.mget([prefix.encode() + job_id for job_id in encoded])
        for name in ("progress", "history", "crashes"):
            pipe.hmget(keys.key(name), encoded)
        pipe.zmscore(keys.queue, encoded)
        pipe.hmget(keys.key("caused"), encoded)
        *columns, causes = await pipe.execute()
    columns.append([None if keyring is None else JobCipher(keyring, keys.family, job_id) for job_id in ids])
    found = [job_info(keys, job_id, now, *(column[i] for column in columns)) for i, job_id in enumerate(ids)]
    for info, cause in zip(found, causes, strict=True):
        if info is not None and info.state is JobState.FAILED and cause is not None:
            info.cause = cause.decode()
    return found


async def server_ms(redis: Any, keys: FamilyKeys) -> int:
    """Give the time of the server that a family is on, in ms since the epoch."""
    seconds, micros = await at_key(redis, keys.queue, lambda server: server.time())
    return int(seconds) * 1000 + int(micros) // 1000
