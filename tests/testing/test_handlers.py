"""One try of one handler, without Redis."""

from __future__ import annotations

import asyncio
import os
import time
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.context import JobContext
from daemon.encryption import KeyRing, generate_key
from daemon.errors import ArqdError, ConfigurationError, InvalidJob, PermanentError, RetryAfter
from daemon.family import FamilySettings, Fixed, func
from daemon.payload import Payload, PayloadModel
from daemon.secret import Secret
from daemon.testing.handlers import HandlerRun, run_handler


class Total(PayloadModel):
    cents: int


class Invoice(Payload, family="billing", function="invoice", returns=Total):
    cents: int
    way: str = "well"


async def invoice(ctx: JobContext, job: Invoice) -> Total:
    await ctx.progress(50, "half way")
    await ctx.log(f"{job.cents} cents")
    await ctx.producer.enqueue("remind", {"cents": job.cents}, family="billing", delay="1d")
    if job.way == "value":
        raise ValueError("no")
    if job.way == "permanent":
        raise PermanentError("never")
    if job.way == "wait":
        raise RetryAfter(30)
    if job.way == "impatient":
        raise RetryAfter(30, "group", patience=3600)
    if job.way == "hang":
        await asyncio.sleep(3600)
    return Total(cents=job.cents)


class WorkerSettings(FamilySettings):
    family = "billing"
    functions = (invoice,)
    max_tries = 2
    backoff = Fixed(7)
    permanent = (KeyError,)


async def test_told_to_wait_for_longer_than_its_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient, patient = Invoice(cents=1, way="impatient"), Invoice(cents=1, way="wait")
    told = await run_handler(invoice, impatient, settings=WorkerSettings, tries=1)
    assert (told.ending, told.retry_in) == ("told_to_wait", 30)
    # Enqueued an hour and a second ago.
    monkeypatch.setattr("daemon.testing.handlers.time", SimpleNamespace(time=lambda: time.time() - 3601))
    counted = await run_handler(invoice, impatient, settings=WorkerSettings)
    assert (counted.ending, counted.retry_in) == ("retried", 30)
    last = await run_handler(invoice, impatient, settings=WorkerSettings, tries=1)
    assert (last.ending, last.reason) == ("failed", "tries")
    assert (await run_handler(invoice, patient, settings=WorkerSettings, tries=1)).ending == "told_to_wait"


async def test_completed() -> None:
    run = await run_handler(invoice, Invoice(cents=5))
    assert (run.ending, run.result, run.error) == ("completed", Total(cents=5), None)
    assert (run.progress, run.logs) == ([(50, "half way")], ["5 cents"])
    (job,) = run.enqueued
    assert (job.function, job.payload, job.options) == ("remind", {"cents": 5}, {"delay": "1d"})
    assert run.value() == Total(cents=5)


async def test_decisions_are_the_familys() -> None:
    first = await run_handler(invoice, Invoice(cents=5, way="value"), settings=WorkerSettings)
    assert (first.ending, first.retry_in, str(first.error)) == ("retried", 7, "no")
    with pytest.raises(ValueError, match="no"):
        first.value()
    last = await run_handler(invoice, Invoice(cents=5, way="value"), settings=WorkerSettings, tries=1)
    assert (last.ending, last.reason, last.retry_in) == ("failed", "tries", None)
    more = await run_handler(invoice, Invoice(cents=5, way="value"), settings=WorkerSettings, tries=1, max_tries=9)
    assert more.ending == "retried"
    never = await run_handler(invoice, Invoice(cents=5, way="permanent"))
    assert (never.ending, never.reason) == ("failed", "permanent")
    told = await run_handler(invoice, Invoice(cents=5, way="wait"))
    assert (told.ending, told.retry_in) == ("told_to_wait", 30)
    crashed = await run_handler(invoice, Invoice(cents=5), crashes=3)
    assert (crashed.ending, crashed.reason, crashed.logs) == ("failed", "crashes", [])


async def test_time_limit() -> None:
    run = await run_handler(invoice, Invoice(cents=5, way="hang"), timeout=0.05)
    assert run.ending == "retried"
    assert isinstance(run.error, TimeoutError)


async def test_a_payload_is_validated_on_both_sides() -> None:
    run = await run_handler(invoice, {"cents": "many"})
    assert (run.ending, run.reason) == ("failed", "payload")
    assert "cents" in str(run.error)
    with pytest.raises(InvalidJob, match="unknown options"):
        await run_handler(invoice, Invoice(cents=5), tires=3)


async def test_a_handler_of_another_function() -> None:
    async def other(ctx: JobContext, job: Invoice) -> None: ...

    with pytest.raises(ConfigurationError, match="has no function"):
        await run_handler(other, Invoice(cents=5), settings=WorkerSettings)
    with pytest.raises(ConfigurationError, match="is for the function 'invoice'"):
        await run_handler(func(other, name="other"), Invoice(cents=5))


async def test_context() -> None:
    seen: dict[str, Any] = {}

    async def look(ctx: JobContext, a: int, b: str) -> None:
        seen.update(
            args=(a, b),
            job_try=ctx.job_try,
            last=ctx.is_last_try,
            crashes=ctx.crashes,
            error=(ctx.previous_error or {}).get("message"),
            tags=ctx.tags,
            opened=ctx["smtp"],
            family=ctx.family,
        )

    again = {"tries": 2, "max_tries": 3, "crashes": 1, "previous_error": ValueError("before")}
    run = await run_handler(look, [1, "x"], ctx={"smtp": "open"}, tags=["a"], **again)  # type: ignore[arg-type]
    assert run.ending == "completed"
    assert seen == {
        "args": (1, "x"),
        "job_try": 3,
        "last": True,
        "crashes": 1,
        "error": "before",
        "tags": ["a"],
        "opened": "open",
        "family": "test",
    }


async def test_steps() -> None:
    done: list[str] = []

    async def pay(ctx: JobContext) -> str:
        charge: str = await ctx.once("charge", lambda: done.append("charge") or "ch_1")
        await ctx.once("mail", lambda: done.append("mail"))
        return charge

    first = await run_handler(func(pay, name="pay"))
    assert (first.result, first.receipts, done) == ("ch_1", {"charge": "ch_1", "mail": None}, ["charge", "mail"])
    done.clear()
    again = await run_handler(func(pay, name="pay"), receipts={"charge": "ch_0"})
    assert (again.result, done) == ("ch_0", ["mail"])


async def test_there_is_no_redis_unless_given() -> None:
    async def ask(ctx: JobContext) -> Any:
        return await ctx.redis.get("key")

    class Fake:
        async def get(self, key: str) -> str:
            return f"value of {key}"

    without = await run_handler(func(ask, name="ask"))
    assert without.ending == "retried"
    assert isinstance(without.error, ArqdError)
    assert (await run_handler(func(ask, name="ask"), redis=Fake())).result == "value of key"


def _pid() -> int:
    time.sleep(0)
    return os.getpid()


async def test_plain_functions_and_processes() -> None:
    def plain(ctx: JobContext, n: int) -> int:
        return n + 1

    async def far(ctx: JobContext) -> bool:
        return await ctx.run_in_process(_pid) != os.getpid()

    assert (await run_handler(func(plain, name="plain"), [1])).result == 2
    assert (await run_handler(func(far, name="far"))).result is True


async def test_cancelling_it_cancels_the_handler() -> None:
    ended = asyncio.Event()

    async def hang(ctx: JobContext) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    task: asyncio.Task[HandlerRun] = asyncio.create_task(run_handler(func(hang, name="hang")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(ended.wait(), 60)


class Login(Payload, family="desk", function="log_in"):
    name: str
    password: Secret[str]


async def log_in(ctx: JobContext, job: Login) -> str:
    return job.password[::-1]


async def test_a_handler_gets_what_is_in_its_secret_fields() -> None:
    ring = KeyRing.parse(generate_key("test"))
    run = await run_handler(log_in, Login(name="ada", password="sesame"), keyring=ring)
    assert run.value() == "emases"


class Open(Payload, family="vault", encrypted=True):
    pin: Secret[str]


class VaultSettings(FamilySettings):
    family = "vault"
    encrypted = True


async def open_(ctx: JobContext, job: Open) -> str:
    await ctx.log("a line")
    await ctx.progress(50, "half")
    assert await ctx.once("step", lambda: "kept") == "kept"
    return job.pin


async def test_what_an_encrypted_familys_handler_leaves_is_told_in_clear() -> None:
    settings = type("Settings", (VaultSettings,), {"functions": [func(open_, name="open")]})
    ring = KeyRing.parse(generate_key("test"))
    done = await run_handler(open_, Open(pin="4711"), settings=settings, keyring=ring)
    assert (done.value(), done.logs, done.progress) == ("4711", ["a line"], [(50, "half")])
    assert done.receipts == {"step": "kept"}
