"""Everything wrong that can be handed over or found in the queue: told clearly, and the worker goes on."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import InvalidJob, JobExpired, JobFailed, RedisFull, RedisRefused, RedisUnavailable, TooLarge
from daemon.inspector import Inspector
from daemon.job import JobState
from daemon.payload import Payload
from daemon.producer import Producer
from daemon.records import MAGIC
from tests.conftest import RedisServerFactory
from tests.engine import eventually, in_state, make_family, run_burst, working
from tests.marks import one_server
from tests.servers import free_port


class Add(Payload, family="t"):
    a: int
    note: str = ""


ran: list[int] = []


async def add(ctx: JobContext, job: Add) -> int:
    ran.append(job.a)
    return job.a


async def plain(ctx: JobContext, *args: Any, **kwargs: Any) -> str:
    return "ran"


async def fails(ctx: JobContext) -> None:
    raise ValueError("no")


FAMILY = make_family("t", add, plain, fails)


@pytest.fixture
async def producer(redis_url: str) -> AsyncIterator[Producer]:
    ran.clear()
    async with Producer.connect(redis_url) as producer:
        yield producer


async def plant(producer: Producer, job_id: bytes, record: bytes | None, score: float | None = None) -> None:
    """Put an entry into the queue as somebody with access to Redis would."""
    if record is not None:
        await producer.redis.set(b"arq:job:" + job_id, record)
    await producer.redis.zadd("arq:{t}", {job_id: time.time() * 1000 if score is None else score})
    await producer.redis.zadd("{t}:mark", {"1": 0})


async def goes_on(producer: Producer) -> None:
    """The worker of this family still runs other jobs."""
    assert await (await producer.enqueue(Add(a=99))).result(30) == 99


# ---------------------------------------------------------------- functions and payloads


async def test_a_job_of_an_unknown_function_is_kept_told_and_run_by_who_knows_it(
    redis_url: str, producer: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    async def later(ctx: JobContext, n: int) -> int:
        return n

    job = await producer.enqueue("later", [7], family="t", priority=2)
    async with working(redis_url, FAMILY):
        info = await in_state(job, JobState.PARKED)
        assert info.note == "no worker knows the function 'later'"
        assert (info.tries, info.crashes, info.error, info.priority) == (0, 0, None, 2)
        assert "parked: no worker knows the function 'later'" in caplog.text
        await goes_on(producer)
    async with working(redis_url, make_family("t", add, later)):
        assert await job.result(30) == 7
    assert (await job.info()).note is None


async def test_a_payload_with_an_unknown_field_does_not_leave_the_producer(producer: Producer) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        await producer.enqueue(Add(a=1, more=2))  # type: ignore[call-arg]
    assert await producer.redis.dbsize() == 0


@pytest.mark.parametrize(
    "fields",
    [
        *({"a": 1, "more": "4711"}, {"a": "4711x"}, {}, {"a": 1, "note": {"x": "4711"}}),
        {"a": "4711x", "note": "long" * 10_000},
    ],
    ids=lambda fields: str(fields)[:40],
)
async def test_by_name_a_payload_that_does_not_fit_is_a_dead_letter_at_once(
    redis_url: str, producer: Producer, fields: Any
) -> None:
    job = await producer.enqueue("add", fields, family="t")
    await run_burst(redis_url, FAMILY)
    with pytest.raises(JobFailed) as caught:
        await job.result(30)
    assert (caught.value.type, caught.value.reason) == ("ValidationError", "payload")
    assert "4711" not in caught.value.message + caught.value.traceback
    info = await job.info()
    assert (info.state, info.payload, info.tries) == (JobState.FAILED, fields, 1)
    assert len(info.history) == 1
    assert ran == []


async def test_an_integer_too_long_to_be_read_does_not_leave_the_producer(producer: Producer) -> None:
    for call in (
        producer.enqueue(Add(a=10**4300)),
        producer.enqueue("add", {"a": 10**4300}, family="t"),
        producer.enqueue_many([Add(a=1), Add(a=10**4300)]),
    ):
        with pytest.raises(InvalidJob, match="the payload has an integer of more than 4,300 digits"):
            await call
    assert await producer.redis.dbsize() == 0


async def test_a_payload_of_ten_megabytes_is_refused_with_what_to_do(producer: Producer) -> None:
    for call in (
        producer.enqueue(Add(a=1, note="x" * 10_000_000)),
        producer.enqueue("add", {"a": 1, "note": "x" * 10_000_000}, family="t"),
        producer.enqueue_many([Add(a=1), Add(a=1, note="x" * 10_000_000)]),
    ):
        with pytest.raises(TooLarge, match=r"payload is 10,000,\d+ bytes, the limit is 1,000,000.* raise max_payload"):
            await call
    assert await producer.redis.dbsize() == 0


async def test_a_wrong_priority_is_refused_with_the_names(producer: Producer) -> None:
    for wrong in (0, 11, "sooner", 2.5, True):
        with pytest.raises(InvalidJob, match=r"use 1 \(first\) to 10 \(last\), or critical=1"):
            await producer.enqueue(Add(a=1), priority=wrong)  # type: ignore[arg-type]
    assert await producer.redis.dbsize() == 0


async def test_a_run_at_in_the_past_runs_at_once_and_a_naive_one_is_refused(redis_url: str, producer: Producer) -> None:
    async with working(redis_url, FAMILY):
        job = await producer.enqueue(Add(a=1), run_at=datetime.now(UTC) - timedelta(days=400))
        assert await job.result(30) == 1
    with pytest.raises(InvalidJob, match="no time zone"):
        await producer.enqueue(Add(a=1), run_at=datetime.now())  # noqa: DTZ005


# ---------------------------------------------------------------- strange entries in the queue


class TouchesAFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


async def test_a_pickle_is_a_dead_letter_and_never_decoded(redis_url: str, producer: Producer, tmp_path: Path) -> None:
    bomb = tmp_path / "touched"
    job = {"t": None, "f": "plain", "a": (TouchesAFile(bomb),), "k": {}, "et": 1}
    async with working(redis_url, FAMILY):
        await plant(producer, b"{t}:pickle", pickle.dumps(job))
        info = await in_state(producer.job("t:pickle"), JobState.FAILED)
        assert info.error is not None
        assert (info.error["type"], info.error["reason"]) == ("Unreadable", "unreadable")
        with pytest.raises(JobFailed, match="Unreadable"):
            await producer.job("t:pickle").result(30)
        await goes_on(producer)
        await Inspector(producer.redis, ["t"]).jobs("t", JobState.FAILED)
        assert await Control(producer.redis, ["t"]).retry(["t:pickle"]) == {"t:pickle": "retried"}
        await in_state(producer.job("t:pickle"), JobState.FAILED)
    assert not bomb.exists()


def record(body: bytes = b"[]", function: bytes = b"plain", header: bytes = b"518bcfe56800") -> bytes:
    return MAGIC + header + b" " + function + b"\t\n" + body


HUGE = b"9" * 25
UNREADABLE = {
    "nothing": b"",
    "garbage": b"\x00\xff\xfe garbage",
    "half a header": b"q518b",
    "no numbers": record(header=b"x y z"),
    "a function that is not text": record(function=b"\xff\xfe"),
    "a body that is not json": record(b"{"),
    "a body of another shape": record(b'1,"k":2'),
    "options that are no mapping": record(b'[],"o":7'),
    "a time beyond all calendars": record(header=b"5" + HUGE),
    "a time of thousands of digits": record(header=b"5" + b"9" * 5000),
}


@pytest.mark.parametrize("raw", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_an_entry_nobody_can_read_is_a_dead_letter(redis_url: str, producer: Producer, raw: bytes) -> None:
    async with working(redis_url, FAMILY):
        await plant(producer, b"{t}:strange", raw)
        info = await in_state(producer.job("t:strange"), JobState.FAILED)
        assert info.error is not None
        assert info.error["reason"] in ("unreadable", "payload")
        assert [found.id for found in await Inspector(producer.redis, ["t"]).jobs("t", "failed")] == ["t:strange"]
        await goes_on(producer)
        assert await Control(producer.redis, ["t"]).remove(["t:strange"]) == {"t:strange": "removed"}


ODD = {
    "a timeout beyond all measure": record(header=b"5 1700000000000 " + HUGE + b" 0"),
    "a deadline beyond all measure": record(header=b"5 1700000000000 0 " + HUGE),
    "a level that is none": record(header=b"77 1700000000000 0 0"),
    "a negative timeout": record(header=b"5 1700000000000 -5 0"),
    "tries that are no number": record(b'[],"o":{"n":"many"}', b"fails"),
    "a backoff that is none": record(b'[],"o":{"b":5}', b"fails"),
    "tags that are none": record(b'[],"o":{"g":5}', b"fails"),
    "a function nobody could call": record(function=b"a\x1b[31m\nb"),
}


@pytest.mark.parametrize("raw", ODD.values(), ids=ODD.keys())
async def test_odd_values_in_an_entry_stop_nobody(redis_url: str, producer: Producer, raw: bytes) -> None:
    async with working(redis_url, FAMILY):
        await plant(producer, b"{t}:odd", raw)

        async def settled() -> bool:
            return await producer.job("t:odd").status() not in (JobState.WAITING, JobState.ACTIVE)

        await eventually(settled)
        for state in (JobState.COMPLETED, JobState.FAILED, JobState.DELAYED, JobState.EXPIRED):
            await Inspector(producer.redis, ["t"]).jobs("t", state)
        await goes_on(producer)


async def test_an_id_that_is_not_text_is_a_dead_letter(redis_url: str, producer: Producer) -> None:
    inspector = Inspector(producer.redis, ["t"])
    async with working(redis_url, FAMILY):
        await plant(producer, b"{t}:\xff\xfe", record())
        await plant(producer, b"{t}:\xff\xfd", b"garbage")
        await plant(producer, b"{t}:\xff\xfc", None)
        await goes_on(producer)

        async def settled() -> bool:
            stats = await inspector.queue("t")
            return stats.waiting + stats.active == 0

        await eventually(settled)
        stats = await inspector.queue("t")
        assert (stats.completed, stats.failed, stats.expired) == (2, 1, 1)
        for state in (JobState.COMPLETED, JobState.FAILED, JobState.EXPIRED):
            json.dumps([info.id for info in await inspector.jobs("t", state)])
        await goes_on(producer)


async def test_an_id_without_its_payload_expires(redis_url: str, producer: Producer) -> None:
    job = await producer.enqueue(Add(a=1))
    await producer.redis.delete("arq:job:" + job.job_id)
    await run_burst(redis_url, FAMILY)
    with pytest.raises(JobExpired, match="its payload is gone"):
        await job.result(30)
    assert await job.status() is JobState.EXPIRED


@pytest.mark.parametrize("score", ["-inf", "+inf", "0", "-1", "1e300", "-1e300"])
async def test_a_score_out_of_every_band_stops_nobody(redis_url: str, producer: Producer, score: str) -> None:
    async with working(redis_url, FAMILY):
        await plant(producer, b"{t}:odd", record(), float(score))
        await goes_on(producer)
        await producer.job("t:odd").status()
        await Inspector(producer.redis, ["t"]).queue("t")
        await Inspector(producer.redis, ["t"]).backlog("t")


@pytest.mark.parametrize(
    ("key", "write"),
    [
        ("arq:job:{t}:odd", ("hset", "x", "1")),
        ("arq:retry:{t}:odd", ("set", "many")),
        ("arq:retry:{t}:odd", ("hset", "x", "1")),
        ("arq:in-progress:{t}:odd", ("hset", "x", "1")),
    ],
)
async def test_a_neighbouring_key_of_another_kind_stops_nobody(
    redis_url: str, producer: Producer, key: str, write: tuple[str, ...]
) -> None:
    async with working(redis_url, FAMILY):
        await producer.redis.execute_command(write[0], key, *write[1:])
        await plant(producer, b"{t}:odd", None if key.startswith("arq:job") else record())
        await goes_on(producer)

        async def settled() -> bool:
            return await producer.job("t:odd").status() in (JobState.COMPLETED, JobState.EXPIRED)

        await eventually(settled)


# ---------------------------------------------------------------- Redis


@one_server
async def test_redis_refusing_the_password(redis_server: RedisServerFactory) -> None:
    server = redis_server(password="right")
    async with Producer.connect(f"redis://:wr0ng@127.0.0.1:{server.port}") as producer:
        with pytest.raises(RedisRefused) as caught:
            await producer.enqueue(Add(a=1))
    assert "check the user name, the password and its permissions" in str(caught.value)
    assert "wr0ng" not in str(caught.value)


@one_server
async def test_redis_not_permitting_the_user(redis_server: RedisServerFactory) -> None:
    server = redis_server()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">secret1", "~*", "+@read", "+@connection")
    async with Producer.connect(f"redis://reader:secret1@127.0.0.1:{server.port}") as producer:
        with pytest.raises(RedisRefused, match="permissions"):
            await producer.enqueue(Add(a=1))


async def test_redis_not_there() -> None:
    async with Producer.connect(f"redis://127.0.0.1:{free_port()}") as producer:
        with pytest.raises(RedisUnavailable, match="check ARQD_REDIS_URL and that the server runs"):
            await producer.enqueue(Add(a=1))


@one_server
async def test_redis_full(redis_server: RedisServerFactory) -> None:
    server = redis_server(maxmemory_policy="noeviction")
    async with Producer.connect(server.url) as producer, working(server.url, FAMILY):
        job = await producer.enqueue(Add(a=1), delay=0.3)
        with server.client() as client:
            client.config_set("maxmemory", "1")
            with pytest.raises(RedisFull, match="nothing was written; free memory or raise maxmemory"):
                await producer.enqueue(Add(a=2), job_id="two")

            async def ended() -> bool:
                return await job.status() is JobState.COMPLETED

            await eventually(ended)
            client.config_set("maxmemory", "0")
        assert await producer.job("t:two").status() is JobState.NOT_FOUND
        assert (await producer.enqueue(Add(a=2), job_id="two")).created
        await goes_on(producer)
