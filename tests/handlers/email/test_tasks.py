"""The functions, against a real mail server and a real Redis: sent once, to whom, and what happens otherwise."""

from __future__ import annotations

import asyncio
import threading
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from daemon.errors import PermanentError, RetryAfter
from daemon.job import JobState
from handlers.email import tasks
from handlers.email.message import Composer
from handlers.email.payloads import RefusedRecipient, SendBulkEmail, SendEmail
from handlers.email.receipts import CLAIM, KEEP, Receipts
from handlers.email.settings import EmailSettings
from handlers.email.tasks import MailService, TryAgainLater, send_bulk_email, send_email
from handlers.integrations.addresses import parse_mailbox
from handlers.integrations.mail import MailRefused, MailUnavailable, SpoolSink
from tests.handlers.email.conftest import ContextFactory, ServerFactory
from tests.handlers.email.support import Context, email, pass_time

NO = "550 5.1.1 unknown"
BUSY = "451 4.3.0 busy"


async def test_sent(mail_server: ServerFactory, context: ContextFactory) -> None:
    server = await mail_server(tls="starttls")
    result = await send_email(context(server), email("Ada <ada@example.com>"))
    received = server.received[0]
    assert (received.sender, received.recipients) == ("shop@example.org", ["ada@example.com"])
    assert received.message["Message-ID"] == result.message_id
    assert received.message["From"] == "Shop <shop@example.org>"
    assert result.sent_at is not None
    assert abs(result.sent_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert set(result.model_dump(mode="json")) == {"sent_at", "message_id"}


async def test_a_repetition_is_skipped(mail_server: ServerFactory, context: ContextFactory) -> None:
    server = await mail_server()
    await send_email(context(server), email())
    again = await send_email(context(server), email())
    assert (again.skipped, again.message_id) == (True, None)
    assert again.reason is not None
    assert again.reason.startswith("sent before")
    assert len(server.received) == 1


async def test_same_key_is_the_same_message_for_any_job(mail_server: ServerFactory, context: ContextFactory) -> None:
    server = await mail_server()
    first = await send_email(context(server, "job-1"), email(idempotency_key="order-42"))
    assert (await send_email(context(server, "job-2"), email(idempotency_key="order-42"))).skipped
    other = await send_email(context(server, "job-3"), email("bob@example.com", idempotency_key="order-42"))
    assert other.message_id == first.message_id
    assert [received.recipients for received in server.received] == [["ada@example.com"], ["bob@example.com"]]


async def test_jobs_without_a_key_are_different_messages(mail_server: ServerFactory, context: ContextFactory) -> None:
    server = await mail_server()
    sent = [await send_email(context(server, name), email()) for name in ("job-1", "job-2")]
    assert sent[0].message_id != sent[1].message_id
    assert len(server.received) == 2


async def test_receipts_last_thirty_days_and_hold_no_address(
    mail_server: ServerFactory, context: ContextFactory, redis: Redis
) -> None:
    server = await mail_server()
    await send_email(context(server), email(idempotency_key="ada@example.com"))
    (key,) = await redis.keys("*")
    assert KEEP - 60 < await redis.ttl(key) <= KEEP
    assert key.startswith(b"{email}:data:sent:")
    assert b"ada@" not in key + b"".join([*await redis.hkeys(key), *await redis.hvals(key)])


async def test_two_jobs_with_one_key_at_the_same_time(mail_server: ServerFactory, context: ContextFactory) -> None:
    server = await mail_server()
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        arrived.set()
        await go_on.wait()

    server.before_data = hold
    job = email(idempotency_key="order-42")
    first = asyncio.create_task(send_email(context(server, "job-1"), job))
    await arrived.wait()
    with pytest.raises(RetryAfter) as caught:
        await send_email(context(server, "job-2"), job)
    # Its own tries are for what happens to its own message.
    assert (caught.value.seconds, caught.value.scope) == (20, "job")
    go_on.set()
    assert (await first).sent_at is not None
    assert (await send_email(context(server, "job-2"), job)).skipped
    assert len(server.received) == 1


async def test_slow_job_keeps_its_claim_for_as_long_as_it_may_run(
    mail_server: ServerFactory, context: ContextFactory, redis: Redis
) -> None:
    server = await mail_server()
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        arrived.set()
        await go_on.wait()

    server.before_data = hold
    job = email(idempotency_key="order-42")
    slow = context(server, "job-1")
    slow.remaining = 1800.0
    first = asyncio.create_task(send_email(slow, job))
    await arrived.wait()
    # Its server looks through the message for twenty-five minutes; meanwhile the same message is asked for again.
    await pass_time(redis, 1500)
    server.before_data = None
    with pytest.raises(RetryAfter):
        await send_email(context(server, "job-2"), job)
    go_on.set()
    assert (await first).sent_at is not None
    assert (await send_email(context(server, "job-2"), job)).skipped
    assert len(server.received) == 1


async def test_claim_of_a_worker_that_died_lapses(
    mail_server: ServerFactory, context: ContextFactory, redis: Redis
) -> None:
    server = await mail_server()
    await Receipts(context(server, "job-1"), "order-42").__aenter__()
    await pass_time(redis, 30 + CLAIM)
    assert (await send_email(context(server, "job-2"), email(idempotency_key="order-42"))).sent_at is not None


async def test_job_whose_worker_died_takes_up_its_own_claim(
    mail_server: ServerFactory, context: ContextFactory
) -> None:
    server = await mail_server()
    died = context(server, "job-1")
    await Receipts(died, "order-42").__aenter__()
    job = email(idempotency_key="order-42")
    with pytest.raises(RetryAfter):
        await send_email(context(server, "job-2"), job)
    assert (await send_email(context(server, "job-1"), job)).sent_at is not None


async def test_a_try_that_takes_up_a_claim_has_it_for_its_own_time(
    mail_server: ServerFactory, context: ContextFactory, redis: Redis
) -> None:
    server = await mail_server()
    died, again, other = (context(server, name) for name in ("job-1", "job-1", "job-2"))
    await Receipts(died, "order-42").__aenter__()
    (claim,) = await redis.keys("*sending*")
    await pass_time(redis, await redis.ttl(claim) - 10)
    await Receipts(again, "order-42").__aenter__()
    await pass_time(redis, 30)
    with pytest.raises(RetryAfter):
        await Receipts(other, "order-42").__aenter__()


async def test_a_try_that_has_lost_its_job_does_not_release_the_claim_of_the_next(
    mail_server: ServerFactory, context: ContextFactory
) -> None:
    server = await mail_server()
    lost, holder, other = (context(server, name) for name in ("job-1", "job-1", "job-2"))
    async with Receipts(lost, "order-42"):
        await Receipts(holder, "order-42").__aenter__()
    with pytest.raises(RetryAfter):
        await Receipts(other, "order-42").__aenter__()


async def test_only_the_holder_releases_the_claim(mail_server: ServerFactory, context: ContextFactory) -> None:
    server = await mail_server()
    lapsed, holder = context(server, "job-1"), context(server, "job-2")
    async with Receipts(lapsed, "k"):
        await lapsed.redis.delete(*await lapsed.redis.keys("*sending*"))
        await Receipts(holder, "k").__aenter__()
    with pytest.raises(RetryAfter):
        await Receipts(context(server, "job-3"), "k").__aenter__()


async def test_some_refused_for_good(mail_server: ServerFactory, context: ContextFactory) -> None:
    server = await mail_server(replies={"no@example.com": NO})
    result = await send_email(context(server), email(["ada@example.com", "no@example.com"]))
    assert result.refused == (RefusedRecipient(recipient="no@example.com", code=550, reply="5.1.1 unknown"),)
    assert result.sent_at is not None
    assert server.received[0].recipients == ["ada@example.com"]


async def test_all_refused_for_good(mail_server: ServerFactory, context: ContextFactory, redis: Redis) -> None:
    server = await mail_server(replies={"no@example.com": NO})
    with pytest.raises(PermanentError, match=r"550 5\.1\.1 unknown"):
        await send_email(context(server), email("no@example.com"))
    server.replies.clear()
    assert (await send_email(context(server), email("no@example.com"))).sent_at, "retried after the address was mended"


async def test_some_refused_for_now_are_tried_again_alone(mail_server: ServerFactory, context: ContextFactory) -> None:
    server = await mail_server(replies={"no@example.com": NO, "later@example.com": BUSY})
    job = email(["ada@example.com", "no@example.com", "later@example.com"])
    with pytest.raises(TryAgainLater, match=r"1 of 3 recipients have it, 1 refused for now: 451 4\.3\.0 busy"):
        await send_email(context(server), job)
    del server.replies["later@example.com"]
    result = await send_email(context(server), job)
    assert [received.recipients for received in server.received] == [["ada@example.com"], ["later@example.com"]]
    assert len({received.message["Message-ID"] for received in server.received}) == 1
    assert [refused.recipient for refused in result.refused] == ["no@example.com"]


async def test_refused_for_now_then_for_good(mail_server: ServerFactory, context: ContextFactory) -> None:
    server = await mail_server(replies={"later@example.com": BUSY})
    job = email(["ada@example.com", "later@example.com"])
    with pytest.raises(TryAgainLater):
        await send_email(context(server), job)
    server.replies["later@example.com"] = NO
    result = await send_email(context(server), job)
    assert result.sent_at is not None
    assert [refused.code for refused in result.refused] == [550]
    assert len(server.received) == 1


async def test_message_refused(mail_server: ServerFactory, context: ContextFactory) -> None:
    server = await mail_server(data_replies=["452 4.3.1 full", "554 5.6.0 spam"])
    with pytest.raises(MailRefused, match="452"):
        await send_email(context(server), email())
    with pytest.raises(PermanentError, match=r"554 5\.6\.0 spam"):
        await send_email(context(server), email())
    assert (await send_email(context(server), email())).sent_at is not None, "neither left a receipt or a claim"


async def test_errors_name_nobody(mail_server: ServerFactory, context: ContextFactory) -> None:
    """Mail servers quote addresses; errors stand in logs, in lists and in what alerts tell."""
    quoting = "5.1.1 <ada@example.com>: Recipient address rejected: no ada@example.com here"
    server = await mail_server(
        replies={"ada@example.com": f"550 {quoting}", "bob@example.com": f"451 {quoting}"},
        data_replies=[f"554 {quoting}"],
    )
    for to, kind in (("ada", PermanentError), ("bob", TryAgainLater), ("eve", PermanentError)):
        job = email(f"{to}@example.com")
        with pytest.raises(kind, match="Recipient address rejected") as caught:
            await send_email(context(server), job)
        assert "@example.com" not in "".join(traceback.format_exception(caught.value))
    result = await send_email(context(server), email(["ada@example.com", "eve@example.com"]))
    assert result.refused[0].recipient == "ada@example.com"


async def test_server_away(mail_server: ServerFactory, context: ContextFactory) -> None:
    server = await mail_server()
    await server.stop()
    with pytest.raises(MailUnavailable):
        await send_email(context(server), email())
    await server.start()
    assert (await send_email(context(server), email())).sent_at is not None


async def test_cancelled_after_the_server_accepted(
    mail_server: ServerFactory, context: ContextFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await mail_server()
    writing, go_on = asyncio.Event(), asyncio.Event()
    record = Receipts.record

    async def slow(self: Receipts, *arguments: object) -> None:
        writing.set()
        await go_on.wait()
        await record(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Receipts, "record", slow)
    sending = asyncio.create_task(send_email(context(server), email()))
    await writing.wait()
    sending.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert (await send_email(context(server), email())).skipped, "the receipt was written all the same"


async def test_redis_lost_after_the_server_accepted(
    mail_server: ServerFactory,
    context: ContextFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = await mail_server()
    monkeypatch.setattr(tasks, "RECEIPT_WAITS", (0.0,))

    async def lost(*_: object) -> None:
        raise RedisConnectionError

    monkeypatch.setattr(Receipts, "record", lost)
    assert (await send_email(context(server), email())).sent_at is not None, "the message is out: no reason to fail"
    assert "its receipt could not be written" in caplog.text


def mailing(redis: Redis, name: str = "job-1") -> Context:
    """A context whose messages are made, and never handed over."""
    settings = EmailSettings(unsubscribe_url="https://example.org/u?to={recipient}")
    return Context(redis, name, mail=MailService(Composer(settings, "shop@example.org"), SpoolSink(Path("unused"))))


async def test_fan_out(redis: Redis) -> None:
    ctx = mailing(redis)
    people = [f"p{n}@example.com" for n in range(2300)]
    job = SendBulkEmail(
        to=["P0@example.com", *people], subject="News", template="campaign", context={"message": "m"}, marketing=True
    )
    result = await send_bulk_email(ctx, job)
    assert (result.recipients, result.enqueued, result.existed) == (2300, 2300, 0)
    assert [round(percent) for percent, _ in ctx.told] == [43, 87, 100]
    assert ctx.told[-1][1] == "2300 of 2300 recipients"
    again = await send_bulk_email(ctx, job)
    assert (again.enqueued, again.existed) == (0, 2300)
    assert await redis.zcard(ctx.keys.queue) == 2300
    other = await send_bulk_email(mailing(redis, "job-2"), job)
    assert other.enqueued == 2300, "another bulk job is another mailing"


async def test_a_fan_out_does_not_hold_up_the_loop(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set()

    def spy(address: str) -> Any:
        threads.add(threading.get_ident())
        return parse_mailbox(address)

    monkeypatch.setattr(tasks, "parse_mailbox", spy)
    job = SendBulkEmail(to=["a@example.com"], subject="News", template="campaign", context={"message": "m"})
    assert (await send_bulk_email(mailing(redis), job)).enqueued == 1
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(
    "wrong", [{"template": "spring"}, {"context": {}}, {"attachments": [{"filename": "a", "path": "a"}]}]
)
async def test_what_is_wrong_with_a_mailing_is_told_once(redis: Redis, wrong: dict[str, Any]) -> None:
    """And not by a dead letter for each recipient."""
    ctx = mailing(redis)
    fields = {"subject": "News", "template": "campaign", "context": {"message": "m"}}
    job = SendBulkEmail.model_validate({"to": ["ada@example.com", "bob@example.com"], **fields, **wrong})
    with pytest.raises(PermanentError):
        await send_bulk_email(ctx, job)
    assert await redis.zcard(ctx.keys.queue) == 0


async def test_fan_outs_jobs(mail_server: ServerFactory, context: ContextFactory, redis: Redis) -> None:
    server = await mail_server()
    ctx = context(server, "bulk")
    job = SendBulkEmail(
        to=("Ada <ada@example.com>", "bob@example.com"),
        subject="News",
        template="campaign.html",
        lang="fr",
        context={"message": "Du nouveau"},
        headers={"X-Campaign": "spring"},
        marketing=True,
        unsubscribe_url="https://example.org/u?to={recipient}",
        idempotency_key="spring-2030",
    )
    seen: list[SendEmail] = []
    enqueue_each = ctx.producer.enqueue_each

    async def watch(jobs, **options):  # type: ignore[no-untyped-def]
        seen.extend(payload for (payload, _), _ in jobs)
        assert {options["priority"] for _, options in jobs} == {7}
        return await enqueue_each(jobs, **options)

    ctx.producer.enqueue_each = watch  # type: ignore[method-assign]
    await send_bulk_email(ctx, job)
    ids = [name.decode() for name in await redis.zrange(ctx.keys.queue, 0, -1)]
    assert await ctx.producer.job(ids[0].replace("{email}", "email")).status() is JobState.WAITING
    for name, single in zip(ids, seen, strict=True):
        assert (await send_email(context(server, name), single)).sent_at is not None
    assert [received.recipients for received in server.received] == [["ada@example.com"], ["bob@example.com"]]
    for received in server.received:
        assert received.recipients[0].replace("@", "%40") in received.message["List-Unsubscribe"]
        assert received.message["X-Campaign"] == "spring"
    # Weeks later, when the jobs and their results are gone, the same fan-out is tried again.
    await redis.delete(ctx.keys.queue)
    seen.clear()
    await send_bulk_email(ctx, job)
    assert [(await send_email(context(server, "later"), single)).skipped for single in seen] == [True, True]
    assert len(server.received) == 2


async def test_large_context_is_enqueued_in_smaller_batches(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FAN_OUT_BYTES", 5_000)
    ctx = mailing(redis)
    people = tuple(f"p{n}@example.com" for n in range(10))
    job = SendBulkEmail(to=people, subject="s", template="campaign", context={"message": "m" * 2_000})
    assert (await send_bulk_email(ctx, job)).enqueued == 10
    assert len(ctx.told) == 5
