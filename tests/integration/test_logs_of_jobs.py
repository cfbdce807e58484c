"""Log lines of a running worker: each of a job has its fields, a request's id goes along, and no secret is in any."""

from __future__ import annotations

import io
import json
import logging
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from daemon.alerts.channels import Message, NotTold, open_channels
from daemon.alerts.rules import Severity
from daemon.context import JobContext
from daemon.encryption import KeyRing, generate_key
from daemon.family import Fixed
from daemon.logs import configure_logging
from daemon.payload import Payload
from daemon.producer import Producer
from daemon.secret import Secret
from daemon.settings import load_settings
from tests.console.support import API, console
from tests.engine import make_family, run_burst

PLANTED = secrets.token_hex(12)


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Everything that is logged, from DEBUG on, as it would stand in the journal."""
    stream = io.StringIO()
    configure_logging("debug", "json", stream)
    yield stream
    logging.getLogger().setLevel(logging.WARNING)


def read(lines: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


async def outer(ctx: JobContext, job: dict[str, Any]) -> None:
    logging.getLogger("handlers.example").info("looking")
    if ctx.job_try == 1:
        raise ConnectionError("gone")
    await ctx.producer.enqueue("inner", {}, family="t")


async def inner(ctx: JobContext, job: dict[str, Any]) -> None:
    await ctx.log(f"serving {ctx.request_id}")


async def test_every_line_of_a_job_has_its_fields(producer: Producer, redis_url: str, lines: io.StringIO) -> None:
    job = await producer.enqueue("outer", {}, family="t", request_id="req-7f")
    await producer.enqueue("inner", {}, family="t")
    await run_burst(redis_url, make_family("t", outer, inner, backoff=Fixed(0.01)))
    told = [line for line in read(lines) if line["logger"] in ("arqd.job", "handlers.example")]
    assert all({"job_id", "family", "function", "try"} <= line.keys() for line in told)
    own = [line for line in told if line["job_id"] == job.id]
    assert {(line["function"], line["request_id"]) for line in own} == {("outer", "req-7f")}
    assert {line["try"] for line in own} == {1, 2}
    # The job that it enqueued serves the same request; the one that came without any serves none.
    others = [line for line in told if line["message"].startswith("serving")]
    assert sorted(line["message"] for line in others) == ["serving None", "serving req-7f"]
    assert [line.get("request_id") for line in others if line["message"].endswith("f")] == ["req-7f"]
    assert [line for line in others if line["message"].endswith("None") and "request_id" in line] == []


async def test_a_request_s_id_comes_by_the_console(redis_url: str, lines: io.StringIO) -> None:
    family = make_family("t", inner)
    async with console(redis_url, family) as found:
        operator = await found.of("operator")
        body = {"function": "inner", "payload": {}, "family": "t"}
        answer = await operator.post(f"{API}/jobs", json=body, headers={"x-request-id": "req-9c"})
        assert answer.headers["x-request-id"] == "req-9c"
        odd = await operator.get(f"{API}/queues", headers={"x-request-id": "x" * 500})
        assert (odd.status_code, "x-request-id" in odd.headers) == (200, False)
    await run_burst(redis_url, family)
    assert [line["message"] for line in read(lines) if line["message"].startswith("serving")] == ["serving req-9c"]


class Login(Payload, family="t"):
    user: str
    password: Secret[str]


async def login(ctx: JobContext, job: Login) -> None:
    raise ConnectionError(f"no answer for {job.user}")


async def test_no_planted_secret_is_in_any_line(redis_url: str, lines: io.StringIO) -> None:

    key = generate_key("k")
    keyring = KeyRing.parse(key)
    settings = load_settings(
        {
            "ARQD_SMTP__USERNAME": "mailer",
            "ARQD_SMTP__PASSWORD": PLANTED,
            "ARQD_ALERTS__CHANNELS__OPS": f"json://user:{PLANTED}@127.0.0.1:1/x",
            "ARQD_SENTRY__DSN": f"https://{PLANTED}@127.0.0.1/1",
            "ARQD_DATABASE_URL": f"postgresql://arqd:{PLANTED}@127.0.0.1/x",
        }
    )
    logging.getLogger("test").warning("%r %s", settings, settings)
    family = make_family("t", login, max_tries=2, backoff=Fixed(0.01))
    async with Producer.connect(redis_url, keyring=keyring) as sealed:
        await sealed.enqueue(Login(user="ada", password=PLANTED))
        await sealed.enqueue("login", {"user": "ada", "password": {"not": PLANTED}}, family="t")
    await run_burst(redis_url, family, keyring=keyring)
    async with console(redis_url, family, keyring=keyring) as found:
        admin = await found.of("admin")
        await admin.post(f"{API}/jobs", json={"function": "login", "payload": {"user": 1, "password": PLANTED}})

    (channel,) = open_channels(settings.alerts.channels).values()
    with pytest.raises(NotTold):
        await channel.send(Message("firing", Severity.WARNING, "test", "t", "title", "body"))
    text = lines.getvalue()
    assert "no answer for ada" in text
    assert len(read(lines)) > 5
    assert PLANTED not in text
    assert key.partition(":")[2] not in text
