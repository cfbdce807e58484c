"""The scripts under random interleavings, beside a model that is too simple to be wrong.

A job is in exactly one state, no two sessions hold it under live leases, counts are those of the sets, and jobs are
claimed by priority, first come first served: after each step the server's state is the model's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from arq.connections import ArqRedis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from daemon.broker import Outcome
from daemon.connecting.connections import connect
from tests.lua.state import HELD, INDEXES, LEASE, SUSPECT, A, B, C, Engine, Mine

T = TypeVar("T")
SESSIONS = (A, B, C)
MAX_CRASHES = 3
GONE = {*INDEXES, "removed"}
ENDED = {"c": "completed", "b": "dead", "a": "aborted"}


@dataclass
class Place:
    """Where a job stands in the queue: ready (level, then number of its tag), or a suspect since a time."""

    level: int
    number: int
    suspect: int = 0


@dataclass
class Job:
    """A job as the model sees it.

    ``state`` is ready, later, suspect, held or the index it ended in; a held one has a holder and the call that
    claimed it, and goes back to its place when it is let go. One that was claimed ahead has not begun.
    """

    name: str
    level: int
    state: str
    place: Place
    due: int = 0
    crashes: int = 0
    holder: str = ""
    call: int = 0
    begun: bool = True


@dataclass
class Process:
    """A worker's own view: what it believes it runs, and the end of its lease; 0 when Redis does not know it.

    ``renewed`` is when it last renewed that.
    ``number`` is its latest tick's or registration's.
    """

    lease_end: int = 0
    renewed: int = 0
    runs: dict[str, Mine] = field(default_factory=dict)
    number: int = 0


class Watched(Engine):
    """An engine that bears a mark too many: until the next tick it may stand for a due time or a resumption."""

    async def check(self, *, awake: bool = False) -> None:
        await super().check(awake=True)


class States(RuleBasedStateMachine):
    """Producers, three workers and an operator, in any order."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis = connect(url, redis_class=ArqRedis)
        self.engine = Watched(self.redis)
        self.run(self.redis.flushall())
        self.jobs: dict[str, Job] = {}
        self.processes = {session: Process() for session in SESSIONS}
        self.numbers = 0
        self.paused = False
        #: Whether a process has crashed, a job failed or one that runs was to be aborted.
        self.unusual = False
        for session in SESSIONS:
            self.sync(session)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def teardown(self) -> None:
        self.run(self.redis.aclose())
        self.runner.close()

    # ------------------------------------------------------------------ the model

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    def in_state(self, state: str) -> list[Job]:
        """The jobs of a state in the order in which they are taken."""
        found = [job for job in self.jobs.values() if job.state == state]
        if state == "ready":
            return sorted(found, key=lambda job: (job.place.level, job.place.number))
        if state == "suspect":
            return sorted(found, key=lambda job: (job.place.suspect, job.name))
        return sorted(found, key=lambda job: (job.due + job.level / 16, job.name))

    def let_go(self, job: Job) -> None:
        job.holder = ""
        job.state = "suspect" if job.place.suspect else "ready"

    def crashed(self, job: Job) -> None:
        if not job.begun:
            self.let_go(job)
            return
        self.unusual = True
        job.crashes += 1
        if 1 < job.crashes < MAX_CRASHES:
            job.place = Place(job.level, 0, self.engine.now)
        elif job.place.suspect:
            job.place = Place(job.level, self.next_number())
        self.let_go(job)

    def settled(self, outcome: Outcome, session: str) -> bool:
        """Apply an outcome; whether it counts."""
        job = self.jobs.get(outcome.id.decode().rpartition(":")[2])
        if job is None or job.state in GONE:
            return False
        held = job.state == "held" and (job.holder, job.call) == (session, outcome.claim)
        # The work is done, and nobody else is at it.
        if not held and (outcome.kind != "c" or job.state == "held"):
            return False
        if outcome.kind in ENDED:
            job.state, job.holder = ENDED[outcome.kind], ""
        elif outcome.kind == "r":
            job.state, job.holder, job.due = "later", "", self.engine.now + int(outcome.a)
            # Its process has lived to tell.
            job.crashes = 0
            self.unusual = True
            job.place = Place(job.level, 0)
        else:
            self.let_go(job)
        return True

    # ------------------------------------------------------------------ what workers do

    def sync(self, session: str) -> None:
        """It registers again, with what it believes it runs."""
        process = self.processes[session]
        lost = self.run(self.engine.sync(session, *(mine.held() for mine in process.runs.values())))
        process.number = self.engine.n[session]
        assert lost is not None
        forgotten = process.lease_end == 0
        expected = set()
        for name, mine in process.runs.items():
            job = self.jobs.get(name)
            if job is None or job.state in GONE:
                expected.add(name)
            elif job.state == "held":
                if (job.holder, job.call) != (session, mine.n):
                    expected.add(name)
            else:
                job.state, job.holder, job.call = "held", session, mine.n
                score = float(mine.claim.score)
                if score >= 0:
                    job.place = Place(job.level, 0, int(score) - SUSPECT)
                else:
                    job.place = self.places[name, session, mine.n]
                if forgotten and job.crashes > 0:
                    job.crashes -= 1
        assert {job_id.decode().rpartition(":")[2] for job_id in lost} == expected
        for name in expected:
            del process.runs[name]
        for name in process.runs:
            self.jobs[name].begun = True
        for job in self.jobs.values():
            if job.holder == session and job.name not in process.runs:
                self.let_go(job)
        process.lease_end = self.engine.now + LEASE

    @property
    def places(self) -> dict[tuple[str, str, int], Place]:
        """Places that claims were made from."""
        if not hasattr(self, "_places"):
            self._places: dict[tuple[str, str, int], Place] = {}
        return self._places

    def tick(
        self, session: str, *outcomes: Outcome, wanted: int = 0, alone: bool = False, slots: int | None = None
    ) -> None:
        """One call: settle, reap, promote, claim."""
        process = self.processes[session]
        before = {each: other.lease_end for each, other in self.processes.items()}
        reply = self.run(self.engine.tick(session, *outcomes, wanted=wanted, alone=alone, slots=slots))
        process.number = self.engine.n[session]
        if reply.status == "sync":
            assert process.lease_end == 0, "a session with a lease is known"
            self.sync(session)
            return
        assert reply.status == "ok"
        refused = [outcome.id for outcome in outcomes if not self.settled(outcome, session)]
        assert list(reply.refused) == refused
        if reply.wait < 0:
            assert wanted < 0, "a call that may claim looks for work"
            return
        self.reaped(before)
        due = [job for job in self.in_state("later") if job.due <= self.engine.now]
        for job in due[: max(2 * wanted, 16)]:
            job.state, job.place = "ready", Place(job.level, self.next_number())
        suspects = self.in_state("suspect")
        expected = suspects[:1] if alone and suspects else self.in_state("ready")[: max(wanted, 0)]
        if self.paused or wanted <= 0:
            expected = []
        claims = [Mine(claim, self.engine.n[session]) for claim in reply.claims]
        assert [mine.name for mine in claims] == [job.name for job in expected], "priorities in order"
        for number, (job, mine) in enumerate(zip(expected, claims, strict=True)):
            assert int(mine.claim.crashes) == job.crashes
            job.state, job.holder, job.call = "held", session, mine.n
            job.begun = slots is None or number < slots
            self.places[job.name, session, mine.n] = job.place
            process.runs[job.name] = mine

    def reaped(self, before: dict[str, int]) -> None:
        """Who lost its session in this call: one at most, and none whose lease had not ended."""
        left = {name.decode() for name in self.run(self.redis.zrange(self.engine.keys.key("workers"), 0, -1))}
        gone = [session for session, end in before.items() if end and session not in left]
        assert len(gone) <= 1
        for session in gone:
            assert before[session] < self.engine.now, "its lease had ended"
            self.processes[session].lease_end = 0
            # New places are given only to jobs of a third crash, which ran alone.
            for job in self.jobs.values():
                if job.holder == session:
                    self.crashed(job)

    # ------------------------------------------------------------------ rules

    @rule(level=st.sampled_from([1, 5, 5, 10]), delay=st.sampled_from([0, 0, 0, 500, 20_000]), count=st.integers(1, 4))
    def enqueue(self, level: int, delay: int, count: int) -> None:
        names = [f"j{len(self.jobs) + n:03}" for n in range(count)]
        self.run(self.engine.enqueue(*(self.engine.job(name, level, delay=delay) for name in names)))
        for name in names:
            number = 0 if delay else self.next_number()
            state = "later" if delay else "ready"
            self.jobs[name] = Job(name, level, state, Place(level, number), self.engine.now + delay)

    @rule(session=st.sampled_from(SESSIONS), wanted=st.integers(1, 4), slots=st.sampled_from([None, None, 0, 1, 2]))
    def claim(self, session: str, wanted: int, slots: int | None) -> None:
        self.tick(session, wanted=wanted, alone=not self.processes[session].runs, slots=slots)

    @rule(session=st.sampled_from(SESSIONS))
    def claim_asleep(self, session: str) -> None:
        """The call that a sleeping worker left takes a job that is alone, where nothing unusual has happened."""
        process, ready = self.processes[session], self.in_state("ready")
        came_due = any(job.due <= self.engine.now for job in self.in_state("later"))
        possible = len(ready) == 1 and not came_due and not self.paused and process.lease_end > 0
        claims = self.run(self.engine.claim_asleep(session))
        assert possible or not claims
        assert claims or not possible or self.unusual
        if not claims:
            # The pop before it took the mark: whoever wakes up without a job makes a tick.
            self.tick(session)
        for mine in claims:
            (job,) = ready
            assert mine.name == job.name
            job.state, job.holder, job.call = "held", session, mine.n
            job.begun = process.lease_end - self.engine.now > 0.6 * LEASE
            self.places[job.name, session, mine.n] = job.place
            process.runs[job.name] = mine

    @rule(session=st.sampled_from(SESSIONS), which=st.integers(0, 9))
    def begin(self, session: str, which: int) -> None:
        """It begins a job that it believes to hold; others may hold it by now."""
        runs = self.processes[session].runs
        if runs:
            mine = runs[list(runs)[which % len(runs)]]
            self.run(self.engine.begin(mine, session=session))
            job = self.jobs[mine.name]
            job.begun = job.begun or job.holder == session

    @rule(
        session=st.sampled_from(SESSIONS), kind=st.sampled_from("ccrrbla"), which=st.integers(0, 9),
        wanted=st.integers(-1, 2),
    )  # fmt: skip
    def settle(self, session: str, kind: str, which: int, wanted: int) -> None:
        """Of a job it believes it runs; its claim may be stale by now."""
        runs = self.processes[session].runs
        if runs and self.processes[session].lease_end:
            mine = runs.pop(list(runs)[which % len(runs)])
            outcome = {
                "c": mine.complete, "r": mine.retry, "b": mine.bury, "l": mine.release, "a": mine.abort,
            }[kind]()  # fmt: skip
            self.tick(session, outcome, wanted=wanted)

    @rule(session=st.sampled_from(SESSIONS))
    def stale_call(self, session: str) -> None:
        """An older call arrives once more: nothing happens."""
        process = self.processes[session]
        if process.lease_end and process.number:
            outcomes = [mine.complete() for mine in process.runs.values()]
            assert self.run(self.engine.tick(session, *outcomes, wanted=4, n=process.number)).status == "stale"

    @rule(session=st.sampled_from(SESSIONS))
    def renew(self, session: str) -> None:
        process = self.processes[session]
        assert self.run(self.engine.renew(session)) is (process.lease_end > 0)
        process.renewed = self.engine.now if process.lease_end else 0
        if process.lease_end:
            process.lease_end = self.engine.now + LEASE

    @rule(session=st.sampled_from(SESSIONS))
    def rest(self, session: str) -> None:
        """It renews as one does that knows of no jobs; where there are some, or it is late, wholly."""
        process, now = self.processes[session], self.engine.now
        late = now - process.renewed > LEASE // 2
        jobs = any(job.state not in GONE for job in self.jobs.values())
        renews = not late and not jobs and process.lease_end not in (0, now + LEASE)
        assert self.run(self.engine.rest(process.renewed, session)) == [renews]
        if renews:
            process.lease_end, process.renewed = now + LEASE, now
        else:
            self.renew(session)

    @rule(session=st.sampled_from(SESSIONS), remembers=st.booleans())
    def reconnect(self, session: str, remembers: bool) -> None:
        """It comes back after a lost connection, perhaps without what the lost reply brought."""
        runs = self.processes[session].runs
        if runs and not remembers:
            runs.popitem()
        self.sync(session)

    @rule(ms=st.sampled_from([1, 700, 9_000, 16_000, 31_000]))
    def wait(self, ms: int) -> None:
        self.engine.advance(ms)

    @rule(ms=st.sampled_from([2_000, 10_000]), session=st.sampled_from(SESSIONS))
    def outlive(self, ms: int, session: str) -> None:
        """All but one go on renewing until that one's lease has ended: no outage."""
        others = [each for each in SESSIONS if each != session and self.processes[each].lease_end > self.engine.now]
        for _ in range(2 + LEASE // ms):
            self.engine.advance(ms)
            for other in others:
                self.rest(other)

    @rule()
    def pause_or_resume(self) -> None:
        self.paused = not self.paused
        self.run(self.engine.broker.pause(self.paused))

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 99))
    def abort(self, which: int) -> None:
        job = list(self.jobs.values())[which % len(self.jobs)]
        word = self.run(self.engine.abort(job.name))
        if job.state in GONE:
            assert word == ("not_found" if job.state == "removed" else "ended")
        elif job.state == "held":
            assert word == "asked"
            self.unusual = True
        else:
            assert word == "aborted"
            job.state = "aborted"

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 99))
    def redrive(self, which: int) -> None:
        job = list(self.jobs.values())[which % len(self.jobs)]
        (word,) = self.run(self.engine.redrive(job.name))
        if job.state == "dead":
            assert word == "retried"
            job.state, job.place = "ready", Place(job.level, self.next_number())
            job.crashes = 0
        else:
            assert word == ("not_found" if job.state == "removed" else "not_failed")

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 99))
    def remove(self, which: int) -> None:
        job = list(self.jobs.values())[which % len(self.jobs)]
        (word,) = self.run(self.engine.remove(job.name))
        if job.state == "held":
            assert word == "active"
        else:
            assert word == ("not_found" if job.state == "removed" else "removed")
            job.state = "removed"

    # ------------------------------------------------------------------ what holds after each

    @invariant()
    def redis_is_as_the_model(self) -> None:
        engine = self.engine
        queue = self.run(self.redis.zrange(engine.keys.queue, 0, -1, withscores=True))
        seen: dict[str, list[str]] = {"ready": [], "later": [], "held": [], "suspect": []}
        for job_id, score in queue:
            state = "ready" if score < 0 else "later" if score < HELD else "held" if score < SUSPECT else "suspect"
            seen[state].append(job_id.decode().rpartition(":")[2])
        for state, names in seen.items():
            expected = [job.name for job in self.in_state(state)]
            assert sorted(names) == sorted(expected), state
            if state != "held":
                assert names == expected, f"the order of {state}"
        for index in INDEXES:
            ended = {job_id.decode().rpartition(":")[2] for job_id in self.run(self.ended(index))}
            assert ended == {job.name for job in self.jobs.values() if job.state == index}, index
        for session in SESSIONS:
            entries = self.run(self.redis.hgetall(engine.keys.key("held", session)))
            held = {job_id.decode().rpartition(":")[2]: int(text.split()[0]) for job_id, text in entries.items()}
            assert held == {job.name: job.call for job in self.jobs.values() if job.holder == session}

    async def ended(self, index: str) -> list[bytes]:
        return list(await self.redis.zrange(self.engine.keys.key(index), 0, -1))


@pytest.mark.timeout(900)
def test_random_interleavings(redis_url: str) -> None:
    """``STATES=500`` tries so many, at random; without it the same few each time."""
    examples = int(os.environ.get("STATES", 0))
    run_state_machine_as_test(
        lambda: States(redis_url),
        settings=settings(
            max_examples=examples or 12, stateful_step_count=30, derandomize=not examples, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), phases=(Phase.generate,),
        ),
    )  # fmt: skip
