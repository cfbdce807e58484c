"""Attempts to charge: each is written down, with its idempotency key and body, before the provider is called."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import select, update

from handlers.integrations.database import Database, insert
from handlers.integrations.texts import kept
from handlers.payments.tables import ATTEMPTS

#: Characters of a provider's word for how an attempt ended.
DETAIL = 500


@dataclass(frozen=True, slots=True)
class State:
    """What a provider says of a payment, or of an attempt.

    Attributes:
        kind: ``paid``; ``failed`` (for good, proved); ``pending`` (its end is still to come); ``customer`` (only the
            customer can go on); ``unknown`` (it may have been charged).
        detail: the provider's word for it, for people: a status, a decline code.
        object_id: the provider's object that says so.
        wait: how long to wait before asking again, seconds; None: as usual.
        method: what it was to be paid with, where the provider tells.
    """

    kind: Literal["paid", "failed", "pending", "customer", "unknown"]
    detail: str
    object_id: str | None = None
    wait: float | None = None
    method: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of `ATTEMPTS`."""

    id: int
    number: int
    job_id: str
    key: str
    body: dict[str, Any]
    state: str
    object_id: str | None
    detail: str | None
    opened_at: datetime
    closed_at: datetime | None

    @property
    def age(self) -> float:
        """Seconds since its key was made, and so at least since it was first used."""
        return (datetime.now(UTC) - self.opened_at).total_seconds()


class Attempts:
    """The attempts of all payments."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def last(self, provider: str, payment_id: str) -> Attempt | None:
        """Give the last attempt of a payment; None for none."""
        row = ATTEMPTS.c
        mine = select(ATTEMPTS).where(row.provider == provider, row.payment_id == payment_id)
        async with self._database.read() as connection:
            found = (await connection.execute(mine.order_by(row.number.desc()).limit(1))).first()
        return _attempt(found) if found else None

    async def add(
        self,
        provider: str,
        payment_id: str,
        after: Attempt | None,
        job_id: str,
        body: dict[str, Any],
        *,
        key: str | None = None,
        done: State | None = None,
    ) -> Attempt | None:
        """Write an attempt that follows another one; None when somebody else has written one meanwhile.

        Args:
            after: the last one as it was read.
            key: default a new one.
            done: it is at its end already.
        """
        now = datetime.now(UTC)
        values: dict[str, Any] = {
            "provider": provider,
            "payment_id": payment_id,
            "number": after.number + 1 if after else 1,
            "job_id": job_id,
            "key": key or str(uuid.uuid4()),
            "body": json.dumps(body, sort_keys=True),
            "state": "open",
            "opened_at": now,
        }
        if done is not None:
            values |= {"state": _closed(done), "object_id": done.object_id, "detail": _detail(done), "closed_at": now}
        async with self._database.begin() as connection:
            once = insert(connection, ATTEMPTS).values(values).on_conflict_do_nothing()
            row = (await connection.execute(once.returning(ATTEMPTS))).first()
        return _attempt(row) if row else None

    async def close(self, attempt: Attempt, state: State) -> None:
        """Write down how an attempt ended, unless that is written already."""
        ended = {"state": _closed(state), "detail": _detail(state), "closed_at": datetime.now(UTC)}
        await self._change(attempt, ended | ({"object_id": state.object_id} if state.object_id else {}))

    async def note(self, attempt: Attempt, object_id: str) -> None:
        """Write down which object of the provider's tells of an attempt."""
        await self._change(attempt, {"object_id": object_id})

    async def _change(self, attempt: Attempt, values: dict[str, Any]) -> None:
        mine = (ATTEMPTS.c.id == attempt.id) & (ATTEMPTS.c.state == "open")
        async with self._database.begin() as connection:
            await connection.execute(update(ATTEMPTS).where(mine).values(values))


def _closed(state: State) -> str:
    return "succeeded" if state.kind == "paid" else "failed"


def _detail(state: State) -> str:
    # Whatever the provider's word for it is: how a charge ended must get into the database.
    return kept(state.detail)[:DETAIL]


def _attempt(row: Any) -> Attempt:
    return Attempt(
        row.id,
        row.number,
        row.job_id,
        row.key,
        json.loads(row.body),
        row.state,
        row.object_id,
        row.detail,
        row.opened_at,
        row.closed_at,
    )
