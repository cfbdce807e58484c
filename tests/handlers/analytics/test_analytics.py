"""The analytics family on both databases: sums are those of a brute-force count, in any order, however often."""

from __future__ import annotations

import json
import os
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError
from sqlalchemy import func, select

from daemon.errors import RetryAfter
from daemon.family import load_family
from daemon.payload import Payload
from daemon.settings import load_settings
from daemon.testing.handlers import HandlerRun, run_handler
from handlers.analytics.payloads import Aggregate, CollectMetrics, DateRange, Event, TrackEvents, backfill
from handlers.analytics.periods import Grain, period_of, periods
from handlers.analytics.rollups import Rollups
from handlers.analytics.tables import EVENTS, METRICS, MICRO, ROLLUPS
from handlers.analytics.tasks import aggregate, collect_metrics, track_events
from handlers.analytics.worker import WorkerSettings, close_analytics, open_analytics
from handlers.integrations.database import Database
from tests.handlers.receiver import Answer, Receiver

#: `ANALYTICS_EVENTS=1000000` is the full size.
MANY = int(os.environ.get("ANALYTICS_EVENTS", "3000"))
ZONE = "Europe/Berlin"
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
GRAINS: tuple[Grain, ...] = ("hourly", "daily", "weekly", "monthly")
FUNCTIONS = {"track_events": track_events, "collect_metrics": collect_metrics, "aggregate": aggregate}


class Shop:
    """The family on a database."""

    def __init__(self, ctx: dict[str, Any], database: Database) -> None:
        self.ctx, self.database = ctx, database

    async def run(self, job: Payload, job_id: str = "job", **options: Any) -> HandlerRun:
        function = FUNCTIONS[job.__job__.function]
        return await run_handler(function, job, settings=WorkerSettings, ctx=self.ctx, job_id=job_id, **options)

    async def rows(self, table: Any, *columns: Any) -> list[Any]:
        async with self.database.read() as connection:
            return [tuple(row) for row in await connection.execute(select(*columns) if columns else select(table))]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as found:
        yield found


@pytest.fixture
async def shop(database: Database, database_url: str) -> AsyncIterator[Shop]:
    ctx: dict[str, Any] = {"settings": load_settings({"ARQD_DATABASE_URL": database_url})}
    await open_analytics(ctx)
    yield Shop(ctx, database)
    await close_analytics(ctx)


def told(page: dict[str, Any]) -> Answer:
    return Answer(body=json.dumps(page).encode())


def events_of(seed: random.Random, count: int) -> list[dict[str, Any]]:
    """Give random events of six weeks in which a clock changes."""
    names = ["page_view"] * 8 + ["purchase", "sign_up"]
    return [
        {
            "event_id": f"e{n}",
            "name": seed.choice(names),
            "at": BEGIN + timedelta(seconds=seed.randrange(42 * 86_400)),
            "user_id": f"u{seed.randrange(count // 5 + 1)}" if seed.random() < 0.9 else None,
            "value": seed.randrange(10**8) if seed.random() < 0.3 else None,
        }
        for n in range(count)
    ]


def local_start(grain: Grain, at: datetime) -> datetime:
    """Give a period's start, reckoned in another way than the code does."""
    if grain == "hourly":
        return datetime.fromtimestamp(at.timestamp() // 3600 * 3600, UTC)
    local = at.astimezone(ZoneInfo(ZONE)).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    back = {"daily": 0, "weekly": local.weekday(), "monthly": local.day - 1}[grain]
    return (local - timedelta(days=back)).astimezone(UTC)


def brute_force(grain: Grain, events: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    sums: dict[tuple[datetime, str], list[Any]] = defaultdict(lambda: [0, set(), 0])
    for event in events:
        start = local_start(grain, event["at"])
        for name in (event["name"], ""):
            found = sums[start, name]
            found[0] += 1
            found[1] |= {event["user_id"]} - {None}
            found[2] += event["value"] or 0
    return {(start, name, count, len(users), total) for (start, name), (count, users, total) in sums.items()}


@pytest.mark.timeout(1800 if MANY > 10_000 else 240)
async def test_sums_equal_a_count_by_hand_in_any_order_with_any_job_twice(shop: Shop) -> None:
    seed = random.Random(11)
    events = events_of(seed, MANY)
    rows = [{**event, "properties": None, "received_at": BEGIN} for event in events]
    began = time.perf_counter()
    rollups = Rollups(shop.database)
    for at in range(0, len(rows), 10_000):
        await rollups.track(rows[at : at + 10_000])
    stored = time.perf_counter() - began
    jobs = [job for grain in GRAINS for job in backfill(grain, BEGIN, BEGIN + timedelta(days=42), ZONE)]
    # Twice each: one may run again at any time.
    jobs += seed.sample(jobs, len(jobs) // 2)
    seed.shuffle(jobs)
    began = time.perf_counter()
    for number, job in enumerate(jobs):
        done = await shop.run(job, f"job{number}", timeout=1500)
        assert done.ending == "completed", done.error
    took = time.perf_counter() - began
    print(f"{MANY} events: stored {MANY / stored:,.0f}/s, rolled up {len(jobs) * 1.0:.0f} jobs in {took:.1f} s, "
          f"{MANY * 4 * 1.5 / took:,.0f} rows/s")  # fmt: skip
    for grain in GRAINS:
        row = ROLLUPS.c
        async with shop.database.read() as connection:
            query = select(row.start, row.name, row.events, row.users, row.total).where(row.grain == grain)
            found = {tuple(each) for each in await connection.execute(query)}
        assert found == brute_force(grain, events), grain


async def test_duplicates_are_left_out_and_late_events_are_rolled_up(shop: Shop) -> None:
    day = datetime(2026, 5, 4, 12, tzinfo=UTC)
    first = TrackEvents(events=[
        Event(name="page_view", at=day, user_id="ada", event_id="a"),
        Event(name="purchase", at=day, user_id="ada", value="19.99", event_id="b", properties={"item": "tea"}),
        Event(name="page_view", at=day, user_id="bob"),
    ])  # fmt: skip
    assert (await shop.run(first, "one")).result.model_dump() == {"stored": 3, "duplicates": 0}
    # The same job again, and another one with an event that is there.
    assert (await shop.run(first, "one")).result.model_dump() == {"stored": 0, "duplicates": 3}
    twice = TrackEvents(events=[Event(name="page_view", event_id="c"), Event(name="page_view", event_id="c")])
    assert (await shop.run(twice, "two")).result.model_dump() == {"stored": 1, "duplicates": 1}
    asked = Aggregate(type="daily", metrics=["page_views", "purchases", "revenue", "visitors", "conversion_rate"])
    done = (await shop.run(asked)).result
    assert done.periods == 2
    assert done.values[0] == {
        "start": "2026-05-04T00:00:00+00:00", "page_views": 2, "purchases": 1, "revenue": "19.99", "visitors": 2,
        "conversion_rate": 0.5,
    }  # fmt: skip
    # A month late.
    late = TrackEvents(events=[Event(name="page_view", at=day - timedelta(days=30), user_id="eve")])
    await shop.run(late, "three")
    done = (await shop.run(asked)).result
    assert done.values[0]["start"] == "2026-04-04T00:00:00+00:00"
    assert (done.values[0]["page_views"], done.values[1]["page_views"]) == (1, 2)
    assert (await shop.run(Aggregate(type="hourly"))).result.periods == 3


async def test_a_long_range_becomes_jobs_and_each_is_the_same_again(shop: Shop) -> None:
    job = Aggregate(type="hourly", date_range=DateRange(start=BEGIN, end=BEGIN + timedelta(days=20)))
    done = await shop.run(job)
    assert len(done.result.jobs) == 3
    ranges = [each.payload.date_range for each in done.enqueued]
    assert [each.end for each in ranges[:-1]] == [each.start for each in ranges[1:]]
    assert (ranges[0].start, ranges[-1].end) == (BEGIN, BEGIN + timedelta(days=20))
    again = await shop.run(job)
    assert again.result.jobs == done.result.jobs


async def test_metrics_come_page_by_page(database: Database, database_url: str, receiver: Receiver) -> None:
    pages = {
        "": {"data": [{"metric": "views", "at": "2026-05-04T00:00:00Z", "value": 3}], "next": "p2", "total": 2},
        "p2": {"data": [{"metric": "views", "at": "2026-05-05T00:00:00Z", "value": "4.5"}], "next": None, "total": 2},
    }
    for page in pages.values():
        receiver.answers.append(told(page))
    ctx: dict[str, Any] = {"settings": load_settings({
        "ARQD_DATABASE_URL": database_url, "ARQD_HTTP__ALLOW": "127.0.0.1",
        "ARQD_ANALYTICS__SOURCES__ADS": f"{receiver.url}/accounts/{{account_id}}/metrics",
    })}  # fmt: skip
    await open_analytics(ctx)
    shop = Shop(ctx, database)
    done = await shop.run(CollectMetrics(platform="ads", account_id="a/b", metrics=["views"]))
    assert (done.ending, done.result.model_dump()) == ("completed", {"points": {"views": 2}, "pages": 2}), done.error
    assert [percent for percent, _ in done.progress] == [50, 100]
    row = METRICS.c
    assert await shop.rows(METRICS, row.platform, row.account_id, row.metric, row.value) == [
        ("ads", "a/b", "views", 3 * MICRO), ("ads", "a/b", "views", 4_500_000),
    ]  # fmt: skip
    receiver.answers.append(told({"data": [{"metric": "views", "at": "2026-05-04T00:00:00Z", "value": 9}]}))
    await shop.run(CollectMetrics(platform="ads", account_id="a/b"))
    assert sorted(value for (value,) in await shop.rows(METRICS, row.value)) == [4_500_000, 9 * MICRO]
    receiver.answers.append(told({"data": [{"metric": "views"}]}))
    assert (await shop.run(CollectMetrics(platform="ads", account_id="x"))).reason == "permanent"
    # Of no calendar that UTC has; a number of points that nobody knows.
    receiver.answers.append(told({"data": [{"metric": "views", "at": "9999-12-31T23:59:59-12:00", "value": 1}]}))
    assert (await shop.run(CollectMetrics(platform="ads", account_id="x"))).reason == "permanent"
    receiver.answers += [told({"data": [], "next": "p2", "total": -1}), told({"data": [], "total": -1})]
    empty = await shop.run(CollectMetrics(platform="ads", account_id="x"))
    assert (empty.ending, empty.progress[-1][0]) == ("completed", 100), empty.error
    assert (await shop.run(CollectMetrics(platform="none", account_id="x"))).reason == "permanent"
    # One platform that says to wait is no reason for anything else of the queue to wait.
    receiver.answers.append(Answer(429, headers={"retry-after": "7200"}))
    busy = await shop.run(CollectMetrics(platform="ads", account_id="x"))
    assert isinstance(busy.error, RetryAfter)
    assert (busy.error.seconds, busy.error.scope) == (7200, "job")
    await close_analytics(ctx)


def test_days_are_those_of_the_zone() -> None:
    spring = list(periods("daily", datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 3, 30, 22, tzinfo=UTC), ZONE))
    assert [(end - start).total_seconds() / 3600 for start, end in spring] == [23, 24]
    autumn = period_of("daily", datetime(2026, 10, 25, 12, tzinfo=UTC), ZONE)
    assert autumn[1] - autumn[0] == timedelta(hours=25)
    for grain, days in (("weekly", 7), ("monthly", 31)):
        start, end = period_of(grain, datetime(2026, 5, 6, tzinfo=UTC), "UTC")  # type: ignore[arg-type]
        assert (end - start, start.day) == (timedelta(days=days), {"weekly": 4, "monthly": 1}[grain])
    start, end = period_of("monthly", datetime(2026, 12, 31, 23, 30, tzinfo=UTC), ZONE)
    assert (start.isoformat(), end.isoformat()) == ("2026-12-31T23:00:00+00:00", "2027-01-31T23:00:00+00:00")


def test_a_week_and_a_month_are_counted_once_they_have_ended_wherever_that_is() -> None:
    """A zone may be twelve hours behind UTC, where the schedules are: a run later it has to be over there as well."""
    schedules = {each.schedule.name: each.schedule for each in load_family(WorkerSettings).schedules}
    for grain, day in (("weekly", datetime(2026, 6, 1, tzinfo=UTC)), ("monthly", datetime(2026, 6, 1, tzinfo=UTC))):
        ended = period_of(grain, day - timedelta(hours=1), "Etc/GMT+12")[1]  # type: ignore[arg-type]
        ms = int(ended.timestamp() * 1000)
        due = schedules[f"aggregate-{grain}"].next_due(ms)
        assert due is not None
        assert due - ms < 86_400_000, grain


@pytest.mark.parametrize(
    "job",
    [lambda: TrackEvents(events=[]), lambda: Event(name="a b"), lambda: Event(name="a", value="0.0000001"),
     lambda: Aggregate(type="yearly"), lambda: Aggregate(type="daily", zone="Mars/Olympus"),
     lambda: Event(name="a", at="2026-01-01T00:00:00"), lambda: Event(name="a", at="9999-12-31T23:30:00Z"),
     lambda: Event(name="a", at="0001-01-01T00:00:00Z"), lambda: DateRange(start=BEGIN, end="2099-01-01T00:00:00Z"),
     lambda: Event(name="a", user_id="a\0b"), lambda: Event(name="a", event_id="\0"),
     lambda: DateRange(start=BEGIN, end=BEGIN), lambda: CollectMetrics(platform="ads", account_id="..")],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(job: Any) -> None:
    with pytest.raises(ValidationError):
        job()


@pytest.mark.parametrize("sign", [1, -1])
async def test_a_sum_too_large_for_a_row_stops_no_others(shop: Shop, sign: int) -> None:
    """Whoever can have events tracked can have any value tracked: the other sums are made all the same."""
    largest = sign * Decimal("999999999999.999999")
    events = [Event(name="purchase", at=BEGIN, value=largest) for _ in range(10)]
    events += [Event(name="refund", at=BEGIN, value=sign * Decimal(value)) for value in ("0.000001", "-7.5", "19.99")]
    await shop.run(TrackEvents(events=events))
    done = (await shop.run(Aggregate(type="daily", metrics=["purchases", "revenue"]))).value()
    assert (done.periods, done.values[0]["purchases"]) == (1, 10)
    # As much as a row holds, nearly: for ten million million it is too small.
    assert Decimal(done.values[0]["revenue"]) == sign * 9_000_000_000_000
    totals = dict(await shop.rows(ROLLUPS, ROLLUPS.c.name, ROLLUPS.c.total))
    assert totals["refund"] == sign * 12_490_001


async def test_nothing_is_rolled_up_of_nothing(shop: Shop) -> None:
    assert (await shop.run(Aggregate(type="monthly"))).result.model_dump() == {"periods": 0, "values": [], "jobs": []}
    await shop.run(Aggregate(type="daily", date_range=DateRange(start=BEGIN, end=BEGIN + timedelta(days=3))))
    async with shop.database.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(ROLLUPS))).scalar_one() == 0
        assert (await connection.execute(select(func.count()).select_from(EVENTS))).scalar_one() == 0
