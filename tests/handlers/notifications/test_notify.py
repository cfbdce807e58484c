"""Notifications: stored once, handed to push and mail as the user wants it, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from daemon.errors import ConfigurationError, RedisUnavailable
from daemon.family import load_family
from daemon.job import JobState
from daemon.producer import Producer
from daemon.settings import load_settings
from daemon.testing.handlers import HandlerRun, run_handler
from daemon.testing.recording import RecordingProducer
from handlers.email.payloads import SendEmail
from handlers.email.worker import WorkerSettings as Email
from handlers.integrations.users.inbox import Inbox
from handlers.integrations.users.preferences import Preference, QuietHours
from handlers.integrations.users.store import Users
from handlers.notifications.payloads import Notified, NotifyUser
from handlers.notifications.tasks import notify_user
from handlers.notifications.worker import WorkerSettings, close_notifications, open_notifications
from handlers.push.payloads import SendPush
from handlers.push.worker import WorkerSettings as Push
from tests.engine import in_state, working
from tests.handlers.push.conftest import onesignal
from tests.handlers.push.onesignal import OneSignalServer

__all__ = ["onesignal"]

PAID = NotifyUser(user_id="ada", type="order.paid", title="Paid", body="Your order 42 is paid.", metadata={"order": 42})


class App:
    """The family with its database, and a user with a phone and a mail address."""

    def __init__(self, ctx: dict[str, Any]) -> None:
        self.ctx = ctx
        self.users: Users = ctx["notifications"].users
        self.inbox: Inbox = ctx["notifications"].inbox

    async def run(self, job: NotifyUser = PAID, job_id: str = "job", **more: Any) -> HandlerRun:
        """Run one try of a job."""
        return await run_handler(notify_user, job, settings=WorkerSettings, ctx=self.ctx, job_id=job_id, **more)


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[App]:
    ctx: dict[str, Any] = {"settings": load_settings({"ARQD_DATABASE_URL": database_url})}
    await open_notifications(ctx)
    found = App(ctx)
    await found.users.save("ada", email="ada@example.com", name="Ada", lang="fr", timezone="Asia/Tokyo")
    await found.users.add_device("ada", "phone")
    yield found
    await close_notifications(ctx)


async def test_it_is_stored_and_handed_to_push_and_mail(app: App) -> None:
    run = await app.run()
    done: Notified = run.value()
    (stored,) = await app.inbox.notifications("ada")
    assert (stored.id, stored.type, stored.title, stored.body) == (done.notification_id, PAID.type, "Paid", PAID.body)
    assert (stored.metadata, stored.read_at) == ({"order": 42}, None)
    assert not done.existed
    push, mail = run.enqueued
    assert (push.id, mail.id) == (done.push.job_id, done.email.job_id)
    assert (push.family, push.function, mail.family, mail.function) == ("push", "send_push", "email", "send_email")
    assert (push.options.get("priority"), mail.options.get("priority")) == (None, 3), "a push as its family has it"
    # What is enqueued by name is checked by the worker only: it must fit.
    sent = SendPush.model_validate(push.payload)
    assert (sent.title, sent.message, sent.priority) == ("Paid", PAID.body, "MEDIUM")
    assert sent.data == {"order": 42, "type": "order.paid", "notification_id": done.notification_id}
    letter = SendEmail.model_validate(mail.payload)
    assert (letter.to, letter.subject, letter.template, letter.lang) == (
        ("ada@example.com",),
        "Paid",
        "notification",
        "fr",
    )
    assert letter.context == {"title": "Paid", "message": PAID.body, "name": "Ada"}
    assert letter.idempotency_key == f"notification:{done.notification_id}"


async def test_a_second_time_nothing_is_done_and_the_same_is_told(app: App) -> None:
    first: Notified = (await app.run()).value()
    await app.users.prefer("ada", "push", Preference(enabled=False))
    again = await app.run(tries=1)
    assert again.value() == first.model_copy(update={"existed": True})
    assert again.enqueued == []
    assert await app.inbox.unread_count("ada") == 1


async def test_a_key_makes_one_of_two_jobs_for_one_user(app: App) -> None:
    await app.users.save("bob", email="bob@example.com")
    keyed = PAID.model_copy(update={"idempotency_key": "order-42"})
    first, second = (await app.run(keyed, "one")).value(), (await app.run(keyed, "two")).value()
    other = (await app.run(keyed.model_copy(update={"user_id": "bob"}), "three")).value()
    assert first.notification_id == second.notification_id != other.notification_id
    assert (first.existed, second.existed, other.existed) == (False, True, False)
    unkeyed = {(await app.run(PAID, job_id)).value().notification_id for job_id in ("four", "five")}
    assert len(unkeyed) == 2


async def test_what_was_stored_before_a_failure_is_handed_over_by_the_next_try(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue, calls = RecordingProducer.enqueue, []

    async def broken(self: Any, job: Any, *args: Any, **options: Any) -> Any:
        calls.append(job)
        if job == "send_email" and calls.count(job) == 1:
            raise RedisUnavailable
        return await enqueue(self, job, *args, **options)

    monkeypatch.setattr(RecordingProducer, "enqueue", broken)
    assert (await app.run()).ending == "retried"
    again = await app.run(tries=1)
    assert again.value().existed
    assert [job.function for job in again.enqueued] == ["send_push", "send_email"]
    assert await app.inbox.unread_count("ada") == 1


@pytest.mark.parametrize(
    ("channel", "preference", "why"),
    [
        ("push", Preference(enabled=False), "disabled by the user"),
        ("email", Preference(enabled=False), "disabled by the user"),
        ("email", Preference(muted=frozenset({"order.paid"})), "the user has muted order.paid"),
        ("push", Preference(muted=frozenset({"info"})), None),
    ],
)
async def test_preferences_are_kept(app: App, channel: Any, preference: Preference, why: str | None) -> None:
    await app.users.prefer("ada", channel, preference)
    run = await app.run()
    outcome = getattr(run.value(), channel)
    assert (outcome.skipped, outcome.job_id is None) == (why, why is not None)
    assert len(run.enqueued) == (1 if why else 2)
    assert await app.inbox.unread_count("ada") == 1, "in the app it is told all the same"


async def test_whom_nothing_reaches_is_told_in_the_app(app: App) -> None:
    run = await app.run(PAID.model_copy(update={"user_id": "stranger"}))
    done: Notified = run.value()
    assert (done.push.skipped, done.email.skipped) == (
        "the user has no device that takes pushes",
        "the user has no mail address",
    )
    assert run.enqueued == []
    assert await app.inbox.unread_count("stranger") == 1


async def test_the_operator_says_what_reaches_users_who_said_nothing(database_url: str, app: App) -> None:
    settings = load_settings({"ARQD_DATABASE_URL": database_url, "ARQD_NOTIFICATIONS__CHANNELS": "none"})
    ctx: dict[str, Any] = {"settings": settings}
    await open_notifications(ctx)
    try:
        await app.users.prefer("ada", "email", Preference())
        run = await App(ctx).run()
        assert [job.function for job in run.enqueued] == ["send_email"]
    finally:
        await close_notifications(ctx)
    with pytest.raises(ConfigurationError, match="ARQD_NOTIFICATIONS__CHANNELS"):
        load_settings({"ARQD_NOTIFICATIONS__CHANNELS": "push fax"})


async def test_quiet_hours_delay_what_is_not_urgent(app: App) -> None:
    # From an hour ago to an hour ahead, by the clock in Tokyo, which is never put back.
    zone = (await app.users.find("ada")).zone
    now = datetime.now(zone)
    hours = [(now + timedelta(hours=each)).time().replace(second=0, microsecond=0) for each in (-1, 1)]
    await app.users.prefer("ada", "push", Preference(quiet=QuietHours(*hours)))
    run = await app.run()
    push, mail = run.enqueued
    end = push.options["run_at"]
    assert end.astimezone(zone).time() == hours[1]
    assert run.value().push.run_at == end > datetime.now(UTC)
    assert ("run_at" in mail.options, run.value().email.run_at) == (False, None), "each channel has its own"
    urgent = await app.run(PAID.model_copy(update={"urgent": True}), "urgent")
    assert "run_at" not in urgent.enqueued[0].options
    assert SendPush.model_validate(urgent.enqueued[0].payload).priority == "HIGH"


async def test_what_is_too_long_for_a_push_is_cut_and_the_app_has_it_whole(app: App) -> None:
    long = NotifyUser(user_id="ada", title="t" * 200, body="b" * 10_000, metadata={"text": "x" * 3000})
    run = await app.run(long)
    sent = SendPush.model_validate(run.enqueued[0].payload)
    assert (len(sent.message), sent.message[-1]) == (500, "…")
    assert sent.data == {"type": "info", "notification_id": run.value().notification_id}
    (stored,) = await app.inbox.notifications("ada")
    assert (stored.body, stored.metadata) == (long.body, long.metadata)


async def test_a_button_in_the_mail(app: App) -> None:
    link = {"action_url": "https://shop.example/42", "action_text": "See it"}
    run = await app.run(PAID.model_copy(update={"metadata": link}))
    assert SendEmail.model_validate(run.enqueued[1].payload).context.items() >= link.items()


@pytest.mark.parametrize(
    "fields",
    [
        {"title": "a\nb"},
        {"title": ""},
        {"body": " "},
        {"body": "a\x00b"},
        {"type": "a b"},
        {"user_id": ""},
        {"other": 1},
        *({"metadata": {"action_url": url}} for url in ("javascript:x", " data:text/html,x", "shop.example", 7, ["x"])),
    ],
)
def test_bad_payloads(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NotifyUser.model_validate({"user_id": "ada", "title": "t", "body": "b", **fields})


def test_a_bad_link_is_told_by_its_name() -> None:
    with pytest.raises(ValidationError, match="action_url is a link that begins with http://, https:// or mailto:"):
        NotifyUser(user_id="ada", title="t", body="b", metadata={"action_url": "javascript:alert(1)"})
    for url in ("https://shop.example", "http://shop.example", "mailto:shop@example.com", "", None):
        metadata = {"action_url": url}
        assert NotifyUser(user_id="ada", title="t", body="b", metadata=metadata).metadata == metadata


def test_the_seeds_names_are_taken() -> None:
    assert NotifyUser.model_validate({"userId": "ada", "title": "t", "message": "m", "type": "success"}).body == "m"


async def test_workers_of_three_families(
    redis_url: str, producer: Producer, app: App, onesignal: OneSignalServer, database_url: str, tmp_path: Path
) -> None:
    environ = {
        "ARQD_DATABASE_URL": database_url,
        "ARQD_PUSH__APP_ID": onesignal.app_id,
        "ARQD_PUSH__API_KEY": onesignal.api_key,
        "ARQD_PUSH__URL": onesignal.url,
        "ARQD_EMAIL__SPOOL_DIR": str(tmp_path / "spool"),
    }
    families = [load_family(each) for each in (WorkerSettings, Push, Email)]
    for family in families:
        family.ctx["settings"] = load_settings(environ)
    await app.users.prefer("ada", "email", Preference(quiet=_far_quiet((await app.users.find("ada")).zone)))
    job = await producer.enqueue(PAID)
    urgent = await producer.enqueue(PAID.model_copy(update={"urgent": True}))
    async with working(redis_url, *families):
        quiet, now = await job.result(60), await urgent.result(60)
        for job_id in (quiet.push.job_id, now.push.job_id, now.email.job_id):
            await in_state(producer.job(job_id), JobState.COMPLETED)
        await in_state(producer.job(quiet.email.job_id), JobState.DELAYED)
    assert sorted(each["data"]["notification_id"] for each in onesignal.sent) == sorted(
        [quiet.notification_id, now.notification_id]
    )
    (letter,) = (tmp_path / "spool").glob("*.eml")
    assert "Subject: Paid" in letter.read_text()


def _far_quiet(zone: Any) -> QuietHours:
    """Give hours that hold now and for a while."""
    now = datetime.now(zone)
    return QuietHours(*(time((now.hour + each) % 24) for each in (-6, 6)))
