"""What the analytics family takes and gives. A producer needs only this module (pydantic, nothing else)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from daemon.payload import Payload, PayloadModel
from handlers.analytics.periods import Grain, periods
from handlers.integrations.texts import no_nul

__all__ = ["Aggregate", "Aggregated", "CollectMetrics", "Collected", "Event", "TrackEvents", "Tracked", "backfill"]

#: Events of one job, periods of one job.
MOST_EVENTS, MOST_PERIODS = 10_000, 200
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\x21-\x7e]+$")]
Metric = Literal["events", "page_views", "purchases", "sign_ups", "revenue", "visitors", "buyers", "conversion_rate"]
#: Later or earlier than that is a clock or a unit gone wrong, and calendars end somewhere.
Moment = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC))]
#: Longest range of one job; it becomes a job for each `MOST_PERIODS`.
LONGEST_RANGE = timedelta(days=20 * 366)
#: Six digits behind the point, so that databases add it exactly.
Value = Annotated[Decimal, Field(max_digits=18, decimal_places=6)]


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone: write a name of the IANA list, Europe/Berlin") from None
    return name


def _account(text: str) -> str:
    # It stands in the path of an address, in which these mean folders.
    if text in (".", ".."):
        raise ValueError(f"{text!r} is no account")
    return text


Zone = Annotated[str, Field(max_length=64), AfterValidator(_zone)]
Account = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_account), AfterValidator(no_nul)]


class Event(PayloadModel):
    """Something that happened.

    Fields:
        name: ``page_view``, ``purchase``, ``sign_up`` or one of yours.
        event_id: an event of this id is stored once; default the job's id and the event's place in it.
        at: when; default when the job was enqueued.
        value: an amount of money, say.
    """

    name: Name
    event_id: Annotated[str, AfterValidator(no_nul), Field(min_length=1, max_length=200)] | None = None
    at: Moment | None = None
    user_id: Annotated[str, AfterValidator(no_nul), Field(max_length=200)] | None = None
    value: Value | None = None
    properties: dict[str, Any] = Field(default_factory=dict)


class Tracked(PayloadModel):
    """How many events are new, and how many were there already."""

    stored: int
    duplicates: int


class TrackEvents(Payload, family="analytics", function="track_events", returns=Tracked):
    """Store events."""

    events: list[Event] = Field(min_length=1, max_length=MOST_EVENTS)


class Collected(PayloadModel):
    """How many points of which metrics were stored, from how many pages."""

    points: dict[str, int]
    pages: int


class CollectMetrics(Payload, family="analytics", function="collect_metrics", returns=Collected):
    """Pull an account's metrics from a platform of ``ARQD_ANALYTICS__SOURCES``.

    Fields:
        metrics: which; default all the platform tells.
        since: only points from then on, where the platform can.
    """

    platform: Name
    account_id: Account
    metrics: list[Name] = Field(default_factory=list, max_length=100)
    since: AwareDatetime | None = None


class DateRange(PayloadModel):
    """From ``start`` up to ``end``, which is excluded."""

    start: Moment
    end: Moment

    @model_validator(mode="after")
    def _forward(self) -> Self:
        if self.end <= self.start:
            raise ValueError("a range ends after it has begun")
        if self.end - self.start > LONGEST_RANGE:
            raise ValueError("a range has at most 20 years: give several")
        return self


class Aggregated(PayloadModel):
    """How many periods were rolled up; what was asked for of them; or the ids of jobs that a long range became."""

    periods: int
    values: list[dict[str, Any]] = Field(default_factory=list)
    jobs: list[str] = Field(default_factory=list)


class Aggregate(Payload, family="analytics", function="aggregate", returns=Aggregated):
    """Roll events up.

    Fields:
        type: how long the periods are.
        date_range: which; default those with events that have come since the last time, late ones included.
        metrics: what the result tells of each period.
        zone: whose days, weeks and months; default ``ARQD_ANALYTICS__ZONE``.
    """

    type: Grain
    date_range: DateRange | None = None
    metrics: list[Metric] = Field(default_factory=list)
    zone: Zone | None = None


def backfill(grain: Grain, start: datetime, end: datetime, zone: str = "UTC") -> list[Aggregate]:
    """Give the jobs that roll a range up, for ``enqueue_many`` or `daemon.flows.batch`; their order does not matter."""
    found = list(periods(grain, start, end, _zone(zone)))
    parts = [found[at : at + MOST_PERIODS] for at in range(0, len(found), MOST_PERIODS)]
    return [Aggregate(type=grain, zone=zone, date_range=DateRange(start=part[0][0], end=part[-1][1])) for part in parts]
