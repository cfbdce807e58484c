"""``arqd check --deep``: a system at work has no leak, and every kind of leak is found."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from daemon.cli.command import main
from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import PermanentError
from daemon.family import Fixed, func
from daemon.inspecting import consistency
from daemon.inspecting.consistency import find_leaks
from daemon.job import JobState
from daemon.producer import Producer
from tests.engine import in_state, make_family, run_burst, working
from tests.servers import each_node, looking_at


async def work(ctx: JobContext, n: int) -> int:
    await ctx.progress(50)
    await ctx.log("half way")
    return await ctx.once("step", lambda: asyncio.sleep(0, n))


async def fail(ctx: JobContext, n: int) -> None:
    await ctx.once("step", lambda: asyncio.sleep(0, n))
    raise PermanentError(f"no {n % 2}")


async def flaky(ctx: JobContext) -> str:
    if ctx.job_try < 2:
        raise ValueError
    return "at last"


async def hold(ctx: JobContext) -> None:
    await asyncio.sleep(60)


FAMILY = make_family("t", work, fail, func(flaky, name="flaky", backoff=Fixed(0.01)), hold, max_bytes=10_000_000)
ID = "{t}:x"


@pytest.fixture
async def producer(redis_url: str) -> AsyncIterator[Producer]:
    async with Producer.connect(redis_url) as producer:
        yield producer


async def kinds(producer: Producer) -> list[str]:
    return sorted({leak.kind for leak in (await find_leaks(producer.redis, FAMILY)).leaks})


async def test_jobs_in_every_state_are_no_leaks(redis_url: str, producer: Producer) -> None:
    control = Control(producer.redis, ["t"])
    async with working(redis_url, FAMILY):
        jobs = [await producer.enqueue("work", [n], family="t", dedup_key=f"k{n}") for n in range(20)]
        jobs += [await producer.enqueue("fail", [n], family="t", keep={"failed": "1h"}) for n in range(4)]
        jobs.append(await producer.enqueue("flaky", family="t"))
        held = await producer.enqueue("hold", family="t")
        parked = await producer.enqueue("nobody knows", family="t")
        await producer.enqueue("work", [1], family="t", delay=60, dedup_key="late", dedup_window=60)
        parent = await producer.enqueue("work", [2], family="t", depends_on=[held])
        await in_state(held, JobState.ACTIVE)
        await in_state(parked, JobState.PARKED)
        await in_state(parent, JobState.BLOCKED)
        for job in jobs[:20]:
            await in_state(job, JobState.COMPLETED)
        for job in jobs[20:24]:
            await in_state(job, JobState.FAILED)
        await control.retry([jobs[20].job_id])
        assert await kinds(producer) == []
    found = await find_leaks(producer.redis, FAMILY)
    assert found.jobs == 29


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing changes here while it looks."""
    monkeypatch.setattr(consistency, "AGAIN_SECONDS", 0.05)


async def test_an_empty_family_has_none(producer: Producer) -> None:
    assert (await find_leaks(producer.redis, FAMILY)).jobs == 0


LEAKS: dict[str, list[tuple[Any, ...]]] = {
    "in the queue without a payload": [("ZADD", "arq:{t}", -5, ID)],
    "payload without a job": [("SET", "arq:job:" + ID, "q5")],
    "result without an entry": [("SET", "arq:result:" + ID, "{}")],
    "completed without a result": [("TIME",), ("ZADD", "{t}:completed", 10**15, ID)],
    "dead letter without its payload": [("ZADD", "{t}:dead", 10**15, ID), ("SET", "arq:result:" + ID, "{}")],
    "count of tries without a job": [("SET", "arq:retry:" + ID, 1)],
    "in-progress key of a job that is not active": [("SET", "arq:in-progress:" + ID, "abc:1")],
    "active, and nobody holds it": [("ZADD", "arq:{t}", 2**45 + 1, ID), ("SET", "arq:job:" + ID, "q5")],
    "held, and not active": [("ZADD", "{t}:workers", 1, "s"), ("HSET", "{t}:held:s", ID, "1 -5")],
    "session without a lease": [("HSET", "{t}:session:s", "n", 1)],
    "dedup key's job that has ended": [("HSET", "{t}:dedup", "j:" + ID, "key")],
    "dedup key that nothing ends": [("HSET", "{t}:dedup", "k:key", "0 " + ID)],
    "parked, and in no list of those": [("ZADD", "arq:{t}", 2**47 + 2**46, ID), ("SET", "arq:job:" + ID, "q5")],
    "lane, and in no list of those": [("ZADD", "arq:{t}", 2**47, ID), ("SET", "arq:job:" + ID, "q5")],
    "blocked, and waits for no child": [
        ("ZADD", "arq:{t}", 2**46 + 2**45, ID), ("SET", "arq:job:" + ID, "q5"),
    ],
    "cause without a dead letter": [("HSET", "{t}:causes", "abc", "1")],
    "pending:… without its parent": [("SADD", "{t}:pending:" + ID, "child")],
    "bytes counted are not the sum of the jobs'": [("HSET", "{t}:clock", "bytes", 5)],
    "entry in kept:dead that is not dead": [("ZADD", "{t}:kept:dead", 1, ID)],
    **{
        f"entry in {name} without a job": [("HSET", "{t}:" + name, ID, "1")]
        for name in ("crashes", "progress", "waiters", "history", "receipts", "logs", "caused")
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", LEAKS)
async def test_a_leak_is_found(producer: Producer, kind: str) -> None:
    for command in LEAKS[kind]:
        await producer.redis.execute_command(*command)
    found = await kinds(producer)
    if kind.startswith("held, and"):
        # Its holder's entry belongs to no job at all.
        found = [name for name in found if name == kind]
    assert found == [kind]


async def test_held_by_two_and_in_two_states(redis_url: str, producer: Producer) -> None:
    job = await producer.enqueue("work", [1], family="t")
    await run_burst(redis_url, FAMILY)
    other = await producer.enqueue("work", [1], family="t")
    await producer.redis.zadd("arq:{t}", {job.job_id: 2**45 + 1, other.job_id: 2**45 + 2})
    await producer.redis.set("arq:job:" + job.job_id, "q5")
    for session in ("s", "z"):
        await producer.redis.hset("{t}:held:" + session, job.job_id, "1 -5")
        await producer.redis.hset("{t}:held:" + session, other.job_id, "1 -5")
        await producer.redis.zadd("{t}:workers", {session: 1})
    found = await find_leaks(producer.redis, FAMILY)
    assert {name: len(names) for name, names in found.by_kind().items()} == {
        "held by more than one": 2, "waits or runs, and has ended": 1,
    }  # fmt: skip


async def test_what_is_gone_at_the_second_look_is_none(producer: Producer) -> None:
    await producer.redis.set("arq:job:" + ID, "q5", px=30)
    assert await kinds(producer) == []


@pytest.mark.parametrize("leaks", [0, 5])
def test_the_command(redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Any, leaks: int) -> None:
    monkeypatch.setenv("ARQD_REDIS_URL", redis_url)
    with looking_at(redis_url) as client:
        for n in range(leaks):
            client.set(f"arq:job:{{email}}:{n}", "q5")
        status = main(["check", "--deep", "--json"])
    assert sum(node.dbsize() for node in each_node(redis_url)) == leaks
    *_, found = (line for line in json.loads(capsys.readouterr().out) if line["what"] == "email")
    if leaks:
        assert (status, found["level"]) == (1, "FAIL")
        assert found["text"] == "5 leaks in 0 jobs: payload without a job: 5 ({email}:0, {email}:1, {email}:2)"
    else:
        assert (status, found["level"], found["text"]) == (0, "OK", "0 jobs, and every key belongs to one")
