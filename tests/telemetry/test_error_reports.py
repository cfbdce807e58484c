"""Sentry, by its own library and against a receiver: what is told of a failed job, and what never is."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sentry_sdk

from daemon.context import JobContext
from daemon.encryption import KeyRing
from daemon.error_reports import report_to
from daemon.errors import ConfigurationError, PermanentError
from daemon.family import Fixed
from daemon.instruments import remove_instruments
from daemon.producer import Producer
from tests.engine import make_family, run_burst, until
from tests.handlers.receiver import Receiver, Request

SECRET = secrets.token_hex(12)


async def hopeless(ctx: JobContext, job: dict[str, Any]) -> None:
    password = job["password"]
    raise PermanentError(f"no user of {len(password)} letters")


async def flaky(ctx: JobContext, job: dict[str, Any]) -> None:
    if ctx.job_try == 1:
        raise ConnectionError("gone")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as found:
        yield found
    remove_instruments()
    # Without its integrations: they would stay for every other test of this process.
    sentry_sdk.init(default_integrations=False, auto_enabling_integrations=False)


def events(receiver: Receiver) -> list[dict[str, Any]]:
    """Read the events of what came: each line of an envelope is JSON, an item's head before the item."""
    return [event for request in receiver.taken for event in _events(request)]


def _events(request: Request) -> list[dict[str, Any]]:
    body = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
    lines = [json.loads(line) for line in body.splitlines() if line]
    return [item for head, item in itertools.pairwise(lines) if head.get("type") == "event"]


def dsn(receiver: Receiver) -> str:
    return f"http://{secrets.token_hex(16)}@127.0.0.1:{receiver.port}/42"


async def test_a_dead_letter_is_reported_with_its_tags_and_without_its_payload(
    receiver: Receiver, producer: Producer, redis_url: str
) -> None:
    report_to(dsn(receiver), environment="test")
    payload = {"password": SECRET}
    job = await producer.enqueue("hopeless", payload, family="t", tags=["vip"], request_id="req-1")
    await run_burst(redis_url, make_family("t", hopeless))
    await until(lambda: events(receiver))
    (event,) = events(receiver)
    assert receiver.taken[0].path == "/api/42/envelope/"
    assert event["tags"] == {
        "family": "t", "function": "hopeless", "job_id": job.id, "try": "1", "request_id": "req-1", "outcome": "failed",
    }  # fmt: skip
    assert event["contexts"]["job"] == {"max_tries": 5, "tags": ["vip"], "reason": "permanent"}
    assert (event["level"], event["environment"], event["transaction"]) == ("error", "test", "t/hopeless")
    (error,) = event["exception"]["values"]
    assert (error["type"], error["value"]) == ("PermanentError", "no user of 24 letters")
    assert error["stacktrace"]["frames"][-1]["function"] == "hopeless"
    assert SECRET not in json.dumps(event)


async def test_a_payload_is_told_only_where_that_is_allowed(
    receiver: Receiver, producer: Producer, redis_url: str
) -> None:
    report_to(dsn(receiver), payload=True)
    await producer.enqueue("hopeless", {"password": SECRET}, family="t")
    await run_burst(redis_url, make_family("t", hopeless))
    await until(lambda: events(receiver))
    (event,) = events(receiver)
    assert event["contexts"]["payload"]["args"] == [{"password": SECRET}]


async def test_an_encrypted_family_tells_the_type_alone(receiver: Receiver, redis_url: str) -> None:
    report_to(dsn(receiver), payload=True)
    keyring = KeyRing.parse(f"a:{base64.b64encode(secrets.token_bytes(32)).decode()}")
    async with Producer.connect(redis_url, keyring=keyring) as sealed:
        sealed._encrypts(["v"])
        await sealed.enqueue("hopeless", {"password": SECRET}, family="v")
    await run_burst(redis_url, make_family("v", hopeless, encrypted=True), keyring=keyring)
    await until(lambda: events(receiver))
    (event,) = events(receiver)
    assert event["message"] == "PermanentError in hopeless"
    assert "24 letters" not in json.dumps(event)
    assert SECRET not in json.dumps(event)


@pytest.mark.parametrize("wanted", [False, True])
async def test_tries_that_are_made_again_are_reported_if_wanted(
    receiver: Receiver, producer: Producer, redis_url: str, wanted: bool
) -> None:
    report_to(dsn(receiver), retries=wanted)
    await producer.enqueue("flaky", {}, family="t")
    await run_burst(redis_url, make_family("t", flaky, backoff=Fixed(0.01)))
    if wanted:
        await until(lambda: events(receiver))
    found = [(event["level"], event["tags"]["outcome"]) for event in events(receiver)]
    assert found == ([("warning", "retried")] if wanted else [])


def test_a_wrong_dsn_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="ARQD_SENTRY__DSN"):
        report_to("https://no-key.example")
