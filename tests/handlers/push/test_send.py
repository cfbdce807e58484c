"""Pushes to a server that answers as OneSignal is documented to, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from daemon.errors import ConfigurationError, PermanentError, RetryAfter
from daemon.family import RateLimit, load_family
from daemon.producer import Producer
from daemon.settings import load_settings
from daemon.testing.handlers import run_handler
from handlers.integrations.users.preferences import Preference
from handlers.push.payloads import SendPush, SentPush
from handlers.push.tasks import idempotency_key, send_push
from handlers.push.worker import WorkerSettings, close_push, open_push
from tests.engine import run_burst
from tests.handlers.push.conftest import Phones

PUSH = SendPush(user_id="ada", title="Paid", message="Your order 42 is paid.", data={"order": 42})


@pytest.fixture
async def phone(phones: Phones) -> Phones:
    """With a user who has one phone."""
    await phones.users.add_device("ada", "phone")
    return phones


async def test_it_is_sent_as_documented(phones: Phones) -> None:
    for device in ("old", "phone"):
        await phones.users.add_device("ada", device)
    await phones.users.add_device("bob", "other")
    sent = SentPush.model_validate((await phones.run(PUSH)).value())
    assert (sent.message_id, sent.devices, sent.skipped) == ("message-1", 2, False)
    (request,) = phones.onesignal.requests
    assert request.headers["authorization"] == f"Key {phones.onesignal.api_key}"
    assert sorted(request.json().pop("include_subscription_ids")) == ["old", "phone"]
    assert request.json() | {"include_subscription_ids": []} == {
        "app_id": phones.onesignal.app_id,
        "include_subscription_ids": [],
        "headings": {"en": "Paid"},
        "contents": {"en": "Your order 42 is paid."},
        "data": {"order": 42},
        "priority": 5,
        "idempotency_key": str(idempotency_key("{push}:job")),
    }


@pytest.mark.parametrize(
    ("priority", "told"),
    [("HIGH", (10, None)), ("MEDIUM", (5, None)), ("low", (5, "passive"))],
)
async def test_priorities(phone: Phones, priority: str, told: tuple[int, str | None]) -> None:
    (await phone.run(SendPush(user_id="ada", title="t", message="m", priority=priority))).value()  # type: ignore[arg-type]
    (sent,) = phone.onesignal.sent
    assert (sent["priority"], sent.get("ios_interruption_level")) == told


async def test_nobody_to_send_to_is_skipped_with_a_reason(phones: Phones) -> None:
    nobody = (await phones.run(PUSH)).value()
    assert (nobody.skipped, nobody.reason) == (True, "the user has no device that takes pushes")
    await phones.users.add_device("ada", "phone")
    await phones.users.prefer("ada", "push", Preference(enabled=False))
    unwanted = (await phones.run(PUSH)).value()
    assert (unwanted.skipped, unwanted.reason) == (True, "the user has disabled pushes")
    assert phones.onesignal.requests == []


@pytest.mark.parametrize("word", ["500-done", "cut-done", "garbage-done"])
async def test_a_job_tried_again_notifies_once(phone: Phones, word: str) -> None:
    phone.onesignal.script = [word]
    assert (await phone.run(PUSH)).ending == "retried"
    again = (await phone.run(PUSH, tries=1)).value()
    assert again.message_id == "message-1"
    assert len({request.json()["idempotency_key"] for request in phone.onesignal.requests}) == 1
    assert len(phone.onesignal.sent) == 1
    (await phone.run(PUSH, "another job")).value()
    assert len(phone.onesignal.sent) == 2


@pytest.mark.parametrize("word", ["500", "cut", "garbage", *(f"proxy-{status}" for status in (408, 425, 429, 502))])
async def test_what_may_heal_is_tried_again(phone: Phones, word: str) -> None:
    phone.onesignal.script = [word] * 3
    assert [(await phone.run(PUSH, tries=tries)).ending for tries in range(3)] == ["retried", "retried", "failed"]
    assert phone.onesignal.sent == []


async def test_the_queue_waits_as_told(phone: Phones) -> None:
    phone.onesignal.script = ["429"]
    run = await phone.run(PUSH)
    assert (run.ending, run.retry_in) == ("told_to_wait", 7)
    assert isinstance(run.error, RetryAfter)
    assert run.error.scope == "queue"


async def test_one_that_always_says_to_wait_comes_to_an_end(phone: Phones) -> None:
    phone.ctx["push"].http.settings.__dict__["wait_limit"] = 0.0
    phone.onesignal.script = ["429"] * 3
    runs = [await phone.run(PUSH, tries=tries) for tries in range(3)]
    assert [run.ending for run in runs] == ["retried", "retried", "failed"]
    assert [run.retry_in for run in runs] == [7, 7, None]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("400", "must have English language content"),
        ("403", "check ARQD_PUSH__APP_ID and ARQD_PUSH"),
        ("proxy-400", "refuses the message: no reason given"),
        *((f"proxy-{status}", f"answers {status}") for status in (301, 401, 404, 405, 410, 413, 422)),
    ],
)
async def test_what_is_refused_is_permanent(phone: Phones, word: str, told: str) -> None:
    phone.onesignal.script = [word]
    run = await phone.run(PUSH)
    assert (run.ending, run.reason) == ("failed", "permanent")
    with pytest.raises(PermanentError, match=told):
        run.value()


@pytest.mark.parametrize("kind", ["unknown", "unsubscribed"])
async def test_an_empty_id_is_not_sent_and_the_devices_are_marked(phone: Phones, kind: str) -> None:
    getattr(phone.onesignal, kind).add("phone")
    run = await phone.run(PUSH)
    assert (run.ending, run.reason) == ("failed", "permanent")
    with pytest.raises(PermanentError, match="has sent nothing to 1 devices"):
        run.value()
    (device,) = await phone.users.devices("ada")
    assert device.disabled_at is not None
    assert (await phone.run(PUSH, "next")).value().skipped
    # The app says at its next start that it is there.
    getattr(phone.onesignal, kind).clear()
    await phone.users.add_device("ada", "phone")
    assert (await phone.run(PUSH, "last")).value().devices == 1


async def test_an_invalid_device_among_others_is_marked_and_the_others_get_it(phone: Phones) -> None:
    await phone.users.add_device("ada", "lost")
    phone.onesignal.unknown.add("lost")
    sent = (await phone.run(PUSH)).value()
    assert (sent.devices, sent.invalid) == (1, 1)
    assert [device.device_id for device in await phone.users.devices("ada", usable=True)] == ["phone"]


async def test_a_push_that_is_out_does_not_fail_for_a_mark(phone: Phones) -> None:
    await phone.users.add_device("ada", "lost")
    phone.onesignal.unknown.add("lost")
    refuse = (
        "CREATE TRIGGER refuse BEFORE UPDATE ON arqd_users_devices BEGIN SELECT RAISE(ABORT, 'no'); END"
        if phone.users.database.is_sqlite
        else "ALTER TABLE arqd_users_devices ADD CONSTRAINT refuse CHECK (disabled_at IS NULL) NOT VALID"
    )
    async with phone.users.database.begin() as connection:
        await connection.execute(text(refuse))
    assert (await phone.run(PUSH)).value().message_id == "message-1"


async def test_it_is_not_set_up(database_url: str) -> None:
    ctx: dict[str, Any] = {"settings": load_settings({"ARQD_DATABASE_URL": database_url})}
    await open_push(ctx)
    try:
        skipped = await run_handler(send_push, PUSH, settings=WorkerSettings, ctx=ctx)
        assert skipped.value().skipped, "whoever has no device needs no account"
        await ctx["push"].users.add_device("ada", "phone")
        run = await run_handler(send_push, PUSH, settings=WorkerSettings, ctx=ctx)
        assert (run.ending, run.reason) == ("failed", "permanent")
        with pytest.raises(PermanentError, match=r"^push is not set up: set ARQD_PUSH__APP_ID and ARQD_PUSH__API_KEY$"):
            run.value()
    finally:
        await close_push(ctx)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"ARQD_PUSH__API_KEY": "k"}, "ARQD_PUSH__APP_ID and ARQD_PUSH__API_KEY belong together"),
        ({"ARQD_PUSH__APP_ID": "shop", "ARQD_PUSH__API_KEY": "k"}, "ARQD_PUSH__APP_ID"),
        ({"ARQD_PUSH__URL": "onesignal"}, "ARQD_PUSH__URL: write a URL"),
    ],
)
def test_wrong_settings_are_told_in_one_line(environ: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        load_settings(environ)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"priority": "URGENT"},
        {"title": " "},
        {"message": ""},
        {"user_id": "a\nb"},
        {"data": {"text": "x" * 2048}},
        {"unknown": 1},
    ],
)
def test_bad_payloads(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SendPush.model_validate({"user_id": "ada", "title": "t", "message": "m", **fields})


def test_the_seeds_names_are_taken() -> None:
    assert SendPush.model_validate({"userId": "ada", "title": "t", "message": "m", "priority": "LOW"}).user_id == "ada"


def test_the_family_starts_thirty_a_second_over_all_workers() -> None:
    values = load_family(WorkerSettings).values
    assert (values.rate_limit, values.max_jobs, values.max_tries) == (RateLimit(30, per=1), 20, 3)


async def test_a_worker_sends_it(redis_url: str, producer: Producer, phone: Phones) -> None:
    family = load_family(WorkerSettings, {"backoff": "fixed 10ms"})
    family.ctx["settings"] = phone.ctx["settings"]
    phone.onesignal.script = ["cut-done", "500-done"]
    job = await producer.enqueue(PUSH)
    await run_burst(redis_url, family)
    assert (await job.result(30)).message_id == "message-1"
    assert len(phone.onesignal.sent) == 1
