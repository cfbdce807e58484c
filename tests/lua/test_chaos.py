"""Everything at once: groups, limits, holds, delays, dedup keys, flows, retries, crashes, operators, lost replies.

Operations come at random, by seed. After each, what the scripts keep beside the queue is compared with what it stands
for, worked out anew from the jobs. At the end all limits go and everything must end: nothing may be stuck, nobody may
wait for a result in vain, and nothing may be left behind.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from arq.connections import ArqRedis

from daemon import codec
from daemon.broker import Claim, NewJob, Outcome
from daemon.connecting.connections import connect
from daemon.errors import QueueFull
from daemon.flows.broker import FlowBroker, FlowJob, OutboxEntry
from daemon.flows.courier import ends_of
from daemon.keys import JOB
from daemon.records import record_tail
from tests.lua.flow_state import failure, result
from tests.lua.state import DAY, INDEXES, LEASE, SUSPECT, Engine, Mine

BLOCKED, LANE, PARKED = 2**46 + 2**45, 2**47, 2**47 + 2**46
GROUPS, FUNCTIONS, KEYS, PRODUCERS = ["", "", "x", "y", "z"], ["send", "send", "mail"], ["k1", "k2"], ["p1", "p2"]
RULES = ["fail", "continue", "ignore", "success", "death"]


class Watched(Engine):
    """An engine that bears a mark too many: until the next tick it may stand for a due time, a lane or a resumption."""

    async def check(self, *, awake: bool = False) -> None:
        await super().check(awake=True)

    def _claimable(self, conf: dict[bytes, bytes], starts: bytes, held: int, due: int) -> bool:
        own = {name.removeprefix(b"own:"): value for name, value in conf.items() if name.startswith(b"own:")}
        return super()._claimable({**conf, **own}, starts, held, due)


class Worker:
    """A process: what it believes to run, and how it would sleep."""

    def __init__(self, session: str, known: list[str]) -> None:
        self.session, self.known = session, known
        self.runs: dict[str, Mine] = {}
        self.info = codec.encode({"functions": known})


class Chaos:
    """Everybody who writes a family's jobs."""

    def __init__(self, redis: Any, seed: int) -> None:
        self.redis, self.random = redis, random.Random(seed)
        self.engine = Watched(redis, family="a")
        self.flows = FlowBroker(redis, self.engine.keys, self.engine.now)
        self.workers: list[Worker] = []
        self.number = 0
        #: Who waits for which results, and has not been told.
        self.waiting: Counter[tuple[str, bytes]] = Counter()
        self.limits: dict[str, str] = {}
        self.max_bytes: int | None = None
        self.log: list[str] = []

    # ------------------------------------------------------------------ names

    def key(self, *parts: str) -> str:
        return self.engine.keys.key(*parts)

    def job(self, **options: Any) -> NewJob:
        self.number += 1
        pick = self.random.choice
        job = self.engine.job(f"j{self.number}", pick([0, 1, 3, 5, 10]), **options)
        return job._replace(tail=record_tail(pick(FUNCTIONS), pick(GROUPS), b"[]"))

    def some_id(self) -> str:
        """A name of a job, mostly one that there is."""
        return f"j{self.random.randint(1, max(self.number, 1))}"

    def worker(self) -> Worker:
        return self.random.choice(self.workers)

    # ------------------------------------------------------------------ producers

    async def enqueue(self) -> None:
        pick = self.random.choice
        delay = pick([0, 0, 0, 500, 20_000])
        jobs = [self.job(delay=delay) for _ in range(pick([1, 1, 2, 7]))]
        if self.random.random() < 0.3:
            mode, window = pick(["drop", "replace", "debounce"]), pick([0, 0, 15_000])
            jobs = [job._replace(when=f"in {mode} {window} {pick(KEYS)}", ms=pick([1, 400, 9000])) for job in jobs]
        if self.random.random() < 0.2 and self.number > 5:
            jobs[0] = jobs[0]._replace(id=self.engine.id(self.some_id()))
        waiting = pick(PRODUCERS) if len(jobs) == 1 and self.random.random() < 0.4 else ""
        try:
            added = await self.engine.enqueue(*jobs, waiting=waiting)
            if self.random.random() < 0.3:
                again = await self.engine.enqueue(*jobs, resend=True, waiting=waiting)
                assert [a is True for a in again] >= [a is True for a in added] or len(jobs) > 1
        except QueueFull:
            return
        if waiting and added[0] is True:
            self.waiting[waiting, jobs[0].id.encode()] = 1

    async def wait_for(self) -> None:
        job_id, who = self.engine.id(self.some_id()), self.random.choice(PRODUCERS)
        code, _ = await self.engine.broker.await_result(who, job_id)
        if code == 0:
            self.waiting[who, job_id.encode()] = 1

    async def flow(self) -> None:
        token = f"{self.random.getrandbits(64):016x}"
        rule = self.random.choice(RULES)
        children = [self.job(delay=self.random.choice([0, 0, 800])) for _ in range(self.random.randint(1, 3))]
        root = FlowJob(self.job(), "", [child.id for child in children])
        try:
            committed = await self.flows.commit(token, "a", root, 0, [])
        except QueueFull:
            return
        assert isinstance(committed, bytes)
        made = [
            FlowJob(child, f"{root.job.id}\t{rule}\t{index}\t{token}") for index, child in enumerate(children)
        ]  # fmt: skip
        if self.random.random() < 0.3:
            # A child that is there, or not any more.
            there = self.engine.id(self.some_id())
            if there not in {child.id for child in children} and there != root.job.id:
                made[0] = made[0]._replace(job=made[0].job._replace(id=there, tail=b""))
                await self.redis.srem(self.key("pending", root.job.id), children[0].id)
                await self.redis.sadd(self.key("pending", root.job.id), there)
        for _ in range(self.random.choice([1, 1, 2])):
            await self.flows.make(token, self.engine.now, made)
        await self.flows.acknowledge([committed])
        await self.flows.seal(token)

    async def deliver(self) -> None:
        """What ended is told to the parents, perhaps twice."""
        for _ in range(self.random.choice([1, 1, 2])):
            entries = []
            for entry, fields in await self.redis.xrange(self.key("outbox")):
                flat = [part for pair in fields.items() for part in pair]
                entries.append(entry)
                ends = ends_of(OutboxEntry(entry, flat))
                if ends:
                    await self.flows.end(ends)
            if entries and self.random.random() < 0.8:
                await self.flows.acknowledge(entries)

    # ------------------------------------------------------------------ workers

    async def start_worker(self) -> None:
        if len(self.workers) < 4:
            known = self.random.choice([["send", "mail"], ["send", "mail"], ["send"]])
            worker = Worker(f"{self.random.getrandbits(64):016x}", known)
            self.workers.append(worker)
            await self.register(worker)

    async def register(self, worker: Worker, *, leave: bool = False) -> None:
        engine = self.engine
        lanes = dict(self.limits)
        number = engine._number(worker.session, None)
        held = [mine.held() for mine in worker.runs.values()]
        lost = await engine.broker.sync(
            worker.session, number, LEASE, worker.info, 5, None, None, held, lanes=lanes, leave=leave,
            max_bytes=self.max_bytes, keep_failed=(10 * DAY, None),
        )  # fmt: skip
        await engine.check()
        for job_id in lost or ():
            worker.runs.pop(job_id.decode().rpartition(":")[2], None)

    async def reconnect(self) -> None:
        worker = self.worker()
        while worker.runs and self.random.random() < 0.5:
            worker.runs.popitem()
        await self.register(worker)

    async def leave(self) -> None:
        if len(self.workers) > 1:
            worker = self.worker()
            worker.runs.clear()
            await self.register(worker, leave=True)
            self.workers.remove(worker)

    async def die(self) -> None:
        """A worker is gone; the others live on until its lease has ended."""
        if len(self.workers) > 1:
            self.workers.remove(self.worker())
            for _ in range(4):
                self.advance(LEASE // 3 + 1)
                for other in list(self.workers):
                    await self.renew(other)

    async def renew(self, worker: Worker | None = None) -> None:
        worker = worker or self.worker()
        age = self.random.choice([-1, 60_000])
        if not await self.engine.renew(worker.session, age=age, dead_age=10 * DAY, info=worker.info):
            await self.register(worker)

    def outcome(self, mine: Mine) -> Outcome:
        pick = self.random.choice
        done, broken = result(), failure()
        keeps: list[int | str] = [600_000, 0, "5000 -1", "-1 2", "60000 1"]
        keeps_dead: list[int | str] = [600_000, "7000 -1", "-1 1"]
        return {
            "c": lambda: mine.complete(done, pick(keeps)),
            "r": lambda: mine.retry(pick([0, 300, 5000]), 1, b'{"at":1}'),
            "b": lambda: mine.bury(broken, pick(keeps_dead), b'{"at":1}\nabc\nsend\n{}'),
            "l": lambda: mine.release(pick([-1, -1, 700])),
            "p": lambda: mine.park(self.function_of(mine)),
            "a": lambda: mine.abort(failure("stopped")),
            "e": lambda: mine.expire(failure("late")),
            "w": lambda: mine._outcome("w", pick([100, 4000]), pick(["queue", "group", "function", "group"])),
        }[pick("ccccccrrrbblpaew")]()

    async def tick(self, worker: Worker | None = None, wanted: int | None = None, final: bool = False) -> Any:
        worker = worker or self.worker()
        runs = worker.runs
        names = list(runs) if final else [name for name in runs if self.random.random() < 0.5]
        outcomes = []
        for name in names:
            mine = runs.pop(name)
            outcomes.append(mine.complete(result()) if final else self.outcome(mine))
        wanted = self.random.choice([-1, 0, 1, 2, 5, 128]) if wanted is None else wanted
        alone = not runs and (final or self.random.random() < 0.5)
        slots = self.random.choice([None, 0, 1]) if wanted > 0 and not final else None
        engine, number = self.engine, self.engine._number(worker.session, None)
        reply = await engine.tick(
            worker.session, *outcomes, wanted=wanted, alone=alone, n=number, slots=slots, keep_count=20, keep_age=DAY
        )
        if reply.status == "sync":
            await self.register(worker)
            return reply
        assert reply.status == "ok"
        if self.random.random() < 0.1:
            # The same call arrives once more.
            assert (await engine.tick(worker.session, *outcomes, wanted=5, n=number)).status == "stale"
        if reply.claims and self.random.random() < 0.05 and not final:
            # Its reply is lost.
            await self.register(worker)
            return reply
        for claim in reply.claims:
            mine = Mine(claim, number)
            runs[mine.name] = mine
            too_often, unknown = int(claim.crashes) >= 3, self.function_of(mine) not in worker.known
            if claim.aborted == b"1" or claim.child or too_often or unknown:
                await self.judge(worker, mine)
        if slots is not None and reply.claims:
            some = [Mine(claim, number) for claim in reply.claims if self.random.random() < 0.7]
            if some:
                await engine.begin(*some, session=worker.session)
        return reply

    async def judge(self, worker: Worker, mine: Mine) -> None:
        """What a worker does with a job that cannot or must not run."""
        claim = mine.claim
        if claim.aborted == b"1":
            outcome = mine.abort(failure("stopped"))
        elif claim.child or int(claim.crashes) >= 3:
            outcome = mine.bury(failure("child"), 600_000, b'{"at":1}\nabc\nsend\n{}')
        else:
            outcome = mine.park(self.function_of(mine))
        worker.runs.pop(mine.name)
        reply = await self.engine.tick(worker.session, outcome)
        assert reply.status == "ok"
        assert not reply.refused

    @staticmethod
    def function_of(mine: Mine) -> str:
        found = re.match(rb"q\S+ ([^\t\n]*)", mine.claim.record or b"")
        return found[1].decode() if found else "send"

    async def asleep(self) -> None:
        worker = self.worker()
        if worker.runs:
            return
        await self.redis.zpopmin(self.key("mark"))
        number = self.engine._number(worker.session, None)
        reply = await self.engine.broker.run("take", worker.session, number, 300_000, LEASE)
        if reply:
            await self.engine.check()
            mine = Mine(Claim(*reply[1:4]), number)
            worker.runs[mine.name] = mine
            if self.function_of(mine) not in worker.known:
                await self.judge(worker, mine)
        else:
            await self.tick(worker, wanted=1)

    # ------------------------------------------------------------------ operators

    async def operate(self) -> None:
        engine, pick = self.engine, self.random.choice
        ids = [engine.id(self.some_id()) for _ in range(pick([1, 3]))]
        what = pick(["abort", "remove", "redrive", "discard", "promote", "reprioritize", "redrive"])
        if what == "abort":
            who = pick(["", *PRODUCERS])
            word = await engine.broker.abort(ids[0], failure("stopped"), pick([600_000, 0]), who)
            if word == "asked" and who:
                self.waiting[who, ids[0].encode()] = 1
        elif what == "reprioritize":
            await engine.broker.reprioritize(ids, pick([1, 5, 10]))
        else:
            await getattr(engine.broker, what)(list(dict.fromkeys(ids)))
        await engine.check()

    async def control(self) -> None:
        engine, pick = self.engine, self.random.choice
        what = pick(["pause", "limits", "limits", "drain", "clean", "bytes"])
        if what == "pause":
            await engine.broker.pause(pick([True, False, False]))
        elif what == "limits":
            lane = pick(["g:*", "g:x", "f:send", "f:*"])
            value = pick(["1||", "2||", "|1|1000000", "1|3|2000000", "-", "-"])
            await engine.broker.set_limits([("limits", lane, value)])
            if self.random.random() < 0.2:
                await engine.broker.set_limits([("conf", "own:global", pick(["1", "3", "-"]))])
            if self.random.random() < 0.2:
                await engine.broker.set_limits([("conf", "own:rate", "2"), ("conf", "own:per", "1000000")])
            if self.random.random() < 0.4:
                await engine.broker.set_limits([("conf", "own:rate", "-"), ("conf", "own:per", "-")])
        elif what == "drain" and self.random.random() < 0.3:
            await engine.broker.drain(pick([1, 3, 500]))
        elif what == "clean":
            index = pick(INDEXES)
            await engine.broker.clean(index, pick([1, 100]), engine.now, pick([True, False]))
        await engine.check()

    def advance(self, ms: int) -> None:
        self.engine.advance(ms)
        self.flows.now = self.engine.now

    async def wait(self) -> None:
        self.advance(self.random.choice([0, 1, 30, 400, 3000, 9000]))
        for worker in list(self.workers):
            await self.renew(worker)

    # ------------------------------------------------------------------ the truth

    async def hear(self) -> None:
        """Take the results that were told to who waits."""
        for who in PRODUCERS:
            while (found := await self.redis.lpop(self.key("reply", who))) is not None:
                job_id, _, _ = found.partition(b"\n")
                assert self.waiting.pop((who, job_id), 0), f"{who} was told of {job_id!r} unasked, or twice"

    async def check(self) -> None:
        key, redis = self.key, self.redis
        queue = dict(await redis.zrange(self.engine.keys.queue, 0, -1, withscores=True))
        there = set(await redis.keys(JOB + "*"))
        held: dict[bytes, bytes] = {}
        for name in await redis.keys(key("held:*")):
            held |= await redis.hgetall(name)
        # lanes
        running = Counter(lane for entry in held.values() for lane in entry.split(b"\t")[1:])
        active = {lane: int(count) for lane, count in (await redis.hgetall(key("active"))).items()}
        assert active == running, f"lanes: {active} counted, {running} held"
        waits: dict[bytes, set[bytes]] = {}
        lanes = dict(await redis.zrange(key("lanes"), 0, -1, withscores=True))
        for name in await redis.keys(key("lane:*")):
            lane = name.decode().removeprefix(key("lane", "")).encode()
            assert lane in lanes, f"{lane!r} is not looked at"
            waits[lane] = set(await redis.zrange(name, 0, -1))
        parked: set[bytes] = set()
        needs = set(await redis.zrange(key("parked"), 0, -1))
        for name in await redis.keys(key("parked:*")):
            assert name.decode().removeprefix(key("parked", "")).encode() in needs
            parked |= set(await redis.zrange(name, 0, -1))
        crashes = await redis.hgetall(key("crashes"))
        flows, parents = await redis.hgetall(key("flows")), await redis.hgetall(key("parents"))
        indexes = {index: dict(await redis.zrange(key(index), 0, -1, withscores=True)) for index in INDEXES}
        for job_id, score in queue.items():
            assert JOB.encode() + job_id in there, f"the payload of {job_id!r}"
            if score >= PARKED:
                assert job_id in parked, f"{job_id!r} is parked for nothing"
            elif score >= LANE:
                assert any(job_id in jobs for jobs in waits.values()), f"{job_id!r} waits in no lane"
            elif score >= BLOCKED:
                assert flows.get(job_id, b"").startswith(b"w "), f"{job_id!r} waits for nobody"
            elif score >= SUSPECT:
                assert int(crashes[job_id]) >= 2
        assert set(crashes) <= set(queue), "crashes of jobs that are gone"
        for job_id in parents:
            assert job_id in queue or job_id in indexes["dead"], f"{job_id!r} has ended, and its parents"
        for job_id, state in flows.items():
            assert job_id in queue or any(job_id in ended for ended in indexes.values()), f"flow of {job_id!r}"
            if job_id in queue and state.startswith(b"w "):
                assert queue[job_id] >= BLOCKED, f"{job_id!r} runs while it waits"
        # dedup
        dedup = await redis.hgetall(key("dedup"))
        for field, value in dedup.items():
            if field.startswith(b"j:"):
                assert field[2:] in queue, f"a dedup key of {field!r}"
            else:
                till, _, job_id = value.partition(b" ")
                if till == b"0":
                    assert job_id in queue, f"{field!r} is of a job that has ended"
                    assert dedup[b"j:" + job_id] == field[2:]
        # dead letters
        caused = set(await redis.hkeys(key("caused")))
        assert caused <= set(indexes["dead"])
        for kind in ("completed", "dead"):
            for name in ("kept", "counted"):
                assert set(await redis.zrange(key(name, kind), 0, -1)) <= set(indexes[kind]), f"{name}:{kind}"
        for job_id in indexes["dead"]:
            assert job_id not in queue
            assert JOB.encode() + job_id in there
        # who waits is known, and those who were not told do
        await self.hear()
        waiters = await redis.hgetall(key("waiters"))
        registered = {(who, job_id) for job_id, sessions in waiters.items() for who in sessions.decode().split()}
        assert registered == set(self.waiting), "who waits"
        assert set(waiters) <= set(queue)

    OPERATIONS = (
        *(enqueue,) * 5, *(tick,) * 8, *(operate,) * 3, wait_for, flow, *(deliver,) * 2, control, reconnect,
        *(wait,) * 3, asleep, start_worker, leave, die, renew,
    )  # fmt: skip

    async def run(self, steps: int) -> None:
        await self.start_worker()
        for step in range(steps):
            operation = self.random.choice(self.OPERATIONS)
            if not self.workers:
                operation = Chaos.start_worker
            self.log.append(operation.__name__)
            try:
                await operation(self)
                await self.check()
            except Exception as error:
                raise AssertionError(f"step {step}: {' '.join(self.log[-3:])}: {error!r}") from error

    async def finish(self) -> None:
        """Without limits and accidents everything ends."""
        engine = self.engine
        await engine.broker.pause(False)
        await engine.broker.set_limits(
            [("limits", lane, "-") for lane in ("g:*", "g:x", "f:send", "f:*")]
            + [("conf", field, "-") for field in ("own:global", "own:rate", "own:per")]
        )
        worker = Worker("f" * 16, ["send", "mail"])
        await self.register(worker)
        self.workers = [worker]
        for _ in range(400):
            if not await self.redis.zcard(engine.keys.queue):
                break
            await self.tick(worker, wanted=20, final=True)
            await self.deliver()
            self.advance(self.random.choice([1, 500, 9000]))
            await self.renew(worker)
        left = await self.redis.zrange(engine.keys.queue, 0, -1, withscores=True)
        assert not left, f"stuck: {left}"
        await self.hear()
        assert not self.waiting, f"nobody told of {self.waiting}"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    client = connect(redis_url, redis_class=ArqRedis)
    yield client
    await client.aclose()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [int(n) for n in os.environ.get("CHAOS", "0 1 2").split()])
async def test_whatever_happens_nothing_sticks_and_nothing_is_left(redis: Any, seed: int) -> None:
    """``CHAOS="4 5 6"`` tries these seeds."""
    await redis.flushall()
    chaos = Chaos(redis, seed)
    await chaos.run(120)
    await chaos.finish()
    await chaos.check()
