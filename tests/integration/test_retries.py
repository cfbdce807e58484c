"""After a failed try: once more by the policy, or a dead letter."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from arq import Retry

from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import JobFailed, PermanentError
from daemon.family import func
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.payload import Payload, PayloadModel
from daemon.producer import Producer
from daemon.retry import Exponential, Fixed
from tests.engine import in_state, make_family, run_burst, working


class Bill(PayloadModel):
    price: Decimal
    key: UUID
    paid: datetime | None


class Pay(Payload, family="t", returns=list[Bill]):
    bill: Bill
    times: int


# ---------------------------------------------------------------- retries


async def test_every_error_is_retried_by_the_policy_until_the_tries_are_used_up(
    redis_url: str, producer: Producer
) -> None:
    tries: list[int] = []

    async def fail(ctx: JobContext, why: str) -> None:
        tries.append(ctx.job_try)
        raise ValueError(f"{why} {ctx.job_try}")

    job = await producer.enqueue("fail", ["try"], family="t", priority=2)
    await run_burst(redis_url, make_family("t", fail, max_tries=3, backoff=Fixed(0.01)))
    with pytest.raises(JobFailed, match="ValueError: try 3") as caught:
        await job.result(30)
    assert tries == [1, 2, 3]
    assert (caught.value.reason, caught.value.tries) == ("tries", 3)
    info = await job.info()
    assert [(line["try"], line["type"], line["message"]) for line in info.history] == [
        (n, "ValueError", f"try {n}") for n in (1, 2, 3)
    ]
    assert all(isinstance(line["at"], datetime) for line in info.history)
    assert (info.state, info.tries, info.priority, info.payload) == (JobState.FAILED, 3, 2, "try")


async def test_the_waits_are_the_policys(redis_url: str, producer: Producer) -> None:
    async def fail(ctx: JobContext) -> None:
        raise ValueError

    family = make_family("t", fail, func(fail, name="own", backoff=Fixed(3000)), backoff=Exponential(1000))
    async with working(redis_url, family):
        for options, waits in (
            ({"job": "fail"}, [1000, 2000]),
            ({"job": "own"}, [3000, 3000]),
            ({"job": "fail", "backoff": Exponential(500)}, [500, 1000]),
        ):
            job = await producer.enqueue(payload=[], family="t", **options)  # type: ignore[arg-type]
            for n, wait in enumerate(waits, 1):
                info = await in_state(job, JobState.DELAYED, n)
                assert info.due_at is not None
                assert abs((info.due_at - datetime.now(UTC)).total_seconds() - wait) < 20
                # Its time comes: what the clock would do, done by hand.
                await producer.redis.zadd("arq:{t}", {job.job_id: 1000 + 5 / 16})
                await producer.redis.zadd("{t}:mark", {"1": 0})


async def test_retry_with_a_wait_of_its_own_is_honoured(redis_url: str, producer: Producer) -> None:
    async def later(ctx: JobContext, defer: float | None) -> int:
        if ctx.job_try == 1:
            raise Retry(defer=defer)
        return ctx.job_try

    async with working(redis_url, make_family("t", later, backoff=Fixed(9))):
        at_once = await producer.enqueue("later", [None], family="t")
        assert await at_once.result(30) == 2
        waits = await producer.enqueue("later", [500], family="t", priority=4)
        info = await in_state(waits, JobState.DELAYED, 1)
        assert info.due_at is not None
        assert 480 < (info.due_at - datetime.now(UTC)).total_seconds() < 501
        assert info.priority == 4
        used_up = await producer.enqueue("later", [None], family="t", max_tries=1)
        with pytest.raises(JobFailed) as caught:
            await used_up.result(30)
        assert (caught.value.type, caught.value.reason) == ("Retry", "tries")


async def test_permanent_errors_are_not_tried_again(redis_url: str, producer: Producer) -> None:
    async def fail(ctx: JobContext, kind: str) -> None:
        raise {"permanent": PermanentError, "key": KeyError, "lookup": LookupError, "os": OSError}[kind](kind)

    family = make_family("t", func(fail, name="fail", permanent=(OSError,)), permanent=(KeyError,), backoff=Fixed(999))
    async with working(redis_url, family):
        for kind in ("permanent", "key", "os"):
            with pytest.raises(JobFailed) as caught:
                await (await producer.enqueue("fail", [kind], family="t")).result(30)
            assert (caught.value.reason, caught.value.tries) == ("permanent", 1)
        await in_state(await producer.enqueue("fail", ["lookup"], family="t"), JobState.DELAYED, 1)


async def test_a_dead_letter_can_be_tried_again_and_keeps_its_history(redis_url: str, producer: Producer) -> None:
    healthy = False

    async def work(ctx: JobContext) -> int:
        if not healthy:
            raise PermanentError("down")
        return ctx.job_try

    family = make_family("t", work)
    job = await producer.enqueue("work", [], family="t", job_id="one", expires=600)
    await run_burst(redis_url, family)
    inspector = Inspector(producer.redis, ["t"])
    assert await Control(producer.redis, ["t"]).retry(["t:one", "t:two"]) == {"t:one": "retried", "t:two": "not_found"}
    info = await job.info()
    assert (info.state, info.tries, len(info.history)) == (JobState.WAITING, 0, 1)
    healthy = True
    await run_burst(redis_url, family)
    assert await job.result(30) == 1
    assert await inspector.jobs("t", JobState.FAILED) == []


async def test_a_function_may_have_its_own_number_of_tries(redis_url: str, producer: Producer) -> None:
    async def fail(ctx: JobContext) -> None:
        raise ValueError

    family = make_family("t", func(fail, name="twice", max_tries=2), backoff=Fixed(0), max_tries=9)
    job = await producer.enqueue("twice", [], family="t")
    own = await producer.enqueue("twice", [], family="t", max_tries=3)
    await run_burst(redis_url, family)
    for handle, tries in ((job, 2), (own, 3)):
        with pytest.raises(JobFailed) as caught:
            await handle.result(30)
        assert caught.value.tries == tries


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "error", [NoText(), ValueError("caf\udce9"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()]
)
async def test_a_strange_exception_neither_loses_the_job_nor_its_slot(
    redis_url: str, producer: Producer, error: BaseException
) -> None:
    async def strange(ctx: JobContext) -> None:
        raise error

    async def fine(ctx: JobContext) -> str:
        return "fine"

    async with working(redis_url, make_family("t", strange, fine, max_jobs=1, max_tries=2, backoff=Fixed(0))):
        job = await producer.enqueue("strange", [], family="t")
        with pytest.raises(JobFailed) as caught:
            await job.result(30)
        assert (caught.value.type, caught.value.tries) == (type(error).__name__, 2)
        assert len((await job.info()).history) == 2
        assert await (await producer.enqueue("fine", [], family="t")).result(30) == "fine"
