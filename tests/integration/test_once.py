"""ctx.once: a step with a receipt never runs again, whenever its worker dies, and a stale token keeps nothing."""

from __future__ import annotations

import asyncio
import multiprocessing
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from daemon.broker import Broker
from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import ClaimLost, InvalidJob, JobFailed
from daemon.job import JobState
from daemon.keys import FamilyKeys
from daemon.payload import PayloadModel
from daemon.producer import Producer
from daemon.retry import Fixed
from tests.engine import calls, eventually, in_state, make_family, run_burst, until, working
from tests.integration import once_process
from tests.integration.once_process import STEPS, effects, order
from tests.marks import one_server

KEYS = FamilyKeys.of("once")


async def receipts(producer: Producer, job_id: str, keys: FamilyKeys = KEYS) -> dict[str, str]:
    raw = await producer.redis.hget(keys.key("receipts"), job_id)
    return dict(line.split("\t") for line in raw.decode().splitlines()) if raw else {}


async def end_leases(producer: Producer, keys: FamilyKeys = KEYS) -> None:
    """Let the lease of every worker there is end now."""
    for session in await producer.redis.zrange(keys.key("workers"), 0, -1):
        await producer.redis.zadd(keys.key("workers"), {session: 1})


# ---------------------------------------------------------------- killed at every await point


@one_server
async def test_killed_at_every_await_point_no_step_with_a_receipt_runs_again(
    redis_url: str, producer: Producer, tmp_path: Path
) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([once_process.__name__])
    seen: set[tuple[int, int]] = set()
    point = 0
    while True:
        point += 1
        journal = tmp_path / str(point)
        job = await producer.enqueue("order", [str(journal)], family="once", job_id=str(point))
        own = len(await producer.redis.client_list())
        worker = processes.Process(target=once_process.run, args=(redis_url, point))
        worker.start()
        await asyncio.to_thread(worker.join, 60)
        if worker.exitcode == 0:
            break
        assert worker.exitcode == -9

        async def alone(own: int = own) -> bool:
            """Whether the server has read all the dead process sent."""
            return len(await producer.redis.client_list()) == own

        await eventually(alone)
        kept, before = await receipts(producer, job.job_id), effects(journal)
        await end_leases(producer)
        await run_burst(redis_url, make_family("once", order))
        values, after = await job.result(30), effects(journal)

        for step, value in zip(STEPS, values, strict=True):
            ran_again = after[step] - before[step]
            assert ran_again == (0 if step in kept else 1), (point, step)
            assert step not in kept or kept[step] == f'"{value}"', "the result is the one that was kept"
        assert not await producer.redis.exists(KEYS.key("receipts"))
        seen.add((sum(before.values()), len(kept)))
    # Every state there can be was met, those with an effect without its receipt (the gap) too.
    assert seen == {(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3)}
    assert effects(journal) == Counter(STEPS)
    # Three steps with three awaits, the first reading, each storing: a handler that awaits less was not looked at.
    assert point > 2 * 3 * 5


# ---------------------------------------------------------------- a stale token


async def test_the_receipt_of_a_stale_token_is_refused(redis_url: str, producer: Producer) -> None:
    done: list[str] = []
    gates = {"first": asyncio.Event(), "second": asyncio.Event()}
    failures: list[BaseException] = []
    refused: list[BaseException] = []

    def handler(worker: str) -> Callable[..., Any]:
        async def work(ctx: JobContext) -> list[str]:
            async def step(name: str) -> str:
                done.append(f"{worker} {name}")
                await gates[worker].wait()
                return f"{worker} {name}"

            try:
                return [await ctx.once(name, lambda name=name: step(name)) for name in ("charge", "mail")]
            except ClaimLost as error:
                refused.append(error)
                raise

        return work

    async def failed(ctx: JobContext, error: BaseException) -> None:
        failures.append(error)

    job = await producer.enqueue("work", [], family="once")
    async with working(redis_url, make_family("once", handler("first"), on_failure=failed)) as first:
        await until(lambda: done)
        first.drain()
        await end_leases(producer)
        async with working(redis_url, make_family("once", handler("second"), on_failure=failed)):
            await until(lambda: len(done) == 2)
            gates["first"].set()
            await until(lambda: refused)
            assert await receipts(producer, job.job_id) == {}
            gates["second"].set()
            assert await job.result(30) == ["second charge", "second mail"]
    assert done == ["first charge", "second charge", "second mail"]
    assert "another one has it" in str(refused[0])
    info = await job.info()
    assert (info.state, info.history, failures) == (JobState.COMPLETED, [], [])


async def test_a_stale_token_reads_nothing_either(redis_url: str, producer: Producer) -> None:
    """A handler that comes to its first step too late does not run it."""
    ran: list[str] = []
    gate = asyncio.Event()

    async def work(ctx: JobContext) -> None:
        ran.append("start")
        if len(ran) == 1:
            await gate.wait()
        await ctx.once("charge", lambda: ran.append("charge"))

    family = make_family("once", work)
    job = await producer.enqueue("work", [], family="once")
    async with working(redis_url, family) as first:
        await until(lambda: ran)
        first.drain()
        await end_leases(producer)
        async with working(redis_url, family):
            await job.result(30)
            gate.set()
            await until(lambda: not first.workers[0].running)
    assert ran == ["start", "start", "charge"]


# ---------------------------------------------------------------- results


class Receipt(PayloadModel):
    amount: Decimal
    at: datetime
    blob: bytes


@pytest.mark.parametrize(
    ("returns", "value", "given"),
    [
        (None, {"id": 7, "at": datetime(2030, 1, 1, tzinfo=UTC)}, {"id": 7, "at": "2030-01-01T00:00:00Z"}),
        (None, None, None),
        (None, ("a", 1.5), ["a", 1.5]),
        (bytes, b"\xff\x00", b"\xff\x00"),
        (uuid.UUID, uuid.UUID(int=5), uuid.UUID(int=5)),
        (list[Receipt], [Receipt(amount=Decimal("0.10"), at=datetime(2030, 1, 1, tzinfo=UTC), blob=b"\xfe")], ...),
    ],
)
async def test_the_result_is_the_same_fresh_and_stored(
    redis_url: str, producer: Producer, returns: Any, value: Any, given: Any
) -> None:
    results: list[Any] = []
    ran: list[int] = []

    async def step() -> Any:
        ran.append(1)
        return value

    async def work(ctx: JobContext) -> None:
        results.append(await ctx.once("step", step, returns=returns))
        results.append(await ctx.once("step", step, returns=returns))
        if ctx.job_try == 1:
            raise RuntimeError

    await producer.enqueue("work", [], family="once")
    async with working(redis_url, make_family("once", work, backoff=Fixed(0))):
        await until(lambda: len(results) == 4)
    assert results == [value if given is ... else given] * 4
    assert ran == [1]


async def test_plain_functions_and_those_that_give_something_to_await(redis_url: str, producer: Producer) -> None:
    async def double(n: int) -> int:
        return 2 * n

    async def work(ctx: JobContext) -> list[int]:
        return [await ctx.once("plain", lambda: 1), await ctx.once("lambda", lambda: double(2))]

    job = await producer.enqueue("work", [], family="once")
    await run_burst(redis_url, make_family("once", work))
    assert await job.result(30) == [1, 4]


async def test_a_step_asked_for_twice_at_once_runs_once(redis_url: str, producer: Producer) -> None:
    ran: Counter[str] = Counter()

    async def step(name: str) -> str:
        ran[name] += 1
        await asyncio.sleep(0.01)
        return name

    async def work(ctx: JobContext) -> list[str]:
        names = ["a", "b", "a", "c", "b"]
        return list(await asyncio.gather(*(ctx.once(name, lambda name=name: step(name)) for name in names)))

    job = await producer.enqueue("work", [], family="once")
    await run_burst(redis_url, make_family("once", work))
    assert await job.result(30) == ["a", "b", "a", "c", "b"]
    assert ran == Counter("abc")


async def test_one_round_trip_to_read_and_one_for_each_step(redis_url: str, producer: Producer) -> None:
    tries: list[int] = []

    async def work(ctx: JobContext) -> None:
        before = calls(redis_url, "evalsha", "eval")
        for name in STEPS:
            await ctx.once(name, lambda: 1)
        tries.append(calls(redis_url, "evalsha", "eval") - before)
        if ctx.job_try == 1:
            raise RuntimeError

    await producer.redis.execute_command("SCRIPT", "LOAD", "return 1")
    async with working(redis_url, make_family("once", work, backoff=Fixed(0))):
        for ended in range(2, 18, 2):
            await producer.enqueue("work", [], family="once")
            await until(lambda ended=ended: len(tries) == ended)
    # The worker's own calls may fall into the time of a job, but not into that of each.
    assert (min(tries[::2]), min(tries[1::2])) == (4, 1)


# ---------------------------------------------------------------- failures


async def test_a_step_that_fails_keeps_nothing(redis_url: str, producer: Producer) -> None:
    ran: list[str] = []

    async def work(ctx: JobContext) -> str:
        async def step(name: str) -> str:
            ran.append(name)
            if name == "ship" and ctx.job_try < 3:
                raise RuntimeError("no van")
            return name

        first = await ctx.once("charge", lambda: step("charge"))
        return first + str(await ctx.once("ship", lambda: step("ship")))

    job = await producer.enqueue("work", [], family="once")
    async with working(redis_url, make_family("once", work, backoff=Fixed(0))):
        assert await job.result(30) == "chargeship"
    assert ran == ["charge", "ship", "ship", "ship"]


@pytest.mark.parametrize("name", ["", "a\tb", "a\nb", "x" * 101])
async def test_a_step_needs_a_name(redis_url: str, producer: Producer, name: str) -> None:
    ran: list[int] = []

    async def work(ctx: JobContext) -> None:
        with pytest.raises(InvalidJob, match="is not a step's name"):
            ctx.idempotency_key(name)
        await ctx.once(name, lambda: ran.append(1))

    job = await producer.enqueue("work", [], family="once")
    await run_burst(redis_url, make_family("once", work, max_tries=1))
    with pytest.raises(JobFailed, match=r"InvalidJob: .*is not a step's name"):
        await job.result(30)
    assert ran == []


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (["x" * 150, "y" * 150], r"TooLarge: with step 'b' the job's receipts are 3\d\d bytes, the limit is 300"),
        ([object()], "PermanentError: the result of step 'a' cannot be kept"),
        ([10**4300], "PermanentError: the result of step 'a' cannot be kept: the value has an integer of more than"),
    ],
)
async def test_a_result_that_cannot_be_kept_is_not_tried_again(
    redis_url: str, producer: Producer, results: list[Any], said: str
) -> None:
    ran: list[str] = []

    async def work(ctx: JobContext) -> None:
        for name, result in zip("ab", results, strict=False):
            await ctx.once(name, lambda name=name, result=result: ran.append(name) or result)

    job = await producer.enqueue("work", [], family="once")
    await run_burst(redis_url, make_family("once", work, max_result=300, backoff=Fixed(0)))
    with pytest.raises(JobFailed, match=said):
        await job.result(30)
    assert ran == list("ab")[: len(results)]


async def test_a_redriven_dead_letter_does_not_repeat_its_steps(redis_url: str, producer: Producer) -> None:
    ran: list[str] = []
    broken = True

    async def work(ctx: JobContext) -> str:
        key = await ctx.once("charge", lambda: ran.append("charge") or ctx.idempotency_key("charge"))
        if broken:
            raise RuntimeError
        return str(key)

    async with working(redis_url, make_family("once", work, max_tries=1)):
        job = await producer.enqueue("work", [], family="once", job_id="o1")
        await in_state(job, JobState.FAILED)
        broken = False
        await Control(producer.redis, ["once"]).retry([job.id])
        await in_state(job, JobState.COMPLETED)
        assert await job.result(30) == "{once}:o1:charge"
    assert ran == ["charge"]


# ---------------------------------------------------------------- while the receipt is stored


async def test_a_cancellation_lets_the_receipt_be_stored(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The effect has happened when the time limit comes: it must not happen again."""
    ran: list[int] = []
    original = Broker.once

    async def slow(self: Broker, session: str, job_id: bytes, claim: int, receipt: bytes = b"") -> bytes | None:
        if receipt:
            await until(lambda: worker.running[job_id].stop == "timeout")
        return await original(self, session, job_id, claim, receipt)

    async def work(ctx: JobContext) -> int:
        await ctx.once("charge", lambda: ran.append(ctx.job_try))
        return ctx.job_try

    monkeypatch.setattr(Broker, "once", slow)
    async with working(redis_url, make_family("once", work, job_timeout=0.5, backoff=Fixed(0))) as supervisor:
        worker = supervisor.workers[0]
        job = await producer.enqueue("work", [], family="once")
        ended = await job.result(30)
    # In the first try, or in the next where the limit of that was over before it came to the step.
    (charged,) = ran
    assert ended == charged + 1


async def test_without_redis_a_step_waits_to_be_read_and_to_be_kept(
    redis_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    asked: list[bytes] = []
    original = Broker.once

    async def flaky(self: Broker, session: str, job_id: bytes, claim: int, receipt: bytes = b"") -> bytes | None:
        asked.append(receipt)
        if asked.count(receipt) < 3:
            raise RedisConnectionError("away")
        return await original(self, session, job_id, claim, receipt)

    async def work(ctx: JobContext) -> int:
        await ctx.once("charge", lambda: ran.append(ctx.job_try))
        return ctx.job_try

    monkeypatch.setattr(Broker, "once", flaky)
    job = await producer.enqueue("work", [], family="once")
    async with working(redis_url, make_family("once", work)):
        assert await job.result(30) == 1
    assert (ran, asked) == ([1], [b""] * 3 + [b"charge\tnull"] * 3)
