"""Random flows over three families while their workers are killed: every parent does exactly what its rule says.

``FLOW_TREES=1000 FLOW_SEED=7`` in the environment asks for more of them, or for those of an earlier run.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from daemon.flows import Batch, Node, batch, node
from daemon.flows import plan as flow_plan
from daemon.flows.courier import Courier
from daemon.job import JobInfo, JobState
from daemon.keys import FamilyKeys
from daemon.pages import describe
from daemon.producer import Producer
from tests.conftest import RedisServerFactory
from tests.faults.family import FOLDER
from tests.faults.flow_families import FAMILIES
from tests.faults.workshop import ROOT
from tests.servers import Servers

TREES = int(os.environ.get("FLOW_TREES", "120"))
KILLS = TREES // 20
CLASSES = ("Red", "Green", "Blue")
DEPTH = 4


@dataclass
class Planned:
    """A job of a flow as the test knows it; ``waits`` are its children with the rule of each edge."""

    name: str
    family: str
    fails: bool
    node: Node
    waits: list[tuple[Planned, str]] = field(default_factory=list)

    def below(self) -> Iterator[Planned]:
        yield self
        for child, _ in self.waits:
            yield from child.below()


class Forest:
    """Draws flows, and knows what is to become of their jobs.

    Args:
        chance: the source of everything random.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.jobs: dict[str, Planned] = {}

    def tree(self, depth: int = DEPTH, rule: Any = "fail", least: int = 1) -> Planned:
        chance = self.chance
        children = []
        if depth > 1:
            count = chance.randint(least, 4) if least or chance.random() < 0.6 else 0
            children = [
                self.tree(depth - 1, chance.choice(("fail", "ignore", "continue")), least=0) for _ in range(count)
            ]
        return self._job(children, [(child, child.node.rule) for child in children], rule)

    def _job(self, children: list[Planned], waits: list[tuple[Planned, str]], rule: Any = "fail") -> Planned:
        chance, name = self.chance, f"j{len(self.jobs)}"
        family, fails = chance.choice(FAMILIES), chance.random() < 0.1
        payload = {"name": name, "fails": fails, "seconds": chance.choice((0, 0.02, 0.1, 0.4))}
        made = node("step", payload, family=family, rule=rule, job_id=name, children=[child.node for child in children])
        self.jobs[name] = planned = Planned(name, family, fails, made, waits)
        return planned

    def batch(self) -> Batch:
        jobs = [self.tree(depth=3, least=0) for _ in range(self.chance.randint(1, 4))]
        rules = {"on_complete": "ignore", "on_success": "success", "on_death": "death"}
        chosen = self.chance.sample(sorted(rules), self.chance.randint(1, 3))
        callbacks = {name: self._job([], [(job, rules[name]) for job in jobs]).node for name in chosen}
        return batch([job.node for job in jobs], **callbacks)


def allowed(planned: Planned, failed: set[str]) -> set[str]:
    """What may become of a job once its children ended as they did: ``run``, ``fail`` by a child, or ``gone``.

    Where one child fails it and another's failure lets it run at once, the first to be told of decides.
    """
    rules = {rule for child, rule in planned.waits if child.name in failed}
    if "death" in {rule for _, rule in planned.waits}:
        return {"run"} if rules else {"gone"}
    if "success" in rules:
        return {"gone"}
    return {"fail", "run"} if rules >= {"fail", "continue"} else {"fail"} if "fail" in rules else {"run"}


class Workers:
    """Worker processes of all three families, killed and replaced at random."""

    def __init__(self, server: Servers, folder: Path, chance: random.Random) -> None:
        self.kills = 0
        self._folder, self._chance = folder, chance
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("ARQD_")}
        self._environ |= {"ARQD_REDIS_URL": server.url, FOLDER: str(folder), "ARQD_LOG_LEVEL": "error"}
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        names = [f"tests.faults.flow_families:{name}" for name in CLASSES]
        with (self._folder / "workers.log").open("ab") as output:
            command = [sys.executable, "-m", "daemon", "run", *names]
            self._running.append(subprocess.Popen(command, cwd=ROOT, env=self._environ, stdout=output, stderr=output))

    async def kill_some(self) -> None:
        while self.kills < KILLS:
            await asyncio.sleep(self._chance.uniform(0.2, 1.0))
            working = self._at_work()
            if working:
                victim = self._chance.choice(working)
                assert victim.poll() is None, "a worker has ended by itself"
                self._running.remove(victim)
                self._kill(victim)
                self.kills += 1
                self.start()

    def _at_work(self) -> list[subprocess.Popen[bytes]]:
        """Those that have run a job: a machine that starts them more slowly than they are killed would never get on."""
        journal = self._folder / "journal"
        pids = {int(line.split()[4]) for line in journal.read_text().splitlines()} if journal.exists() else set()
        return [process for process in self._running if process.pid in pids]

    @staticmethod
    def _kill(victim: subprocess.Popen[bytes]) -> None:
        victim.kill()
        victim.wait()

    @asynccontextmanager
    async def dying(self, count: int) -> AsyncIterator[None]:
        for _ in range(count):
            self.start()
        task = asyncio.create_task(self.kill_some())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for process in self._running:
                self._kill(process)


async def left_over(producer: Producer) -> str:
    """Tell what has not ended, for the message of a failure."""
    redis, lines = producer.redis, []
    for name in FAMILIES:
        keys = FamilyKeys.of(name)
        for entry in await redis.xrange(keys.key("outbox"), count=5):
            lines.append(f"{name} outbox {entry}")
        for session, end in await redis.zrange(keys.key("workers"), 0, -1, withscores=True):
            held = await redis.hgetall(keys.key("held", session.decode()))
            lines.append(f"{name} session {session!r} until {end} holds {held}")
        for job_id, score in await redis.zrange(keys.queue, 0, 20, withscores=True):
            job = job_id.decode()
            state, edges, crashes = [await redis.hget(keys.key(h), job) for h in ("flows", "parents", "crashes")]
            pending = await redis.smembers(keys.key("pending", job))
            lines.append(f"{job} {score} flow {state} pending {pending} parents {edges} crashes {crashes}")
    return "\n".join(["left:", f"clock {await redis.time()}", *lines])


async def ended(producer: Producer, seconds: float = 90) -> None:
    """Wait until nothing waits, runs, or is still to be told; for so long nothing may have changed."""
    before: list[int] = []
    while True:
        async with producer.redis.pipeline(transaction=False) as pipe:
            for name in FAMILIES:
                pipe.zcard(FamilyKeys.of(name).queue)
                pipe.exists(FamilyKeys.of(name).key("outbox"))
            left = await pipe.execute()
        if not any(left):
            return
        if left != before:
            before, deadline = left, time.monotonic() + seconds
        assert time.monotonic() < deadline, await left_over(producer)
        await asyncio.sleep(0.05)


async def infos(producer: Producer, forest: Forest) -> dict[str, JobInfo | None]:
    found: dict[str, JobInfo | None] = {}
    for family in FAMILIES:
        names = [name for name, planned in forest.jobs.items() if planned.family == family]
        keys = FamilyKeys.of(family)
        found |= zip(names, await describe(producer.redis, keys, [keys.job_id(n) for n in names]), strict=True)
    return found


def check(forest: Forest, found: dict[str, JobInfo | None], lines: list[list[str]]) -> Counter[str]:
    """Compare what became of every job with what its rule says, given what became of its children."""
    started: dict[str, float] = {}
    over: dict[str, float] = {}
    for at, what, name, *_ in lines:
        if what == "start":
            started.setdefault(name, float(at))
        else:
            over[name] = float(at)
    failed = {name for name, info in found.items() if info is not None and info.state is JobState.FAILED}
    became: Counter[str] = Counter()
    for name, planned in forest.jobs.items():
        info = found[name]
        if info is None:
            how = "gone"
        else:
            assert info.state in (JobState.COMPLETED, JobState.FAILED), info
            how = "fail" if info.error and info.error["type"] == "ChildFailed" else "run"
        assert how in allowed(planned, failed), (name, how, info)
        assert (name in started) == (how == "run"), name
        became[how] += 1
        if how != "run" or info is None:
            continue
        assert (info.state is JobState.FAILED) == planned.fails, info
        rules = {rule for child, rule in planned.waits if child.name in failed}
        if not rules & {"continue", "death"}:
            # It had to wait for all of them, and saw how each ended.
            told = {child.name: ("failed" if child.name in failed else "completed") for child, _ in planned.waits}
            assert info.state is JobState.FAILED or info.result == told
            assert all(over.get(child.name, 0) <= started[name] for child, _ in planned.waits), name
    return became


@pytest.mark.timeout(max(240, TREES))
async def test_random_flows_while_workers_are_killed(
    redis_server: RedisServerFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(os.environ.get("FLOW_SEED", random.randrange(2**32)))
    print(f"\nseed {seed}")
    chance, server = random.Random(seed), redis_server()
    forest, workers = Forest(chance), Workers(server, tmp_path, random.Random(seed))

    class Mortal(Courier):
        """A producer that dies right after its commit, one in ten."""

        async def make(self, *args: Any) -> set[str]:
            if chance.random() < 0.1:
                raise ConnectionError("died")
            return await super().make(*args)

    monkeypatch.setattr(flow_plan, "Courier", Mortal)
    begin = time.monotonic()
    async with Producer.connect(server.url) as producer, workers.dying(3):
        for _ in range(TREES):
            if chance.random() < 0.2:
                await producer.enqueue_flow(forest.batch())
            else:
                await producer.enqueue_flow(forest.tree().node)
        await ended(producer)
        took = time.monotonic() - begin
        found = await infos(producer, forest)
    lines = [line.split() for line in (tmp_path / "journal").read_text().splitlines()]
    became = check(forest, found, lines)
    starts = Counter(line[2] for line in lines if line[1] == "start")
    print(
        f"{TREES} flows, {len(forest.jobs)} jobs, {workers.kills} kills, {took:.1f} s: "
        f"{became['run']} ran, {sum(1 for n in starts.values() if n > 1)} of them more than once, "
        f"{became['fail']} failed by a child, {became['gone']} callbacks not due"
    )
    assert workers.kills > 2
