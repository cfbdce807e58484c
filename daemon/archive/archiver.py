"""Brings dead letters into the archive and sends them back from there; ``arqd dead archive``, and a regular duty.

1. Dead letters that are not marked as archived are written to the table, which leaves out those it has.
2. They are marked (``lua/archived.lua``): from now on a budget of bytes may evict them.
3. What became of marked ones since (sent back, discarded) is written down; the scripts leave a note of it.
4. What the object store lacks is written there; what is too old is removed.

Whatever is interrupted is simply done again: each step leaves out what is done.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_core import to_json
from redis.exceptions import RedisError as RedisPyError

from daemon import codec
from daemon.archive.database import Archive
from daemon.archive.letters import ALL, ArchiveFilter, Passed
from daemon.broker import Broker, NewJob
from daemon.connecting.connections import LOST, connect, translated
from daemon.connecting.routed import Routed
from daemon.dead_letters import outlook
from daemon.dotted import database_of, object_store_of
from daemon.errors import ArchiveUnavailable, ArqdError, RedisError, Unreadable
from daemon.inspector import Inspector
from daemon.job import JobInfo, from_ms
from daemon.keys import JOB, FamilyKeys, parse_id, spoken_id
from daemon.pages import describe
from daemon.records import split_head, split_record
from daemon.servers import RedisUrl

logger = logging.getLogger("arqd.archive")

#: Dead letters of one portion.
PORTION = 200
#: Whoever has it makes this period's pass.
LEASE = "arqd:archive:pass"
_LOOK = 500


class Archiver:
    """Between the families' dead letters and the archive.

    Args:
        redis: an asynchronous redis-py client without response decoding.
        families: their names.
        put: writes an object, ``await put(name, data)``; None: there is no store.
        keep: seconds that a row is kept; None: for ever.
    """

    def __init__(
        self, redis: Any, families: Iterable[str], archive: Archive, *, put: Any = None, keep: float | None = None
    ) -> None:
        self.archive = archive
        self._redis = redis
        self._inspector = Inspector(redis, families)
        self._put, self._keep = put, keep

    async def run(self, families: Sequence[str] | None = None, *, dry_run: bool = False) -> Passed:
        """Make a pass over some families, or all.

        Args:
            dry_run: only count what would be new.

        Raises:
            InvalidJob: for an unknown family. ArchiveUnavailable, or RedisError where no server can be asked: begin
            again later.
        """
        names = sorted(self._inspector.families) if families is None else families
        passed = Passed(away=await self._away(names))
        for family in names:
            if family in passed.away:
                continue
            keys = self._inspector.of(family)
            try:
                with translated():
                    passed.archived[family] = await self._lacking(keys) if dry_run else await self._archive(keys)
                    if not dry_run:
                        await self._note(keys)
            except RedisError as error:
                if not self._several(names):
                    raise
                # Of several servers one is away: it holds up its own families only.
                passed.away[family] = error
        if not dry_run and self._put is not None:
            passed.stored = await self.archive.store(self._put)
        if not dry_run and self._keep is not None:
            before = datetime.now(UTC) - timedelta(seconds=self._keep)
            passed.removed = await self.archive.forget(before, stored=self._put is not None)
        return passed

    def _several(self, families: Sequence[str]) -> bool:
        return len(families) > 1 and isinstance(self._redis, Routed)

    async def _away(self, families: Sequence[str]) -> dict[str, RedisError]:
        """Look beforehand who cannot be asked: a server that hangs would take its whole time for each of its families.

        Raises:
            RedisError: when none of several can.
        """
        return await self._inspector.away(families) if self._several(families) else {}

    # ------------------------------------------------------------------ from Redis

    async def _lacking(self, keys: FamilyKeys) -> int:
        dead, marked = await asyncio.gather(*(self._redis.zcard(keys.key(name)) for name in ("dead", "archived")))
        return int(max(0, dead - marked))

    async def _archive(self, keys: FamilyKeys) -> int:
        """Archive what is not marked, the oldest first."""
        added = start = 0
        lacking: list[tuple[bytes, float]] = []
        # Marked ones are a part of the dead letters, so as many as those are all of them.
        while start or await self._lacking(keys):
            found = await self._redis.zrange(keys.key("dead"), start, start + _LOOK - 1, withscores=True)
            start += len(found)
            if found:
                marks = await self._redis.zmscore(keys.key("archived"), [job_id for job_id, _ in found])
                lacking += [each for each, mark in zip(found, marks, strict=True) if mark is None]
            while len(lacking) >= PORTION or (lacking and not found):
                portion, lacking = lacking[:PORTION], lacking[PORTION:]
                added += await self._write(keys, portion)
            if not found:
                break
        return added

    async def _write(self, keys: FamilyKeys, portion: Sequence[tuple[bytes, float]]) -> int:
        ids = [job_id.decode("utf-8", "surrogateescape") for job_id, _ in portion]
        infos = await describe(self._redis, keys, ids)
        records = await self._redis.mget([JOB.encode() + job_id for job_id, _ in portion])
        rows = []
        for (_, ended), info, record in zip(portion, infos, records, strict=True):
            # Sent back, or forgotten, between the two looks.
            if info is not None and info.error is not None:
                rows.append(_row(keys, info, int(ended), record))
        added = await self.archive.add(rows)
        flat = [part for job_id, ended in portion for part in (job_id, int(ended))]
        await Broker(self._redis, keys).run("archived", *flat)
        return added

    async def _note(self, keys: FamilyKeys) -> None:
        """Write down what became of archived ones, as the scripts tell it."""
        key = keys.key("unarchived")
        while lines := await self._redis.srandmember(key, PORTION):
            ended: dict[str, list[tuple[str, datetime]]] = {}
            for line in lines:
                word, ms, job_id = line.split(b" ", 2)
                letter = (_text(spoken_id(job_id.decode("utf-8", "surrogateescape"))), from_ms(int(float(ms))))
                ended.setdefault(word.decode(), []).append(letter)
            for word, letters in ended.items():
                await self.archive.note(word, letters)
            await self._redis.srem(key, *lines)

    # ------------------------------------------------------------------ back to Redis

    async def retry(self, chosen: Sequence[int] | ArchiveFilter = ALL, *, dry_run: bool = False) -> dict[str, int]:
        """Send letters back to their queues, those of which nothing has become yet; each once.

        One that is still a dead letter in Redis is sent back as `daemon.control` does it; one that Redis has forgotten
        is enqueued with its id, payload, group and options.

        Args:
            chosen: numbers of the archive (at most 500), or a filter, for which a letter that was discarded counts as
                one that is not to be sent back.
            dry_run: only tell what would become of them.

        Returns:
            How many of each outcome: ``retried``, ``retried_before``, ``not_failed`` (a job of this id lives or its
            result is kept), ``no_record``, ``not_found``, ``away`` (its family's server, one of several).

        Raises:
            InvalidJob: for a family this process does not know. InClear: the family is encrypted now, and the job was
            not. QueueFull: no room; what went before was sent back. ArchiveUnavailable, or RedisError where no server
            can be asked.
        """
        words: Counter[str] = Counter()
        after = 0
        if isinstance(chosen, ArchiveFilter):
            chosen = replace(chosen, outcome="none")
        # Beforehand what is known in Redis only: what was sent back since the last pass must not run again.
        away = await self._away(sorted(self._inspector.families))
        with translated():
            for family, keys in self._inspector.families.items():
                if family not in away:
                    await self._note(keys)
        while rows := await self.archive.rows(chosen, after=after):
            after = rows[-1]["id"]
            for row in rows:
                if row["queue"] in away:
                    words["away"] += 1
                    continue
                with translated():
                    words[await (self._outlook(row) if dry_run else self._send_back(row))] += 1
        if not isinstance(chosen, ArchiveFilter):
            words["not_found"] += len(set(chosen)) - words.total()
        return {word: count for word, count in words.items() if count}

    async def _outlook(self, row: Any) -> str:
        """Tell what `_send_back` would answer."""
        if row["outcome"] == "retried":
            return "retried_before"
        _, (job_id, *_) = parse_id(row["job_id"])
        (word,) = await outlook(self._redis, self._inspector.of(row["queue"]), [job_id], "retried")
        if word == "not_found":
            return "no_record" if row["record"] is None else "retried"
        return word

    async def _send_back(self, row: Any) -> str:
        if row["outcome"] == "retried":
            return "retried_before"
        keys = self._inspector.of(row["queue"])
        broker = Broker(self._redis, keys)
        _, (job_id, *_) = parse_id(row["job_id"])
        (word,) = await broker.redrive([job_id])
        if word == "not_found":
            if row["record"] is None:
                return "no_record"
            job = NewJob(job_id, row["level"], "now", 0, row["timeout_ms"], 0, row["record"])
            (added,) = await broker.enqueue([job])
            word = "retried" if added is True else "not_failed"
        if word == "retried":
            failed_at = row["failed_at"]
            failed_at = failed_at if failed_at.tzinfo else failed_at.replace(tzinfo=UTC)
            await self.archive.note(word, [(row["job_id"], failed_at)])
            # The script's own note of it.
            await self._redis.srem(keys.key("unarchived"), f"{word} {round(failed_at.timestamp() * 1000)} {job_id}")
        return word


async def keep_archive(settings: Any, url: RedisUrl, *, check: float = 10.0) -> None:
    """Make a pass each ``archive.every`` until it is cancelled; of several processes one makes each pass.

    A database that is away, or whose tables are missing, is waited for.

    Args:
        settings: the daemon's, with a period.
        check: seconds between looks whether it is time.
    """
    database, redis = database_of(settings), connect(url)
    archiver = make_archiver(settings, redis, Archive(database))
    every, told = settings.archive.every, ""
    try:
        while True:
            try:
                await database.check()
                if await redis.set(LEASE, "1", nx=True, px=max(1, round(every * 1000) - 500)):
                    passed = await archiver.run()
                    _tell(passed)
                    if passed.away:
                        raise next(iter(passed.away.values()))
                told = ""
            except (ArqdError, RedisPyError, *LOST) as error:
                if told != str(error):
                    told = str(error)
                    logger.warning("the archive waits: %s", told)
            except Exception:
                logger.exception("a pass of the archive failed")
            await asyncio.sleep(min(check, every))
    finally:
        await redis.aclose()
        await database.close()


def make_archiver(settings: Any, redis: Any, archive: Archive) -> Archiver:
    """Give the archiver that the settings name."""
    put = _writer(settings) if settings.archive.objects else None
    return Archiver(redis, settings.families, archive, put=put, keep=settings.archive.keep or None)


def _writer(settings: Any) -> Any:
    async def put(name: str, data: bytes) -> None:
        store = object_store_of(settings)
        try:
            await store.put(name, data, content_type="application/x-ndjson")
        except ArqdError:
            raise
        except Exception as error:
            raise ArchiveUnavailable(f"the object store cannot be used: {error}") from error
        finally:
            await store.close()

    return put


def _tell(passed: Passed) -> None:
    new = {family: count for family, count in passed.archived.items() if count}
    if new or passed.stored or passed.removed:
        logger.info("archive: %s new dead letters, %d stored, %d removed", new or "no", passed.stored, passed.removed)


def _row(keys: FamilyKeys, info: JobInfo, ended: int, raw: bytes | None) -> dict[str, Any]:
    level, timeout, record = 0, 0, None
    try:
        taken = split_record(raw or b"")
        level, timeout, record = taken.level, taken.timeout_ms, split_head(raw or b"")[1]
    except Unreadable:
        pass
    error = info.error or {}
    return {
        "queue": keys.family,
        "job_id": _text(info.id),
        "function": _text(info.function) if info.function is not None else None,
        "payload": to_json(info.payload).decode(),
        "error_type": _text(error.get("type", "")),
        "error": _text(error.get("message", "")),
        "traceback": _text(error.get("traceback", "")),
        "reason": _text(error.get("reason", "")),
        "cause": info.cause,
        "tries": info.tries,
        "crashes": info.crashes,
        "enqueued_at": info.enqueued_at,
        "failed_at": from_ms(ended),
        "archived_at": datetime.now(UTC),
        "level": level,
        "timeout_ms": timeout,
        "record": record,
        "outcome": None,
        "outcome_at": None,
        "object": None,
        "stored_at": None,
    }


def _text(value: Any) -> str:
    """Give text as PostgreSQL can keep it."""
    return codec.plain(str(value)).replace("\x00", "\N{REPLACEMENT CHARACTER}")
