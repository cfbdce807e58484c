"""Events in, sums out: each period is counted anew from its events, in SQL.

So it does not matter in which order periods are rolled up, or how often, and a late event is in its period's sums as
soon as that is rolled up again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, case, cast, column, distinct, func, literal, select, text, values

from handlers.analytics.periods import Grain, Period, period_of
from handlers.analytics.tables import CURSORS, EVENTS, METRICS, MICRO, ROLLUPS
from handlers.integrations.database import Database, insert

#: An event that was received so long before the newest one may not have been committed when that was seen, seconds.
OVERLAP = 600.0
#: Largest total of a period: a row holds a little more of it in millionths.
MOST = 9_000_000_000_000

Sums = Mapping[str, tuple[int, int, int]]


def _events(name: str) -> Callable[[Sums], int]:
    return lambda sums: sums.get(name, (0, 0, 0))[0]


def _users(name: str) -> Callable[[Sums], int]:
    return lambda sums: sums.get(name, (0, 0, 0))[1]


def _conversion(sums: Sums) -> float:
    visitors = _users("")(sums)
    return round(_users("purchase")(sums) / visitors, 6) if visitors else 0.0


#: What a metric is, of the sums of a period: events, users and total by an event's name, "" for all.
MEANING: Mapping[str, Callable[[Sums], Any]] = {
    "events": _events(""),
    "page_views": _events("page_view"),
    "purchases": _events("purchase"),
    "sign_ups": _events("sign_up"),
    "revenue": lambda sums: str(Decimal(sums.get("purchase", (0, 0, 0))[2]) / MICRO),
    "visitors": _users(""),
    "buyers": _users("purchase"),
    "conversion_rate": _conversion,
}


def _total(value: ColumnElement[int]) -> ColumnElement[int]:
    """Add values up; a sum that no row holds becomes `MOST`, or as much below nothing, and stops no other one."""
    # Whole units and the rest apart: of those so many fit that their sum is always one.
    units, rest = (func.coalesce(func.sum(part), 0) for part in (value // MICRO, value % MICRO))
    sums = case((units >= MOST, MOST * MICRO), (units <= -MOST, -MOST * MICRO), else_=units * MICRO + rest)
    return cast(sums, BigInteger)


class Rollups:
    """The tables of events, sums and metrics."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def track(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Store events, leaving out those whose id is there; gives how many are new."""
        async with self._database.begin() as connection:
            # RETURNING counts what is new: after an executemany a driver need not know.
            new = insert(connection, EVENTS).on_conflict_do_nothing().returning(EVENTS.c.id)
            return len((await connection.execute(new, list(rows))).all())

    async def collect(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store points of metrics; one that is there gets the new value."""
        if not rows:
            return
        async with self._database.begin() as connection:
            new = insert(connection, METRICS)
            newest = {"value": new.excluded.value, "collected_at": new.excluded.collected_at}
            changed = new.on_conflict_do_update(index_elements=list(METRICS.primary_key), set_=newest)
            await connection.execute(changed, list(rows))

    async def roll_up(self, grain: Grain, zone: str, chosen: Sequence[Period]) -> None:
        """Count periods, at most 200; two jobs that do so for the same grain and zone do it one after the other."""
        if not chosen:
            return
        row, time = EVENTS.c, ROLLUPS.c.start.type
        given = values(column("first", time), column("behind", time), name="given").data(list(chosen)).cte("periods")
        within = (row.at >= given.c.first, row.at < given.c.behind)
        fixed: list[Any] = [literal(grain), literal(zone), given.c.first]
        sums: list[Any] = [func.count(), func.count(distinct(row.user_id)), _total(row.value)]
        now = literal(datetime.now(UTC), time)
        # A period without events has no row: sums of nothing are nothing.
        each = select(*fixed, row.name, *sums, now).where(*within).group_by(given.c.first, row.name)
        whole = select(*fixed, literal(""), *sums, now).where(*within).group_by(given.c.first)
        names = [each.name for each in ROLLUPS.c]
        async with self._database.begin() as connection:
            if not self._database.is_sqlite:
                # What the first one has counted is older than what the second one sees.
                lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")
                await connection.execute(lock, {"key": f"arqd {grain} {zone}"})
            for query in (each, whole):
                new: Any = insert(connection, ROLLUPS).from_select(names, query)
                changed = {name: new.excluded[name] for name in ("events", "users", "total", "computed_at")}
                await connection.execute(
                    new.on_conflict_do_update(index_elements=list(ROLLUPS.primary_key), set_=changed)
                )

    async def touched(self, grain: Grain, zone: str) -> tuple[list[Period], datetime | None]:
        """Give the periods with events that have come since the cursor, and where the cursor is to be then."""
        row = EVENTS.c
        async with self._database.read() as connection:
            mine = select(CURSORS.c.received_at).where(CURSORS.c.grain == grain, CURSORS.c.zone == zone)
            seen = (await connection.execute(mine)).scalar()
            newest = (await connection.execute(select(func.max(row.received_at)))).scalar()
            since = seen and seen - timedelta(seconds=OVERLAP)
            # Of each period one event is found at a time, then the next one behind its end.
            found: list[Period] = []
            at: datetime | None = None
            while True:
                query = select(func.min(row.at))
                if since is not None:
                    query = query.where(row.received_at >= since)
                if at is not None:
                    query = query.where(row.at >= at)
                first = (await connection.execute(query)).scalar()
                if first is None:
                    return found, newest
                found.append(period_of(grain, first, zone))
                at = found[-1][1]

    async def move_cursor(self, grain: Grain, zone: str, seen: datetime) -> None:
        """Remember up to when events were seen."""
        async with self._database.begin() as connection:
            new = insert(connection, CURSORS).values(grain=grain, zone=zone, received_at=seen)
            moved = {"received_at": new.excluded.received_at}
            await connection.execute(new.on_conflict_do_update(index_elements=list(CURSORS.primary_key), set_=moved))

    async def values(self, grain: Grain, zone: str, period: Period, metrics: Sequence[str]) -> dict[str, Any]:
        """Give metrics of a period."""
        row = ROLLUPS.c
        query = select(row.name, row.events, row.users, row.total).where(
            row.grain == grain, row.zone == zone, row.start == period[0]
        )
        async with self._database.read() as connection:
            sums = {name: (events, users, total) for name, events, users, total in await connection.execute(query)}
        return {"start": period[0].isoformat(), **{metric: MEANING[metric](sums) for metric in metrics}}
