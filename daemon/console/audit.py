"""The audit log: who changed what, from where, and how it ended; each entry is chained to the one before by its hash.

An entry's hash is the SHA-256 of its canonical JSON, in which the hash of the entry before stands; the end of the chain
is kept beside the log. So `Audit.verify` finds an entry that was changed, one that is missing, and a log that was cut.
Whoever can write to Redis could make the whole chain anew: each entry is logged as well (``arqd.audit``), and a number
and a hash that were noted elsewhere can be handed to `Audit.verify`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from redis.exceptions import WatchError

from daemon.connecting.connections import translated
from daemon.console.roles import Actor
from daemon.errors import ArqdError, RedisError
from daemon.keys import AUDIT_HEAD, AUDIT_LOG

logger = logging.getLogger("arqd.audit")

#: Entries one call for a page looks at, and a round trip brings.
SCAN, PORTION = 5000, 500
#: How often an append is tried again that another process overtook.
TRIES = 100
#: The hash before the first entry.
GENESIS = "0" * 64


@dataclass(slots=True)
class Entry:
    """An entry of the log.

    Attributes:
        number: 1 for the first one there ever was.
        actor, role, via, address: see `daemon.console.roles.Actor`.
        action: ``queue.pause``, ``job.retry`` … (docs/access.md lists them).
        target: the family, job, schedule or token it was done to.
        outcome: ``done``, ``refused`` (it could not be done as asked) or ``failed``.
        detail: what else there is to say: filters, counts, the error.
        previous, hash: the chain.
    """

    number: int
    at: datetime
    actor: str
    role: str
    via: str
    address: str
    action: str
    target: str
    outcome: str
    detail: dict[str, Any]
    previous: str
    hash: str


@dataclass(slots=True)
class Doing:
    """What is being done, until its entry is written; ``detail`` and ``outcome`` may be added to."""

    actor: Actor
    action: str
    target: str
    detail: dict[str, Any] = field(default_factory=dict)
    outcome: str = "done"


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries; None asks for nothing. ``action`` also takes the beginning of one, ``queue.``."""

    actor: str | None = None
    action: str | None = None
    target: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def lets_through(self, entry: Entry) -> bool:
        """Whether an entry is one of these."""
        return (
            self.actor in (None, entry.actor)
            and (self.action is None or entry.action.startswith(self.action))
            and self.target in (None, entry.target)
            and self.outcome in (None, entry.outcome)
            and (self.since is None or entry.at >= self.since)
            and (self.until is None or entry.at < self.until)
        )


EVERY = AuditFilter()


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, the newest first; ``cursor`` goes on behind them, None at the end."""

    entries: list[Entry]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `Audit.verify` found: how many entries, the number and hash of the last one, and each fault."""

    entries: int
    number: int
    hash: str
    faults: list[str]


class Audit:
    """Writes and reads the log.

    Args:
        redis: an asynchronous redis-py client without response decoding.
        most: entries that are kept; the oldest go, and the chain then begins with the first that is left.
    """

    def __init__(self, redis: Any, most: int = 100_000) -> None:
        self._redis, self._most = redis, most
        self._waiting: list[tuple[Doing, asyncio.Future[Entry]]] = []
        self._writing = asyncio.Lock()

    @asynccontextmanager
    async def record(self, actor: Actor, action: str, target: str = "", **detail: Any) -> AsyncIterator[Doing]:
        """Write an entry when the block has ended, however it ends; an error is raised again.

        What was done is done: where the entry cannot be written, it stands in the process's log only.
        """
        doing = Doing(actor, action, target, {name: value for name, value in detail.items() if value is not None})
        async with self.entry(doing):
            yield doing

    @asynccontextmanager
    async def entry(self, doing: Doing) -> AsyncIterator[None]:
        """`record` what has been described already."""
        try:
            yield
        except ArqdError as error:
            doing.outcome = "failed" if isinstance(error, RedisError) else "refused"
            doing.detail["error"] = str(error)[:500]
            raise
        except BaseException as error:
            doing.outcome = "failed"
            doing.detail["error"] = type(error).__name__
            raise
        finally:
            try:
                await asyncio.shield(self.append(doing))
            except RedisError as error:
                # Where Redis failed it before, that has been told.
                level = logging.INFO if doing.outcome == "failed" else logging.ERROR
                logger.log(level, "this entry could not be written (%s): %s", error, _canonical(_fields(doing)))

    @asynccontextmanager
    async def submission(self, actor: Actor, wanted: bool) -> AsyncIterator[Doing]:
        """`record` a submission, if these are wanted."""
        if wanted:
            async with self.record(actor, "job.submit") as doing:
                yield doing
        else:
            yield Doing(actor, "job.submit", "")

    async def append(self, doing: Doing) -> Entry:
        """Write an entry; those that wait meanwhile are written together.

        Raises:
            RedisUnavailable, RedisRefused, RedisFull: it was not written.
        """
        written: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self._waiting.append((doing, written))
        async with self._writing:
            # Who had the lock before may have written this one, too.
            if not written.done():
                waiting, self._waiting = self._waiting, []
                try:
                    entries = await self._write([each for each, _ in waiting])
                except BaseException as error:
                    for _, future in waiting:
                        if future is not written:
                            future.set_exception(error)
                    written.cancel()
                    raise
                for (_, future), entry in zip(waiting, entries, strict=True):
                    future.set_result(entry)
        return written.result()

    async def _write(self, many: list[Doing]) -> list[Entry]:
        with translated():
            for _ in range(TRIES):
                async with self._redis.pipeline(transaction=True) as pipe:
                    await pipe.watch(AUDIT_HEAD)
                    head = _head(await pipe.hgetall(AUDIT_HEAD))
                    seconds, micros = await pipe.time()
                    at = datetime.fromtimestamp(int(seconds) + int(micros) / 1e6, UTC)
                    entries = _chain(head, at, many)
                    last = entries[-1]
                    pipe.multi()
                    pipe.rpush(AUDIT_LOG, *(_canonical(_as_kept(entry)) for entry in entries))
                    pipe.hset(AUDIT_HEAD, mapping={"number": last.number, "hash": last.hash})
                    if last.number - head.first + 1 > self._most:
                        await self._trim(pipe, head, entries)
                    try:
                        await pipe.execute()
                    except WatchError:
                        await asyncio.sleep(random.uniform(0, 0.02))  # noqa: S311
                        continue
                for entry in entries:
                    logger.info("%s %s: %s", entry.action, entry.target, entry.outcome, extra={"audit": asdict(entry)})
                return entries
        raise RedisError("the audit log is being written by too many processes at once")

    async def _trim(self, pipe: Any, head: _Head, entries: list[Entry]) -> None:
        """Cut the oldest, a tenth at once, and remember where the chain begins now."""
        first = entries[-1].number - self._most + self._most // 10 + 1
        cut = first - head.first
        raw = await self._redis.lindex(AUDIT_LOG, cut)
        if raw is not None:
            pipe.ltrim(AUDIT_LOG, cut, -1)
            pipe.hset(AUDIT_HEAD, mapping={"first": first, "before": json.loads(raw)["previous"]})

    # ------------------------------------------------------------------ read

    async def page(self, where: AuditFilter = EVERY, *, cursor: str | None = None, limit: int = 50) -> AuditPage:
        """Give entries, the newest first; a filtered page may be short and still go on.

        Raises:
            ArqdError: for a wrong cursor or limit.
        """
        if not 1 <= limit <= PORTION:
            raise ArqdError(f"limit is 1 to {PORTION}")
        if cursor is not None and not (cursor.isdecimal() and len(cursor) < 16):
            raise ArqdError(f"cursor {cursor[:40]!r} is none: leave it out to begin anew")
        with translated():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hgetall(AUDIT_HEAD).llen(AUDIT_LOG)
                head, length = await pipe.execute()
            first = _head(head).first
            end = length if cursor is None else min(length, int(cursor) - first)
            found: list[Entry] = []
            looked = 0
            while end > 0 and looked < SCAN:
                begin = max(0, end - min(PORTION, limit if where == EVERY else PORTION))
                for raw in reversed(await self._redis.lrange(AUDIT_LOG, begin, end - 1)):
                    end, looked = end - 1, looked + 1
                    entry = _entry(raw)
                    if entry is not None and where.lets_through(entry):
                        found.append(entry)
                        if len(found) == limit:
                            return AuditPage(found, str(first + end) if end > 0 else None)
        return AuditPage(found, str(first + end) if end > 0 else None)

    async def verify(self, expected: Mapping[int, str] | None = None) -> Verdict:
        """Go over the whole log, and tell each fault of its chain.

        Args:
            expected: hashes by number that were noted elsewhere, to be found again.
        """
        faults: list[str] = []
        noted = dict(expected or {})
        with translated():
            head = _head(await self._redis.hgetall(AUDIT_HEAD))
            number, previous, at = head.first - 1, head.before, 0
            while number < head.number:
                portion = await self._redis.lrange(AUDIT_LOG, at, at + PORTION - 1)
                if not portion:
                    break
                at += len(portion)
                for raw in portion[: head.number - number]:
                    number, previous = _check(raw, number + 1, previous, faults)
                    if noted.pop(number, previous) != previous:
                        faults.append(f"entry {number} is not the one that was noted")
        if number != head.number:
            faults.append(f"entries {number + 1} to {head.number} are missing at the end")
        elif previous != head.hash:
            faults.append(f"the log does not end with the hash it should, {head.hash}")
        faults += [f"entry {each} is not there, and was noted" for each in sorted(noted)]
        return Verdict(head.number - head.first + 1, head.number, head.hash, faults)


@dataclass(frozen=True, slots=True)
class _Head:
    """The end of the chain, and where what is left of it begins."""

    number: int
    hash: str
    first: int
    before: str


def _head(raw: Mapping[bytes, bytes]) -> _Head:
    kept = {name.decode(): value.decode() for name, value in raw.items()}
    return _Head(
        int(kept.get("number", 0)), kept.get("hash", GENESIS), int(kept.get("first", 1)), kept.get("before", GENESIS)
    )


def _fields(doing: Doing) -> dict[str, Any]:
    actor = doing.actor
    return {
        "actor": actor.name,
        "role": str(actor.role),
        "via": actor.via,
        "address": actor.address,
        "action": doing.action,
        "target": doing.target,
        "outcome": doing.outcome,
        "detail": doing.detail,
    }


def _chain(head: _Head, at: datetime, many: list[Doing]) -> list[Entry]:
    entries, previous = [], head.hash
    for number, doing in enumerate(many, head.number + 1):
        # As it will be read again: what is not JSON has become text.
        kept = json.loads(_canonical({"number": number, "at": at.isoformat(), **_fields(doing), "previous": previous}))
        previous = _hash(kept)
        entries.append(Entry(**{**kept, "at": at}, hash=previous))
    return entries


def _canonical(kept: Mapping[str, Any]) -> str:
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)


def _hash(kept: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical({k: v for k, v in kept.items() if k != "hash"}).encode()).hexdigest()


def _as_kept(entry: Entry) -> dict[str, Any]:
    return {**asdict(entry), "at": entry.at.isoformat()}


def _entry(raw: bytes) -> Entry | None:
    """Read an entry; None where it is none any more, which `Audit.verify` tells."""
    try:
        kept = json.loads(raw)
        return Entry(**{**kept, "at": datetime.fromisoformat(kept["at"])})
    except (ValueError, TypeError, KeyError):
        return None


def _check(raw: bytes, number: int, previous: str, faults: list[str]) -> tuple[int, str]:
    """Check one entry against the one before; gives its number and hash, to go on from."""
    entry = _entry(raw)
    if entry is None:
        faults.append(f"entry {number} cannot be read")
        return number, previous
    if entry.number != number:
        faults.append(f"entry {number} is missing: {entry.number} stands in its place")
    elif entry.previous != previous:
        faults.append(f"entry {number} does not follow the one before it")
    if _hash(_as_kept(entry)) != entry.hash:
        faults.append(f"entry {entry.number} was changed")
    return entry.number, entry.hash
