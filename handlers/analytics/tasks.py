"""The analytics family's functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from daemon.context import JobContext
from daemon.errors import PermanentError
from daemon.payload import PayloadModel
from handlers.analytics.payloads import (
    MOST_PERIODS,
    Aggregate,
    Aggregated,
    Collected,
    CollectMetrics,
    Event,
    Moment,
    Name,
    Tracked,
    TrackEvents,
    Value,
    backfill,
)
from handlers.analytics.periods import Period, periods
from handlers.analytics.rollups import Rollups
from handlers.analytics.settings import AnalyticsSettings
from handlers.analytics.tables import MICRO
from handlers.integrations.database import Database
from handlers.integrations.http import HttpClient

#: A platform that never ends is given up.
MOST_PAGES = 1000


class UnknownPlatform(PermanentError):
    """There is no platform of this name: see ARQD_ANALYTICS__SOURCES."""


class UnexpectedReply(PermanentError):
    """The platform answers in another form than docs/families/analytics.md tells."""


@dataclass(frozen=True, slots=True)
class AnalyticsService:
    """What the family opens at start and finds in its context as ``analytics``."""

    settings: AnalyticsSettings
    database: Database
    http: HttpClient
    rollups: Rollups


class Point(PayloadModel):
    """A metric's value at a time, as a platform tells it."""

    metric: Name
    at: Moment
    value: Value


_POINTS = TypeAdapter(list[Point])


async def track_events(ctx: JobContext, job: TrackEvents) -> Tracked:
    """Store events. It may run twice: an event whose id is there is left out."""
    service: AnalyticsService = ctx["analytics"]
    now = datetime.now(UTC)
    # Of two events with one id in a job the first counts: PostgreSQL and SQLite both leave the second out.
    rows = [_row(ctx, number, event, now) for number, event in enumerate(job.events)]
    stored = await service.rollups.track(rows)
    return Tracked(stored=stored, duplicates=len(rows) - stored)


async def collect_metrics(ctx: JobContext, job: CollectMetrics) -> Collected:
    """Pull metrics, page by page. It may run twice, or break off: a point that is there gets its newest value.

    Raises:
        UnknownPlatform, UnexpectedReply, HttpRefused, HttpForbidden: permanent.
        HttpError, RetryAfter: tried again.
    """
    service: AnalyticsService = ctx["analytics"]
    platform = job.platform.lower()
    url = service.settings.sources.get(platform)
    if url is None:
        known = ", ".join(sorted(service.settings.sources)) or "none"
        raise UnknownPlatform(f"there is no platform {job.platform}: known are {known}")
    token = service.settings.tokens.get(platform)
    headers = {"authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    url = url.replace("{account_id}", quote(job.account_id, safe=""))
    found: Counter[str] = Counter()
    cursor, done = None, 0
    for pages in range(1, MOST_PAGES + 1):
        asked = _query(job, cursor)
        reply = (await service.http.get(f"{url}{'&' if '?' in url else '?'}{asked}", headers=headers)).checked("job")
        points, cursor, total = _page(reply.json())
        now = datetime.now(UTC)
        # The last value of a point that a page tells twice.
        rows = {
            (point.metric, point.at): {
                "platform": platform, "account_id": job.account_id, "metric": point.metric, "at": point.at,
                "value": int(point.value * MICRO), "collected_at": now,
            }
            for point in points
        }  # fmt: skip
        await service.rollups.collect(list(rows.values()))
        found.update(metric for metric, _ in rows)
        done += len(points)
        percent = 100 * done / total if total > 0 else min(99, pages)
        await ctx.progress(min(100, percent) if cursor else 100, f"{done} points from {pages} pages")
        if cursor is None:
            return Collected(points=dict(found), pages=pages)
    raise UnexpectedReply(f"{job.platform} tells of more than {MOST_PAGES} pages")


async def aggregate(ctx: JobContext, job: Aggregate) -> Aggregated:
    """Roll events up. It may run twice, and in any order with others: each period is counted anew.

    A range of more than `MOST_PERIODS` periods becomes a job for each so many.
    """
    service: AnalyticsService = ctx["analytics"]
    zone, rollups = job.zone or service.settings.zone, service.rollups
    seen: datetime | None = None
    if job.date_range is None:
        chosen, seen = await rollups.touched(job.type, zone)
    else:
        chosen = list(periods(job.type, job.date_range.start, job.date_range.end, zone))
        if len(chosen) > MOST_PERIODS:
            return await _fan_out(ctx, job, chosen, zone)
    for at in range(0, len(chosen), MOST_PERIODS):
        await rollups.roll_up(job.type, zone, chosen[at : at + MOST_PERIODS])
        done = min(at + MOST_PERIODS, len(chosen))
        await ctx.progress(100 * done / len(chosen), f"{done} of {len(chosen)} periods")
    if seen is not None:
        await rollups.move_cursor(job.type, zone, seen)
    told = chosen[-MOST_PERIODS:] if job.metrics else []
    values = [await rollups.values(job.type, zone, period, job.metrics) for period in told]
    return Aggregated(periods=len(chosen), values=values)


async def _fan_out(ctx: JobContext, job: Aggregate, chosen: Sequence[Period], zone: str) -> Aggregated:
    jobs = [
        part.model_copy(update={"metrics": job.metrics})
        for part in backfill(job.type, chosen[0][0], chosen[-1][1], zone)
    ]
    handles = [
        await ctx.producer.enqueue(part, job_id=f"{ctx.idempotency_key('part')}-{number}")
        for number, part in enumerate(jobs)
    ]
    return Aggregated(periods=0, jobs=[handle.id for handle in handles])


def _row(ctx: JobContext, number: int, event: Event, now: datetime) -> dict[str, Any]:
    return {
        "event_id": event.event_id or f"{ctx.job_id}#{number}",
        "name": event.name,
        "at": event.at or ctx.enqueue_time,
        "user_id": event.user_id,
        "value": None if event.value is None else int(event.value * MICRO),
        "properties": to_json(event.properties).decode() if event.properties else None,
        "received_at": now,
    }


def _query(job: CollectMetrics, cursor: str | None) -> str:
    given = {"metrics": ",".join(job.metrics), "since": job.since.isoformat() if job.since else "", "cursor": cursor}
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in given.items() if value)


def _page(told: Any) -> tuple[list[Point], str | None, int]:
    """Read ``{"data": [{"metric", "at", "value"}], "next": cursor or null, "total": a number}``."""
    try:
        points = _POINTS.validate_python(told["data"])
        following, total = told.get("next"), told.get("total")
        return points, None if following in (None, "") else str(following), total if isinstance(total, int) else 0
    except (ValidationError, TypeError, KeyError, AttributeError) as error:
        raise UnexpectedReply(f"the platform's reply is not understood ({type(error).__name__})") from None
