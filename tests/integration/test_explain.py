"""Why a job does not run: each reason, in a state that real workers or the real scripts made."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from arq import create_pool
from arq.connections import RedisSettings

from daemon import codec
from daemon.broker import Broker
from daemon.cli.command import main
from daemon.context import JobContext
from daemon.errors import InvalidJob, PermanentError, RetryAfter
from daemon.family import Fixed, RateLimit, func
from daemon.inspecting import situation
from daemon.inspecting.explain import Explanation
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.keys import FamilyKeys
from daemon.producer import Producer, SyncProducer
from daemon.producing.handle import JobHandle
from tests.engine import eventually, make_family, run_burst, until, working
from tests.lua.state import LEASE, A, B, C, Engine
from tests.marks import one_url, stock_ids

INFO = json.dumps({"host": "here", "pid": 7, "slots": 4, "functions": ["send"]}).encode()


async def number(ctx: JobContext, n: int = 0) -> int:
    return n


async def fail(ctx: JobContext) -> None:
    raise ValueError("no luck.")


async def refuse(ctx: JobContext) -> None:
    raise PermanentError("never")


async def endless(ctx: JobContext) -> None:
    await ctx.progress(40, "half of it")
    await asyncio.Event().wait()


async def told(ctx: JobContext, scope: Any) -> None:
    raise RetryAfter(60, scope)


def family(*functions: Any, **values: Any) -> Any:
    return make_family("t", *(functions or (number, fail, refuse, endless, told)), **values)


@pytest.fixture
def inspector(producer: Producer) -> Inspector:
    return Inspector(producer.redis, ["t"])


@pytest.fixture
def broker(producer: Producer) -> Broker:
    return Broker(producer.redis, FamilyKeys.of("t"))


async def reached(
    inspector: Inspector, job: JobHandle, *reasons: str, where: Callable[[Explanation], Any] = bool
) -> Explanation:
    """Wait until a job has one of these reasons, and ``where`` agrees."""
    found: list[Explanation] = []

    async def look() -> bool:
        found.append(await inspector.explain(job.id))
        return found[-1].reason in reasons and bool(where(found[-1]))

    try:
        await eventually(look)
    except AssertionError:
        pytest.fail(f"not {reasons}: {found[-1]}")
    return found[-1]


def in_seconds(time: datetime | None) -> float:
    assert time is not None
    return (time - datetime.now(UTC)).total_seconds()


async def test_paused(redis_url: str, producer: Producer, inspector: Inspector, broker: Broker) -> None:
    async with working(redis_url, family()):
        await broker.pause(True)
        job = await producer.enqueue("number", [1], family="t", expires=600)
        why = await inspector.explain(job.id)
        assert (why.id, why.family, why.state, why.reason) == (job.id, "t", JobState.WAITING, "paused")
        assert "`arqd resume t`" in why.message
        assert -30 < in_seconds(why.since) <= 0
        assert 590 < in_seconds(why.details["expires_at"]) <= 600
        await broker.pause(False)
        assert (await reached(inspector, job, "completed")).details == {}


async def test_no_worker(redis_url: str, producer: Producer, inspector: Inspector) -> None:
    job = await producer.enqueue("number", [1], family="t")
    why = await inspector.explain(job.id)
    assert (why.reason, why.message) == ("no_worker", "There is no worker; `arqd run` starts one.")


async def test_only_workers_that_drain(producer: Producer, inspector: Inspector, broker: Broker) -> None:
    await broker.sync(A, 1, LEASE, json.dumps({**json.loads(INFO), "draining": True}).encode(), 5, None, None, [])
    why = await inspector.explain((await producer.enqueue("send", [], family="t")).id)
    assert (why.reason, why.details["draining"]) == ("no_worker", 1)
    assert "1 only end what they run" in why.message


async def test_no_worker_knows_its_function(redis_url: str, producer: Producer, inspector: Inspector) -> None:
    async with working(redis_url, family(number, endless, max_jobs=1)) as supervisor:
        job = await producer.enqueue("resize", [1], family="t")
        why = await reached(inspector, job, "parked")
        assert why.state is JobState.PARKED
        assert "no worker knows the function 'resize'. It runs when a worker starts" in why.message
        assert why.details["functions"] == ["endless", "number"]
        assert -30 < in_seconds(why.since) <= 0
        await producer.enqueue("endless", [], family="t")
        await until(lambda: supervisor.workers[0].running)
        waiting = await inspector.explain((await producer.enqueue("resize", [1], family="t")).id)
        assert (waiting.state, waiting.reason) == (JobState.WAITING, "unknown_function")
        assert "No worker knows the function 'resize'" in waiting.message
        assert (waiting.details["function"], waiting.details["functions"]) == ("resize", ["endless", "number"])
        assert len(waiting.details["workers"]) == 1


async def test_the_queue_was_told_to_wait(redis_url: str, producer: Producer, inspector: Inspector) -> None:
    async with working(redis_url, family()):
        first = await producer.enqueue("told", ["queue"], family="t")
        own = await reached(inspector, first, "delayed")
        assert "told to wait until" in own.message
        assert 50 < in_seconds(own.until) <= 60
        job = await producer.enqueue("number", [1], family="t")
        why = await inspector.explain(job.id)
        assert (why.state, why.reason) == (JobState.WAITING, "queue_waits")
        assert why.until is not None
        assert own.until is not None
        assert abs(why.until - own.until) < timedelta(seconds=1)


@pytest.mark.parametrize(("scope", "name"), [("group", "acme"), ("function", "told")])
async def test_its_group_or_function_was_told_to_wait(
    redis_url: str, producer: Producer, inspector: Inspector, scope: str, name: str
) -> None:
    async with working(redis_url, family()):
        first = await producer.enqueue("told", [scope], family="t", group="acme")
        await reached(inspector, first, "delayed")
        jobs = [await producer.enqueue("told", [scope], family="t", group="acme") for _ in range(3)]
        why = await reached(inspector, jobs[2], f"{scope}_waits")
        assert (why.state, why.details) == (JobState.WAITING, {scope: name})
        assert 50 < in_seconds(why.until) <= 60
        assert why.position == 2
        assert f"Its {scope} '{name}' was told to wait: it starts nothing until" in why.message
        assert "; 2 stand before it." in why.message


@pytest.mark.parametrize("who", ["group", "function"])
async def test_its_group_or_function_is_at_its_limit(
    redis_url: str, producer: Producer, inspector: Inspector, who: str
) -> None:
    limited = family(func(endless, name="endless", global_limit=1)) if who == "function" else family(group_limit=1)
    async with working(redis_url, limited) as supervisor:
        jobs = [await producer.enqueue("endless", [], family="t", group="acme") for _ in range(3)]
        await until(lambda: supervisor.workers[0].running)
        why = await reached(inspector, jobs[2], f"{who}_limit")
        assert (why.state, why.until, why.position) == (JobState.WAITING, None, 1)
        assert why.details == {who: "acme" if who == "group" else "endless", "limit": 1, "active": 1}
        assert "1 run and 1 may; one stands before it." in why.message
        stats, backlog = await inspector.queue("t"), await inspector.backlog("t")
        assert (stats.waiting, stats.limited, stats.active) == (2, 2, 1)
        assert (backlog["backlog"], backlog["load"], backlog["drain_seconds"]) == (0, 1, 0.0)
        assert {info.id for info in await inspector.jobs("t", "waiting")} == {job.id for job in jobs[1:]}
        assert (await inspector.job(jobs[2].id)).state is JobState.WAITING


async def test_its_group_is_at_the_limit_of_its_kind(redis_url: str, producer: Producer, inspector: Inspector) -> None:
    async with working(redis_url, family(group_limit=5, group_limits={"ordered:*": 1})) as supervisor:
        jobs = [await producer.enqueue("endless", [], family="t", group="ordered:acme") for _ in range(2)]
        await until(lambda: supervisor.workers[0].running)
        why = await reached(inspector, jobs[1], "group_limit")
        assert why.details == {"group": "ordered:acme", "limit": 1, "active": 1}


@pytest.mark.parametrize("who", ["group", "function"])
async def test_its_group_or_function_is_at_its_rate(
    redis_url: str, producer: Producer, inspector: Inspector, who: str
) -> None:
    rate = RateLimit(1, per=60)
    limited = family(func(number, name="number", rate_limit=rate)) if who == "function" else family(group_rate=rate)
    async with working(redis_url, limited):
        jobs = [await producer.enqueue("number", [n], family="t", group="acme") for n in range(2)]
        why = await reached(inspector, jobs[1], f"{who}_rate")
        assert 50 < in_seconds(why.until) <= 60
        assert why.details == {who: "acme" if who == "group" else "number", "rate": 1, "per_seconds": 60}
        assert (why.position, "its rate of 1 per 60 s" in why.message) == (0, True)


async def test_a_lane_with_room_again_keeps_nobody_back(
    redis_url: str, producer: Producer, inspector: Inspector, broker: Broker
) -> None:
    async with working(redis_url, family(group_limit=1, max_jobs=1)) as supervisor:
        jobs = [await producer.enqueue("endless", [], family="t", group="acme") for _ in range(2)]
        await until(lambda: supervisor.workers[0].running)
        engine = Broker(producer.redis, FamilyKeys.of("t"))
        # All its slots are taken: a second worker's look moves the job into its lane.
        await engine.sync(B, 1, LEASE, INFO, 5, None, None, [], lanes={"s:g:*": "1||"})
        await engine.tick(B, 2, 1, False, supervisor.workers[0].tick_settings, [])
        assert (await inspector.explain(jobs[1].id)).reason == "group_limit"
        await broker.set_limits([("limits", "g:acme", "2||")])
        assert (await reached(inspector, jobs[1], "next", "behind")).state is JobState.WAITING


async def test_the_global_limit_is_reached(redis_url: str, producer: Producer, inspector: Inspector) -> None:
    async with working(redis_url, family(global_limit=1)) as supervisor:
        jobs = [await producer.enqueue("endless", [], family="t") for _ in range(3)]
        await until(lambda: supervisor.workers[0].running)
        why = await inspector.explain(jobs[2].id)
        assert (why.reason, why.position, why.until) == ("global_limit", 1, None)
        assert why.details == {"limit": 1, "active": 1, "before": {"5": 1}}
        assert why.message == "The queue is at its limit: 1 run and 1 may; one stands before it."


async def test_rate_limited(redis_url: str, producer: Producer, inspector: Inspector, broker: Broker) -> None:
    async with working(redis_url, family(rate_limit=RateLimit(2, per=60))):
        jobs = [await producer.enqueue("number", [n], family="t") for n in range(4)]
        for job in jobs[:2]:
            await reached(inspector, job, "completed")
        why = await inspector.explain(jobs[3].id)
        assert (why.reason, why.position, why.details["rate"], why.details["per_seconds"]) == ("rate_limit", 1, 2, 60)
        assert 50 < in_seconds(why.until) <= 60
        # An operator's own limit wins over the settings'; an empty one is none.
        await broker.set_limits([("conf", "own:rate", "3"), ("conf", "own:per", "30000000")])
        await reached(inspector, jobs[2], "completed")
        own = await inspector.explain(jobs[3].id)
        assert (own.reason, own.position, own.details["rate"], own.details["per_seconds"]) == ("rate_limit", 0, 3, 30)
        await broker.set_limits([("conf", "own:rate", ""), ("conf", "own:per", "")])
        await reached(inspector, jobs[3], "completed")


async def test_behind_others(redis_url: str, producer: Producer, inspector: Inspector) -> None:
    async with working(redis_url, family(max_jobs=1)) as supervisor:
        await producer.enqueue("endless", [], family="t")
        await until(lambda: supervisor.workers[0].running)
        jobs = [await producer.enqueue("number", [n], family="t", priority=5) for n in range(3)]
        urgent = await producer.enqueue("number", [9], family="t", priority=1)
        await producer.enqueue("number", [9], family="t", priority=9)
        why = await inspector.explain(jobs[2].id)
        assert (why.state, why.reason, why.position) == (JobState.WAITING, "behind", 3)
        assert why.details == {"before": {"1": 1, "5": 2}, "active": 1, "slots": 1}
        assert why.message == "It waits behind 3 others; 1 of 1 slots are taken."
        first = await inspector.explain(urgent.id)
        assert (first.reason, first.position) == ("next", 0)
        assert first.message == "It is the next to run; 1 of 1 slots are taken."


@one_url
async def test_what_came_due_stands_behind_what_has_its_place(
    redis_url: str, producer: Producer, inspector: Inspector, broker: Broker
) -> None:
    await broker.sync(
        A, 1, LEASE, json.dumps({"host": "here", "pid": 7, "functions": ["number"]}).encode(), 5, None, None, []
    )
    await producer.enqueue("number", [1], family="t", priority=4)
    await producer.enqueue("number", [1], family="t", priority=6)
    pool = await create_pool(
        RedisSettings.from_dsn(redis_url), job_serializer=codec.dumps, job_deserializer=codec.loads,
        default_queue_name="arq:{t}",
    )  # fmt: skip
    earlier = datetime.now(UTC) - timedelta(seconds=5)
    await pool.enqueue_job("number", 1, _job_id="{t}:early", _defer_until=earlier)
    await pool.enqueue_job("number", 1, _job_id="{t}:late", _defer_until=earlier + timedelta(seconds=1))
    why = await inspector.explain("t:late")
    assert (why.state, why.reason, why.position) == (JobState.WAITING, "behind", 2)
    assert why.details["before"] == {"4": 1, "due": 1}
    await pool.aclose()


async def test_delayed(producer: Producer, inspector: Inspector) -> None:
    job = await producer.enqueue("number", [1], family="t", delay=10_800)
    why = await inspector.explain(job.id)
    assert (why.state, why.reason) == (JobState.DELAYED, "delayed")
    assert why.until == (await inspector.job(job.id)).due_at
    assert "It is delayed until " in why.message
    assert why.message.endswith("(in 3 h).")


async def test_retry(redis_url: str, producer: Producer, inspector: Inspector) -> None:
    async with working(redis_url, family(backoff=Fixed(60))):
        job = await producer.enqueue("fail", [], family="t", max_tries=3)
        other = await producer.enqueue("fail", [], family="t")
        why = await reached(inspector, job, "retry")
        assert why.state is JobState.DELAYED
        assert 50 < in_seconds(why.until) <= 60
        assert why.message.startswith("Try 2 of 3 is at ")
        assert why.message.endswith("the last one ended with ValueError: no luck.")
        assert (why.details["try"], why.details["max_tries"]) == (2, 3)
        assert (why.details["error"]["type"], why.details["error"]["try"]) == ("ValueError", 1)
        assert (await reached(inspector, other, "retry")).message.startswith("Try 2 of 5 is at ")


async def test_running(redis_url: str, producer: Producer, inspector: Inspector) -> None:
    async with working(redis_url, family()) as supervisor:
        job = await producer.enqueue("endless", [], family="t")
        why = await reached(inspector, job, "running", where=lambda why: why.details["progress"])
        assert (why.state, why.reason, why.until) == (JobState.ACTIVE, "running", None)
        assert -30 < in_seconds(why.since) <= 0
        assert (why.details["worker"], why.details["progress"]) == (supervisor.session, 40)
        assert why.details["note"] == "half of it"
        assert in_seconds(why.details["lease_ends_at"]) > 0
        assert f"on {why.details['host']}:{why.details['pid']} (worker {supervisor.session}) since" in why.message
        assert why.message.endswith("40 % done.")


@pytest.fixture
async def past(producer: Producer) -> Engine:
    """The family's scripts with a clock five minutes behind, and one session, `A`."""
    engine = Engine(producer.redis, int(time.time() * 1000) - 300_000, "t")
    await engine.sync(A)
    return engine


async def _present(engine: Engine, *sessions: str) -> None:
    """Come to the present while these sessions renew their leases."""
    # As it is now: it goes on while the calls are made, and would not be caught up with on a busy machine.
    present = int(time.time() * 1000)
    while engine.now < present:
        engine.advance(min(LEASE // 3, present - engine.now))
        for session in sessions:
            assert await engine.renew(session, info=INFO)


async def test_its_workers_lease_has_ended(past: Engine, inspector: Inspector) -> None:
    assert await past.renew(A, info=INFO)
    await past.take("one")
    why = await inspector.explain("t:one")
    assert (why.state, why.reason, why.until) == (JobState.ACTIVE, "lease_ended", None)
    assert -300 < in_seconds(why.since) < -260
    assert (why.details["worker"], why.details["host"]) == (A, "here")
    assert why.message.startswith("Its worker here:7 is silent")
    assert why.message.endswith("the job runs again when another worker starts.")
    await past.sync(B)
    await _present(past, B)
    again = await inspector.explain("t:one")
    assert again.reason == "lease_ended"
    assert again.until is not None
    assert again.message.endswith("the job runs again with another worker's next call.")


async def test_after_an_outage_nothing_is_taken_back_for_a_lease(past: Engine, inspector: Inspector) -> None:
    await past.sync(B)
    await past.take("one")
    past.advance(int(time.time() * 1000) - past.now)
    assert await past.renew(B, info=INFO)
    why = await inspector.explain("t:one")
    assert why.reason == "lease_ended"
    assert LEASE / 1000 - 10 < in_seconds(why.until) <= LEASE / 1000
    assert "the job runs again after" in why.message


async def test_a_suspect_waits_alone(past: Engine, inspector: Inspector) -> None:
    await past.sync(C)
    await past.take("one")
    await past.pass_time(LEASE + 1, C)
    (_,) = await past.claim(C)
    await past.sync(B)
    await past.pass_time(LEASE + 1, B)
    await past.tick(B)
    await _present(past, B)
    why = await inspector.explain("t:one")
    assert (why.state, why.reason, why.position) == (JobState.WAITING, "suspect", 0)
    assert why.details == {"crashes": 2}
    assert -300 < in_seconds(why.since) < -200
    assert why.message == "Its worker died 2 times while it ran: it waits for one that runs nothing else."


async def test_a_dead_letter(redis_url: str, producer: Producer, inspector: Inspector) -> None:
    spent = await producer.enqueue("fail", [], family="t", max_tries=2, backoff=Fixed(0))
    refused = await producer.enqueue("refuse", [], family="t")
    wrong = await producer.enqueue("number", ["x"], family="t")
    await run_burst(redis_url, family())
    why = await inspector.explain(spent.id)
    assert (why.state, why.reason, why.until) == (JobState.FAILED, "failed", None)
    assert -30 < in_seconds(why.since) <= 0
    assert why.details == {"tries": 2, "error": {"type": "ValueError", "message": "no luck.", "reason": "tries"}}
    assert "after 2 tries: its last try failed (ValueError: no luck). `arqd retry t:" in why.message
    assert "after 1 try: no other try can help (PermanentError: never)" in (await inspector.explain(refused.id)).message
    why = await inspector.explain(wrong.id)
    assert "its payload is not what the function takes (ValidationError: 1 validation error" in why.message
    assert "\n" not in why.message
    assert "\n" in why.details["error"]["message"]


async def test_ended(redis_url: str, producer: Producer, inspector: Inspector) -> None:
    done = await producer.enqueue("number", [1], family="t")
    late = await producer.enqueue("number", [1], family="t", expires="1ms", delay="2ms")
    await run_burst(redis_url, family())
    stopped = await producer.enqueue("number", [1], family="t")
    assert await stopped.abort()
    for job, state, words in (
        (done, JobState.COMPLETED, "It was completed "),
        (late, JobState.EXPIRED, "its deadline passed"),
        (stopped, JobState.ABORTED, "It was aborted "),
    ):
        why = await inspector.explain(job.id)
        assert (why.state, why.reason) == (state, str(state))
        assert words in why.message
        assert -30 < in_seconds(why.since) <= 0


async def test_not_found(producer: Producer, inspector: Inspector) -> None:
    why = await inspector.explain("t:nothing")
    assert (why.id, why.state, why.reason) == ("t:nothing", JobState.NOT_FOUND, "not_found")
    with pytest.raises(InvalidJob, match="names no known family"):
        await Inspector(producer.redis, ["t", "u"]).explain("nothing")


async def test_a_job_that_moves_while_it_is_looked_at(
    redis_url: str, producer: Producer, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await producer.enqueue("number", [1], family="t")
    looks: list[str] = []
    second_look = situation._second_look

    async def work_between(*args: Any) -> bool:
        if not looks:
            await run_burst(redis_url, family())
        looks.append("second")
        return await second_look(*args)

    monkeypatch.setattr(situation, "_second_look", work_between)
    assert (await inspector.explain(job.id)).reason == "completed"
    assert looks == ["second"]


@stock_ids
async def test_a_job_without_a_readable_record_is_explained(producer: Producer, inspector: Inspector) -> None:
    await producer.redis.zadd("arq:{t}", {"{t}:odd": -1, "bare": 2**47 + 5})
    assert (await inspector.explain("t:odd")).reason == "no_worker"
    assert (await inspector.explain("t:bare")).reason == "no_worker"


def test_the_command(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARQD_REDIS_URL", redis_url)
    monkeypatch.setenv("ARQD_FAMILIES__GREETINGS", "tests.integration.cli_family:WorkerSettings")
    with SyncProducer.connect(redis_url) as producer:
        job = producer.enqueue("send_email", {}, family="email", job_id="one", expires=600)
    assert main(["explain", job.id]) == 0
    assert capsys.readouterr() == ("no_worker: There is no worker; `arqd run` starts one.\n", "")
    assert main(["explain", job.id, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = ["id", "family", "state", "reason", "message", "until", "since", "position", "details"]
    assert list(found) == names
    assert [found[name] for name in names[:4]] == ["email:one", "email", "waiting", "no_worker"]
    assert found["details"]["expires_at"].endswith("Z")
    for options in ([], ["--json"]):
        assert main(["explain", "email:two", *options]) == 1
        missing = "arqd: there is no job email:two: it never existed, or its record has been removed\n"
        assert capsys.readouterr() == ("", missing)
    assert main(["explain", "two"]) == 1
    assert "write it as family:id" in capsys.readouterr().err
