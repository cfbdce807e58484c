"""Deliveries to a real receiver, by a real worker, on both databases."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.event import listens_for
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from daemon.errors import JobFailed, RetryAfter
from daemon.family import Family, load_family
from daemon.job import JobState
from daemon.producer import Producer
from daemon.testing.handlers import run_handler
from handlers.integrations.database import Database
from handlers.webhooks import turns
from handlers.webhooks.endpoints import Attempt, Endpoint, Endpoints
from handlers.webhooks.payloads import Delivered, endpoint_name
from handlers.webhooks.tables import TURNS
from handlers.webhooks.tasks import STANDARD, NotDeliveredYet, deliver_webhook
from handlers.webhooks.worker import WorkerSettings
from tests.engine import in_state, run_burst, until, working
from tests.handlers.receiver import Answer, Receiver, statuses
from tests.handlers.webhooks.support import NEW, OLD, Silent, event, new_secret


def loaded(settings: SimpleNamespace, backoff: str) -> Family:
    found = load_family(WorkerSettings, {"max_tries": 4, "backoff": backoff})
    found.ctx["settings"] = settings
    return found


@pytest.fixture
def family(settings: SimpleNamespace) -> Family:
    return loaded(settings, "fixed 10ms")


@pytest.fixture
def patient(settings: SimpleNamespace) -> Family:
    return loaded(settings, "fixed 60s")


async def test_it_is_verified_by_the_receiver(
    redis_url: str, producer: Producer, family: Family, receiver: Receiver, endpoints: Endpoints
) -> None:
    job = await producer.enqueue(event(receiver))
    await run_burst(redis_url, family)
    result = await job.result(30)
    (request,) = receiver.requests
    for secret in (OLD, NEW):
        sent = Webhook(secret).verify(request.body, dict(request.headers))
        assert sent == {"type": "order.paid", "timestamp": sent["timestamp"], "data": {"n": 1}}
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(request.body, dict(request.headers))
    assert isinstance(result, Delivered)
    assert (result.status, result.attempt, result.webhook_id) == (200, 1, request.headers["webhook-id"])
    (logged,) = await endpoints.deliveries(endpoint_name(f"{receiver.url}/in"))
    assert (logged.status, logged.attempt, logged.event, logged.reply) == (200, 1, "order.paid", "{}")
    assert await endpoints.listed() == [], "an endpoint that works needs no row"


async def test_what_is_refused_is_sent_again_just_as_it_was(
    redis_url: str, producer: Producer, family: Family, receiver: Receiver, endpoints: Endpoints
) -> None:
    receiver.answers += [Answer(404), Answer(302, headers={"location": "/there"}), Answer(cut="after")]
    job = await producer.enqueue(event(receiver))
    await run_burst(redis_url, family)
    assert (await job.result(30)).attempt == 4
    assert len({request.body for request in receiver.requests}) == 1
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert [request.path for request in receiver.requests] == ["/in"] * 4, "a redirect is not followed"
    tries = await endpoints.deliveries(endpoint_name(f"{receiver.url}/in"))
    assert [(each.attempt, each.status) for each in reversed(tries)] == [(1, 404), (2, 302), (3, None), (4, 200)]
    assert await endpoints.listed() == [], "an endpoint that is well again needs no row"


async def test_nothing_is_called_delivered_that_was_not(
    redis_url: str, producer: Producer, family: Family, receiver: Receiver
) -> None:
    receiver.usual = Answer(cut="before")
    job = await producer.enqueue(event(receiver))
    await run_burst(redis_url, family)
    with pytest.raises(JobFailed, match="was not reached") as caught:
        await job.result(30)
    assert (caught.value.type, caught.value.tries) == ("NotDelivered", 4)
    assert receiver.taken == []


async def test_gone_disables_at_once_and_an_operator_enables(
    redis_url: str, producer: Producer, family: Family, receiver: Receiver, endpoints: Endpoints
) -> None:
    await endpoints.register("shop", f"{receiver.url}/in", "shop")
    receiver.answers += statuses(410)
    gone = await producer.enqueue(event(receiver, endpoint="shop", secret_ref=None))
    await run_burst(redis_url, family)
    after = await producer.enqueue(event(receiver, endpoint="shop", secret_ref=None))
    await run_burst(redis_url, family)
    for job, told in ((gone, "answers 410, and is disabled now"), (after, "is disabled since .* arqd webhooks enable")):
        with pytest.raises(JobFailed, match=told) as caught:
            await job.result(30)
        assert caught.value.reason == "permanent"
    assert len(receiver.requests) == 1
    assert [each.name for each in await endpoints.listed(disabled=True)] == ["shop"]
    await endpoints.enable("shop")
    again = await producer.enqueue(event(receiver, endpoint="shop", secret_ref=None))
    await run_burst(redis_url, family)
    assert (await again.result(30)).status == 200


@pytest.mark.parametrize(("days", "failures", "given_up"), [(1, 6, False), (6, 6, True), (6, 2, False)])
async def test_failures_alone_for_days_disable(
    database: Database, receiver: Receiver, days: int, failures: int, given_up: bool
) -> None:
    endpoints = Endpoints(database, 5 * 86_400)
    endpoint = await endpoints.register("shop", receiver.url, "shop")
    begin = datetime.now(UTC)
    for number in range(failures):
        at = begin + timedelta(days=days * number / (failures - 1))
        attempt = Attempt("shop", "msg_1", "x", number + 1, at, 0.1, 500, "")
        endpoint = await endpoints.record(endpoint, attempt)
    assert (endpoint.disabled_at is not None) is given_up
    assert endpoint.failures == failures


async def test_a_success_between_them_counts(database: Database, receiver: Receiver) -> None:
    endpoints = Endpoints(database, 60)
    endpoint = await endpoints.register("shop", receiver.url, "shop")
    begin = datetime.now(UTC)
    for number in range(20):
        status = 200 if number % 4 == 3 else 500
        attempt = Attempt("shop", "msg_1", "x", 1, begin + timedelta(hours=number), 0.1, status, "")
        endpoint = await endpoints.record(endpoint, attempt)
    found = await endpoints.find("shop")
    assert found is not None
    assert (found.disabled_at, found.failures) == (None, 0)


async def test_one_that_nobody_has_registered_is_forgotten_when_it_is_well(
    receiver: Receiver, opened: dict[Any, Any], endpoints: Endpoints
) -> None:
    """Every URL that ever failed would else stay in the list of those that fail."""
    await endpoints.register("shop", f"{receiver.url}/in", "shop")
    receiver.answers += statuses(500, 500, 200, 200)
    failing: list[list[int]] = []
    for _ in range(2):
        for more in ({}, {"endpoint": "shop"}):
            await run_handler(deliver_webhook, event(receiver, **more), settings=WorkerSettings, ctx=opened)
        failing.append([each.failures for each in await endpoints.listed()])
    assert failing == [[1, 1], [0]]


async def test_a_pause_that_is_asked_for_is_kept_by_all_and_counts_no_try(
    receiver: Receiver, opened: dict[Any, Any]
) -> None:
    receiver.answers += [Answer(429, headers={"retry-after": "120"})]
    first = await run_handler(deliver_webhook, event(receiver), settings=WorkerSettings, ctx=opened)
    assert first.ending == "told_to_wait"
    assert isinstance(first.error, RetryAfter)
    assert (first.error.seconds, first.error.scope) == (120, "job")
    second = await run_handler(deliver_webhook, event(receiver, 2), settings=WorkerSettings, ctx=opened)
    assert second.ending == "told_to_wait"
    assert second.retry_in is not None
    assert 100 < second.retry_in <= 120
    assert len(receiver.requests) == 1, "the endpoint is left alone"


@pytest.mark.parametrize(("tries", "wait"), [(0, 5), (1, 300), (8, 86_400)])
async def test_the_schedule_of_standard_webhooks(
    receiver: Receiver, opened: dict[Any, Any], tries: int, wait: float
) -> None:
    assert len(STANDARD) == WorkerSettings.max_tries - 1
    receiver.usual = Answer(503)
    job = event(receiver, schedule="standard")
    run = await run_handler(deliver_webhook, job, settings=WorkerSettings, ctx=opened, tries=tries)
    assert run.ending == "retried"
    assert isinstance(run.error, NotDeliveredYet)
    assert str(run.error).endswith("answers 503")
    assert run.retry_in is not None
    assert wait <= run.retry_in <= wait * 1.1


async def test_after_the_last_try_it_is_a_dead_letter(receiver: Receiver, opened: dict[Any, Any]) -> None:
    receiver.usual = Answer(500)
    job = event(receiver, schedule="standard")
    run = await run_handler(deliver_webhook, job, settings=WorkerSettings, ctx=opened, tries=9)
    assert (run.ending, run.reason) == ("failed", "tries")


async def test_a_long_reply_is_cut(receiver: Receiver, opened: dict[Any, Any], endpoints: Endpoints) -> None:
    receiver.usual = Answer(200, b"x" * 3_000_000)
    run = await run_handler(deliver_webhook, event(receiver), settings=WorkerSettings, ctx=opened)
    assert run.ending == "completed"
    (logged,) = await endpoints.deliveries(endpoint_name(f"{receiver.url}/in"))
    assert logged.reply == "x" * 1000


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"endpoint": "http://10.0.0.1/in"}, "is not on the public internet"),
        ({"endpoint": "nobody", "secret_ref": None}, "there is no endpoint nobody: arqd webhooks add"),
        ({"secret_ref": "lost"}, "ARQD_WEBHOOKS__SECRETS__LOST"),
    ],
)
async def test_what_cannot_heal_is_permanent(
    receiver: Receiver, opened: dict[Any, Any], fields: dict[str, Any], told: str
) -> None:
    run = await run_handler(deliver_webhook, event(receiver, **fields), settings=WorkerSettings, ctx=opened)
    assert (run.ending, run.reason) == ("failed", "permanent")
    with pytest.raises(Exception, match=told):
        run.value()
    assert receiver.requests == []


async def test_order_is_kept_whatever_the_endpoint_does(
    redis_url: str, producer: Producer, family: Family, receiver: Receiver, database: Database
) -> None:
    receiver.answers += [*statuses(500, 200, 500, 500), Answer(cut="before"), Answer(404)]
    events = [event(receiver, number, ordered=True) for number in range(6)]
    jobs = await producer.enqueue_many(events)
    async with working(redis_url, family):
        done = await asyncio.gather(*(job.result(100) for job in jobs), return_exceptions=True)
    # The second meets 500, 500, a cut connection and 404: it has used up its tries, and then the others go on.
    assert [isinstance(each, JobFailed) for each in done] == [False, True, False, False, False, False]
    assert [request.json()["data"]["n"] for request in receiver.taken] == [0, 2, 3, 4, 5]
    assert [request.json()["data"]["n"] for request in receiver.requests] == [0, 0, 1, 1, 1, 1, 2, 3, 4, 5]
    async with database.read() as connection:
        assert (await connection.execute(select(TURNS))).all() == []


async def test_a_job_that_is_gone_does_not_hold_up_the_others(
    redis_url: str, producer: Producer, patient: Family, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "LATEST", 0.2)
    receiver.answers += statuses(500)
    first = await producer.enqueue(event(receiver, 1, ordered=True))
    async with working(redis_url, patient):
        await in_state(first, JobState.DELAYED, tries=1)
        second = await producer.enqueue(event(receiver, 2, ordered=True))
        await in_state(second, JobState.DELAYED)
        await first.abort()
        await second.result(60)
    assert [request.json()["data"]["n"] for request in receiver.taken] == [2]


async def test_a_long_line_behind_one_endpoint_is_not_read_by_each_that_waits(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every ten seconds each of them asks: a thousand that read a thousand rows would be a million."""
    read: list[tuple[str, Any]] = []

    @listens_for(database.engine.sync_engine, "after_cursor_execute")
    def executed(_: Any, __: Any, statement: str, parameters: Any, *more: Any) -> None:
        if statement.startswith("SELECT"):
            read.append((statement, parameters))

    asked: list[str] = []

    async def is_live(_: Any, job_id: str) -> bool:
        asked.append(job_id)
        return job_id != "job-0"

    monkeypatch.setattr(turns, "_is_live", is_live)
    async with database.begin() as connection:
        rows = [{"endpoint": "shop", "job_id": f"job-{number}"} for number in range(40)]
        await connection.execute(TURNS.insert(), rows)
    with pytest.raises(RetryAfter) as caught:
        await turns.Turns(database).take(SimpleNamespace(job_id="last"), "shop")  # type: ignore[arg-type]
    assert (asked, caught.value.scope) == (["job-0", "job-1"], "job")
    assert caught.value.seconds == pytest.approx(39 * turns.SOON, abs=0.01)
    statements, read = read, []
    assert len(statements) == 2
    async with database.read() as connection:
        for statement, parameters in statements:
            assert len((await connection.exec_driver_sql(statement, parameters)).all()) == 1


async def test_unordered_ones_do_not_wait(
    redis_url: str, producer: Producer, patient: Family, receiver: Receiver
) -> None:
    receiver.answers += statuses(500)
    first = await producer.enqueue(event(receiver, 1))
    async with working(redis_url, patient):
        await in_state(first, JobState.DELAYED, tries=1)
        second = await producer.enqueue(event(receiver, 2))
        await second.result(30)


@pytest.mark.parametrize(("ordered", "most"), [(False, 5), (True, 1)])
async def test_an_endpoint_that_hangs_does_not_hold_up_the_others(
    redis_url: str, producer: Producer, family: Family, receiver: Receiver, ordered: bool, most: int
) -> None:
    slots = family.values.max_jobs
    async with Silent() as slow:
        await producer.enqueue_many([event(receiver, n, endpoint=slow.url, ordered=ordered) for n in range(2 * slots)])
        others = [event(receiver, n, endpoint=f"{receiver.url}/{n % 2}") for n in range(2 * slots)]
        jobs = await producer.enqueue_many(others)
        async with working(redis_url, family):
            await asyncio.gather(*(job.result(60) for job in jobs))
            assert slow.ended == 0, "what went out did so while the slow one's tries went on"
            await until(lambda: slow.open >= most)
            assert (slow.open, len(receiver.taken)) == (most, 2 * slots)


async def test_the_log_is_pruned(database: Database, endpoints: Endpoints, receiver: Receiver) -> None:
    endpoint = await endpoints.register("shop", receiver.url, "shop")
    now = datetime.now(UTC)
    for days in range(5):
        await endpoints.record(endpoint, Attempt("shop", "m", "x", 1, now - timedelta(days=days), 0.1, 200, ""))
    assert await endpoints.prune(now - timedelta(days=2, hours=1)) == 2
    assert await endpoints.count() == 3


async def test_urls_that_only_fail_are_forgotten(database: Database, endpoints: Endpoints) -> None:
    """Each that comes in a job and fails has a row, which only a success removes."""
    now = datetime.now(UTC)
    registered = await endpoints.register("shop", "https://shop.example/hook", "shop")
    old, new, gone = (Endpoint(name, f"https://{name}/", "shop", "family", False) for name in ("a#1", "b#2", "c#3"))
    for endpoint, days, status in ((registered, 9, 500), (old, 9, 500), (new, 1, 500), (gone, 9, 410)):
        await endpoints.record(
            endpoint, Attempt(endpoint.name, "m", "x", 1, now - timedelta(days=days), 0.1, status, "")
        )
    await endpoints.prune(now - timedelta(days=2))
    assert [each.name for each in await endpoints.listed()] == ["b#2", "c#3", "shop"]
