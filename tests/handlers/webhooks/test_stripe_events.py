"""Events of Stripe: signatures made by Stripe's own library, each event handled once, on both databases."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import stripe
from pydantic import ValidationError
from sqlalchemy import Column, Integer, MetaData, Table, Text, func, select

from daemon.context import JobContext
from daemon.errors import ConfigurationError
from daemon.testing.handlers import HandlerRun, run_handler
from handlers.integrations.database import Database
from handlers.webhooks import stripe_events
from handlers.webhooks.payloads import ProcessStripeEvent
from handlers.webhooks.stripe_events import BadSignature, StripeService, on_stripe_event, verify_signature
from handlers.webhooks.worker import WorkerSettings

SECRET = "whsec_" + secrets.token_hex(16)
effects = Table("effects", MetaData(), Column("id", Integer, primary_key=True), Column("event", Text))
BODY = json.dumps({"id": "evt_1", "type": "invoice.paid", "data": {"object": {"id": "in_1"}}})


def signed(body: str, at: float, secret: str = SECRET) -> str:
    made = stripe.WebhookSignature._compute_signature(f"{int(at)}.{body}", secret)
    return f"t={int(at)},v1={made}"


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe_events, "_handlers", {})


@pytest.fixture
async def made(database: Database, handlers: None) -> Database:
    async with database.begin() as connection:
        await connection.run_sync(effects.metadata.create_all)
    return database


async def handle(database: Database, *secrets: str, **fields: Any) -> HandlerRun:
    job = ProcessStripeEvent(**{"event_id": "evt_1", "event_type": "invoice.paid", "event_data": {}, **fields})
    ctx = {"stripe_events": StripeService(database, secrets)}
    return await run_handler(stripe_events.process_stripe_event, job, settings=WorkerSettings, ctx=ctx)


async def count(database: Database) -> int:
    async with database.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(effects))).scalar_one())


async def test_an_event_is_handled_once(made: Database) -> None:
    @on_stripe_event("invoice.paid")
    async def paid(ctx: Any, event: Any, connection: Any) -> None:
        await connection.execute(effects.insert().values(event=event.id))

    runs = await asyncio.gather(*(handle(made) for _ in range(8)))
    outcomes = sorted(run.value().outcome for run in runs)
    assert outcomes == ["duplicate"] * 7 + ["handled"]
    assert len({run.value().handled_at for run in runs}) == 1
    assert await count(made) == 1


async def test_a_handler_that_fails_leaves_nothing_and_runs_again(made: Database) -> None:
    failures = [OSError("away")]

    @on_stripe_event("invoice.paid")
    async def paid(ctx: Any, event: Any, connection: Any) -> None:
        await connection.execute(effects.insert().values(event=event.id))
        if failures:
            raise failures.pop()

    failed = await handle(made)
    assert (failed.ending, failed.retry_in) == ("retried", 5)
    assert await count(made) == 0
    assert (await handle(made)).value().outcome == "handled"
    assert await count(made) == 1


async def test_an_event_nobody_handles_is_kept_until_somebody_does(made: Database) -> None:
    assert (await handle(made, event_data={"object": 1})).value().outcome == "kept"
    assert (await handle(made)).value().outcome == "kept"

    @on_stripe_event("invoice.paid")
    async def paid(ctx: Any, event: Any, connection: Any) -> None:
        await connection.execute(effects.insert().values(event=event.id))

    assert (await handle(made)).value().outcome == "handled"


async def test_a_signed_event_is_what_was_signed(made: Database) -> None:
    seen: list[Any] = []

    @on_stripe_event("invoice.paid")
    async def paid(ctx: Any, event: Any, connection: Any) -> None:
        seen.append(event.data)

    header = signed(BODY, time.time())
    run = await handle(made, SECRET, body=BODY, signature=header, event_data={"object": "forged"})
    assert run.value().outcome == "handled"
    assert seen == [{"object": {"id": "in_1"}}]


@pytest.mark.parametrize("hours", [-1, 0, 30])
async def test_however_late_a_job_is_enqueued_and_runs(
    made: Database, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """An outbox keeps it while Redis is away; a producer of another kind does not tell when it came."""
    now = datetime.now(UTC)
    fields: dict[str, Any] = {"body": BODY, "signature": signed(BODY, now.timestamp())}
    if hours < 0:
        fields = {"body": BODY, "signature": signed(BODY, now.timestamp() - 3600), "received_at": now}
    monkeypatch.setattr(JobContext, "enqueue_time", now + timedelta(hours=hours))
    assert (await handle(made, SECRET, **fields)).ending == "completed"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "has no signature"),
        ({"body": BODY, "signature": lambda: signed(BODY, time.time(), "whsec_other")}, "not signed with"),
        ({"body": BODY + " ", "signature": lambda: signed(BODY, time.time())}, "not signed with"),
        ({"body": BODY, "signature": "nonsense"}, "is not t="),
        ({"body": BODY, "signature": lambda: signed(BODY, 1)}, "more than 300 s"),
        ({"body": "[]", "signature": lambda: signed("[]", time.time())}, "no event"),
        (
            {"body": BODY, "signature": lambda: signed(BODY, time.time()), "event_id": "evt_2"},
            "not those of the signed body",
        ),
    ],
    ids=["none", "other secret", "changed", "nonsense", "old", "no event", "other id"],
)
async def test_what_is_not_signed_by_stripe_is_refused(made: Database, fields: dict[str, Any], told: str) -> None:
    # Made only now: collecting the tests was long ago.
    made_now = {name: value() if callable(value) else value for name, value in fields.items()}
    run = await handle(made, SECRET, **made_now)
    assert (run.ending, run.reason) == ("failed", "permanent")
    with pytest.raises(BadSignature, match=told):
        run.value()


def test_either_secret_of_a_rotation_is_enough() -> None:
    header = signed(BODY, 1000)
    verify_signature(BODY.encode(), header, ["whsec_new", SECRET], 1200)
    with pytest.raises(BadSignature):
        verify_signature(BODY.encode(), header, ["whsec_new"], 1200)


def test_two_handlers_of_one_type_are_a_mistake(handlers: None) -> None:
    on_stripe_event("charge.refunded")(SimpleNamespace(number=1))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="two handlers"):
        on_stripe_event("charge.refunded")(SimpleNamespace(number=2))  # type: ignore[arg-type]


@pytest.mark.parametrize("fields", [{"event_id": "1"}, {"event_type": "A B"}, {"body": "{}"}, {"signature": "t=1"}])
def test_bad_payloads(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ProcessStripeEvent(**{"event_id": "evt_1", "event_type": "x", "event_data": {}, **fields})
