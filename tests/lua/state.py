"""One family's scripts on a real server with a clock of its own, and its state read back.

`Engine` calls the scripts through the broker and checks after every call what is true of any state (`Engine.check`):
the wake-up marks, that a held job has exactly one holder, and that an ended job left no trace of its run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from daemon.broker import MAX_EVENTS, Broker, Claim, Held, NewJob, Outcome, Repeat, Tick, TickSettings
from daemon.connecting.routed import in_cluster
from daemon.errors import Unreadable
from daemon.keys import ABORT, IN_PROGRESS, JOB, RESULT, RETRY, FamilyKeys
from daemon.lua import SCRIPTS
from daemon.records import record_tail, split_record, stamp_word

NOW = 1_763_775_600_000
LEASE = 30_000
DAY = 86_400_000
READY, LEVEL, HELD, SUSPECT = -(2**52), 2**48, 2**45, 2**46
INDEXES = ("completed", "dead", "aborted", "expired")
#: Sessions, as processes would draw them.
A, B, C = "a" * 16, "b" * 16, "c" * 16
BODY = b"[]"


@dataclass(frozen=True, slots=True)
class Mine:
    """A claimed job and the call that claimed it."""

    claim: Claim
    n: int
    #: What its outcome's event tells.
    detail: str = "send\t1\t20"

    @property
    def name(self) -> str:
        return self.claim.id.decode().rpartition(":")[2]

    @property
    def stamp(self) -> str:
        try:
            return stamp_word(split_record(self.claim.record or b"").stamp)
        except Unreadable:
            return ""

    def held(self) -> Held:
        return Held(self.claim.id, self.n, self.claim.score, self.stamp)

    def _outcome(self, kind: str, a: bytes | int, b: int | str = 0, c: bytes = b"") -> Outcome:
        return Outcome(kind, self.claim.id, self.n, self.stamp, a, b, c, self.detail, self.claim.score)

    def complete(self, result: bytes = b"done", keep: int | str = 600_000) -> Outcome:
        return self._outcome("c", result, keep)

    def abort(self, result: bytes = b"stopped", keep: int = 600_000) -> Outcome:
        return self._outcome("a", result, keep)

    def expire(self, result: bytes = b"late", keep: int = 600_000) -> Outcome:
        return self._outcome("e", result, keep)

    def bury(self, result: bytes = b"broken", keep: int | str = 600_000, line: bytes = b"") -> Outcome:
        return self._outcome("b", result, keep, line)

    def retry(self, delay: int = 1000, tries: int = 1, line: bytes = b"") -> Outcome:
        return self._outcome("r", delay, tries, line)

    def release(self, delay: int = -1, note: bytes = b"") -> Outcome:
        return self._outcome("l", delay, 0, note)

    def park(self, need: str = "send") -> Outcome:
        return self._outcome("p", need.encode(), 0, b"waits for a worker")


@dataclass(slots=True)
class Seen:
    """Everything Redis knows of one job."""

    score: float | None
    record: bytes | None
    result: bytes | None
    tries: bytes | None
    token: bytes | None
    progress: bytes | None
    history: bytes | None
    crashes: int
    indexes: set[str]
    holders: dict[str, str] = field(default_factory=dict)

    @property
    def band(self) -> str | None:
        """The state its score means: ready, later (or come due), held, suspect, or None when it is not queued."""
        if self.score is None:
            return None
        if self.score < 0:
            return "ready"
        if self.score < HELD:
            return "later"
        return "held" if self.score < SUSPECT else "suspect"

    @property
    def level(self) -> int:
        assert self.score is not None
        if self.score < 0:
            return int((self.score - READY) // LEVEL)
        return round(self.score % 1 * 16)

    @property
    def deadline(self) -> int:
        assert self.record is not None
        return split_record(self.record).deadline_ms


class Engine:
    """The scripts of one family.

    Args:
        redis: an asynchronous client.
        now: where its clock stands, ms since the epoch; `advance` moves it.
    """

    def __init__(self, redis: Any, now: int = NOW, family: str = "email") -> None:
        self.redis = redis
        self.keys = FamilyKeys.of(family)
        self.broker = Broker(redis, self.keys, now)
        self.n: Counter[str] = Counter()
        self.lease = LEASE
        #: Whether every call is followed by `check`; off where a test makes a great many.
        self.checked = True

    # ------------------------------------------------------------------ clock and names

    @property
    def now(self) -> int:
        assert self.broker.now is not None
        return self.broker.now

    @property
    def aborts(self) -> str:
        """The abort set: stock arq's, in a cluster the family's own."""
        return self.keys.key("abort") if in_cluster(self.redis, self.keys.queue) else ABORT

    def advance(self, ms: int) -> None:
        assert self.broker.now is not None
        self.broker.now += ms

    async def pass_time(self, ms: int, *renewing: str) -> None:
        """Let time pass while these sessions renew their leases, as living processes do."""
        end = self.now + ms
        while self.now < end:
            self.advance(min(self.lease // 3, end - self.now))
            for session in renewing:
                assert await self.renew(session)

    def id(self, name: str) -> str:
        return self.keys.job_id(name)

    # ------------------------------------------------------------------ calls

    def job(
        self, name: str, level: int = 5, *, delay: int = 0, at: int = 0, timeout: int = 0, expires: int = 0,
        body: bytes = BODY, group: str = "",
    ) -> NewJob:  # fmt: skip
        when, ms = ("in", delay) if delay else ("at", at) if at else ("now", 0)
        return NewJob(self.id(name), level, when, ms, timeout, expires, record_tail("send", group, body))

    async def enqueue(self, *jobs: str | NewJob, resend: bool = False, waiting: str = "") -> list[bool | Repeat]:
        made = [self.job(job) if isinstance(job, str) else job for job in jobs]
        added = await self.broker.enqueue(made, resend=resend, waiting=waiting)
        # An earlier due time than any before wakes a worker although nothing can be claimed yet.
        await self.check(awake=any(not job.when.startswith("now") for job in made))
        return added

    async def sync(
        self, session: str = A, *held: Held, n: int | None = None, rate: tuple[int, int] | None = None,
        limit: int | None = None, priority: int = 5, leave: bool = False, lanes: dict[str, str] | None = None,
        max_events: int = MAX_EVENTS, statistics: bool = True, max_bytes: int | None = None,
        keep_failed: tuple[int, int | None] = (-1, None),
    ) -> list[bytes] | None:  # fmt: skip
        """Register a session; ``rate`` is starts and ms."""
        number = self._number(session, n)
        per_us = rate and (rate[0], rate[1] * 1000)
        lost = await self.broker.sync(
            session, number, self.lease, b"{}", priority, per_us, limit, held, leave=leave, lanes=lanes,
            max_events=max_events, statistics=statistics, max_bytes=max_bytes, keep_failed=keep_failed,
        )  # fmt: skip
        await self.check()
        return lost

    async def tick(
        self, session: str = A, *outcomes: Outcome, wanted: int = 0, alone: bool = False, n: int | None = None,
        timeout: int = 300_000, max_crashes: int = 3, keep_count: int = -1, keep_age: int = -1, poll: int = 0,
        statistics: dict[str, int] | None = None, slots: int | None = None,
    ) -> Tick:  # fmt: skip
        settings = TickSettings(self.lease, timeout, max_crashes, keep_count, keep_age, poll)
        reply = await self.broker.tick(
            session,
            self._number(session, n),
            wanted,
            alone,
            settings,
            outcomes,
            statistics=statistics or {},
            slots=slots,
        )
        await self.check()
        return reply

    async def claim(self, session: str = A, wanted: int = 1, **options: Any) -> list[Mine]:
        """Claim up to ``wanted`` jobs."""
        reply = await self.tick(session, wanted=wanted, **options)
        assert reply.status == "ok"
        return [Mine(claim, self.n[session]) for claim in reply.claims]

    async def begin(self, *jobs: Mine, session: str = A) -> None:
        await self.broker.run("begin", session, *(mine.claim.id for mine in jobs))
        await self.check()

    async def take(self, name: str, session: str = A, **options: Any) -> Mine:
        """Enqueue a job and claim it."""
        assert await self.enqueue(name) == [True]
        (mine,) = await self.claim(session, **options)
        assert mine.name == name
        return mine

    async def claim_asleep(self, session: str = A, *, n: int | None = None, timeout: int = 300_000) -> list[Mine]:
        """Make the call that a sleeping worker leaves behind its pop, as after a pop that took the mark."""
        await self.redis.delete(self.keys.key("mark"))
        number = self._number(session, n)
        reply = await self.broker.run("take", session, number, timeout, self.lease)
        if not reply:
            return []
        await self.check()
        now, job_id, record, score, begun = reply
        assert now == self.now
        entry = await self.redis.hget(self.keys.key("held", session), job_id)
        assert entry.endswith(b"~") is (begun == b"0")
        return [Mine(Claim(job_id, record, score), number)]

    async def settle(self, *outcomes: Outcome, session: str = A, **options: Any) -> Tick:
        reply = await self.tick(session, *outcomes, **options)
        assert reply.status == "ok"
        return reply

    async def renew(self, session: str = A, *, age: int = -1, dead_age: int = -1, info: bytes = b"{}") -> bool:
        found = await self.broker.run("renew", session, self.lease, info, age, dead_age)
        await self.check()
        return bool(found[0])

    async def rest(self, before: int | str, session: str = A, *others: FamilyKeys, info: bytes = b"") -> list[bool]:
        """Renew as a process without jobs does, whose last renewal was at ``before``; in other families, too."""
        families = (self.keys, *others)
        keys = [key for each in families for key in (each.key("workers"), each.queue, each.key("session", session))]
        values = [before, self.lease, info] * len(families)
        text = SCRIPTS["rest"].text
        now, *renewed = await self.redis.eval(text, len(keys), *keys, self.now, session, *values)
        assert now == self.now
        if all(renewed):
            await self.check()
        return [bool(done) for done in renewed]

    async def abort(self, name: str, result: bytes = b"stopped", keep: int = 600_000) -> str:
        word = await self.broker.abort(self.id(name), result, keep)
        await self.check()
        return word

    async def redrive(self, *names: str) -> list[str]:
        words = await self.broker.redrive([self.id(name) for name in names])
        await self.check()
        return words

    async def remove(self, *names: str) -> list[str]:
        words = await self.broker.remove([self.id(name) for name in names])
        await self.check()
        return words

    async def pause(self, paused: bool = True) -> None:
        """Set the switch; nothing else sets it yet."""
        conf = self.keys.key("conf")
        await (self.redis.hset(conf, "paused", 1) if paused else self.redis.hdel(conf, "paused"))

    def _number(self, session: str, n: int | None) -> int:
        if n is None:
            self.n[session] += 1
            return self.n[session]
        return n

    # ------------------------------------------------------------------ state

    async def look(self, name: str) -> Seen:
        """Read everything of one job."""
        job_id = self.id(name)
        record, result, tries, token = await self.redis.mget(*(p + job_id for p in (JOB, RESULT, RETRY, IN_PROGRESS)))
        hashes = [await self.redis.hget(self.keys.key(h), job_id) for h in ("progress", "history", "crashes")]
        indexes = {i for i in INDEXES if await self.redis.zscore(self.keys.key(i), job_id) is not None}
        score = await self.redis.zscore(self.keys.queue, job_id)
        seen = Seen(score, record, result, tries, token, hashes[0], hashes[1], int(hashes[2] or 0), indexes)
        for key in await self.redis.keys(self.keys.key("held:*")):
            entry = await self.redis.hget(key, job_id)
            if entry is not None:
                seen.holders[key.decode().rpartition(":")[2]] = entry.decode()
        return seen

    async def order(self) -> list[str]:
        """The queue by score."""
        return [job_id.decode().rpartition(":")[2] for job_id in await self.redis.zrange(self.keys.queue, 0, -1)]

    async def traces(self) -> set[str]:
        """Every key, without those that belong to the family as a whole while a worker lives."""
        lasting = {self.keys.key(name) for name in ("clock", "conf", "totals", "workers", "events")}
        found = {key.decode() for key in await self.redis.keys("*")}
        return {
            key for key in found - lasting if not key.startswith((self.keys.key("session:"), self.keys.key("stats:")))
        }

    async def total(self, name: str) -> int:
        return int(await self.redis.hget(self.keys.key("totals"), name) or 0)

    async def marked(self) -> bool:
        return bool(await self.redis.exists(self.keys.key("mark")))

    def _claimable(self, conf: dict[bytes, bytes], starts: bytes, held: int, due: int) -> bool:
        """Whether a job could be claimed now, worked out without the scripts."""
        if int(conf.get(b"until", 0)) > self.now:
            return False
        if b"paused" in conf or (b"global" in conf and held >= int(conf[b"global"])):
            return False
        if b"rate" in conf:
            now_us = self.now * 1000
            counted = [(int(us), int(count)) for us, count in re.findall(rb"(\d+):(\d+)", starts)]
            if sum(n for us, n in counted if now_us - int(conf[b"per"]) < us <= now_us) >= int(conf[b"rate"]):
                return False
        return due > 0

    async def check(self, *, awake: bool = False) -> None:
        """Check what holds after every script; ``awake``: the mark may also be there for an earlier due time."""
        if not self.checked:
            return
        key, queue = self.keys.key, self.keys.queue
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.exists(key("mark")).exists(key("suspects"))
            pipe.hgetall(key("conf")).hget(key("clock"), "starts")
            pipe.zcount(queue, "-inf", f"({self.now + 1}").zcount(queue, SUSPECT, f"({SUSPECT + HELD}")
            pipe.zrangebyscore(queue, HELD, f"({SUSPECT}").keys(key("held:*"))
            for index in INDEXES:
                pipe.zrange(key(index), -8, -1)
            marked, suspects_marked, conf, starts, due, suspects, held, holding, *ended = await pipe.execute()
        claimable = self._claimable(conf, starts or b"", len(held), due)
        assert marked or not claimable, "a job can be claimed, but nobody is woken for it"
        assert claimable or not marked or awake, "the mark is there, but nothing can be claimed"
        assert bool(suspects) == bool(suspects_marked)
        holders: Counter[bytes] = Counter()
        for name in holding:
            holders.update(await self.redis.hkeys(name))
        assert Counter(held) == holders, "a held job has exactly one holder"
        for index, ids in zip(INDEXES, ended, strict=True):
            await self._check_ended(index, ids)

    async def _check_ended(self, index: str, ids: Sequence[bytes]) -> None:
        """Check that nothing of these jobs' runs is left."""
        async with self.redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.zscore(self.keys.queue, job_id)
                pipe.exists(JOB.encode() + job_id).exists(IN_PROGRESS.encode() + job_id)
                for name in ("progress", "crashes", "waiters"):
                    pipe.hexists(self.keys.key(name), job_id)
                pipe.hexists(self.keys.key("dedup"), b"j:" + job_id)
                pipe.hexists(self.keys.key("receipts"), job_id)
            found = await pipe.execute() if ids else []
        for job_id, start in zip(ids, range(0, len(found), 8), strict=True):
            score, kept, *traces, receipts = found[start : start + 8]
            if score is None:  # else its id was used again
                assert bool(kept) == (index == "dead"), f"the payload of {job_id!r} in {index}"
                assert not any(traces), f"traces of the run of {job_id!r}"
                assert index == "dead" or not receipts, f"receipts of {job_id!r} in {index}"
