"""What is known of each receiver: where it is, whether it works, when it is given up; and the log of deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update

from daemon.errors import ArqdError, PermanentError
from handlers.integrations.database import Database, insert
from handlers.webhooks.payloads import DeliverWebhook, Schedule, endpoint_name
from handlers.webhooks.tables import DELIVERIES, ENDPOINTS

#: Characters of a reply that the log keeps.
REPLY = 1000
#: How many failures it takes at least to give an endpoint up: a quiet one may fail twice in a week.
FEWEST_FAILURES = 5
#: Rows removed in one statement.
PORTION = 5000


class UnknownEndpoint(PermanentError):
    """There is no endpoint of this name: arqd webhooks add."""


class EndpointNotFound(ArqdError):
    """There is no endpoint of this name: arqd webhooks list shows what there is."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A receiver.

    Attributes:
        name: a registered one's, or ``host#digest`` of a URL that came in a job.
        secret_ref: which secret signs.
        failures: since the last success, which was before ``failing_since``.
        held_until: it asked for a pause until then.
        disabled_at, disabled_why: nothing is sent to it any more.
    """

    name: str
    url: str
    secret_ref: str | None
    schedule: Schedule
    registered: bool
    failures: int = 0
    failing_since: datetime | None = None
    held_until: datetime | None = None
    disabled_at: datetime | None = None
    disabled_why: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to deliver, as the log keeps it."""

    endpoint: str
    webhook_id: str
    event: str
    attempt: int
    at: datetime
    seconds: float
    status: int | None
    reply: str

    @property
    def delivered(self) -> bool:
        """Whether the endpoint has taken it."""
        return self.status is not None and 200 <= self.status < 300


class Endpoints:
    """The receivers and the log.

    Args:
        disable_after: seconds of failures alone after which one is disabled.
    """

    def __init__(self, database: Database, disable_after: float) -> None:
        self.database, self._disable_after = database, timedelta(seconds=disable_after)

    # ------------------------------------------------------------------ what a delivery asks

    async def of_job(self, job: DeliverWebhook) -> Endpoint:
        """Give the endpoint of a job; one that came as a URL is known from its first failure on.

        Raises:
            UnknownEndpoint: for a name nobody has registered.
        """
        name = endpoint_name(job.endpoint)
        found = await self.find(name)
        if found is not None:
            return found
        if "://" not in job.endpoint:
            raise UnknownEndpoint(f"there is no endpoint {name}: arqd webhooks add {name} URL")
        return Endpoint(name, job.endpoint, job.secret_ref, "family", False)

    async def find(self, name: str) -> Endpoint | None:
        """Give an endpoint by its name."""
        async with self.database.read() as connection:
            row = (await connection.execute(select(ENDPOINTS).where(ENDPOINTS.c.name == name))).mappings().first()
        return None if row is None else Endpoint(**row)

    async def record(self, endpoint: Endpoint, attempt: Attempt, *, hold: float | None = None) -> Endpoint:
        """Write a try into the log, and what it says of the endpoint.

        Args:
            hold: seconds the endpoint asked to be left alone.
        """
        async with self.database.begin() as connection:
            row = {name: getattr(attempt, name) for name in Attempt.__dataclass_fields__}
            await connection.execute(DELIVERIES.insert().values({**row, "reply": attempt.reply[:REPLY]}))
            if attempt.delivered:
                await _works(connection, endpoint)
                return endpoint
            await _known(connection, endpoint)
            query = select(ENDPOINTS).where(ENDPOINTS.c.name == endpoint.name)
            now = Endpoint(**(await connection.execute(query)).mappings().one())
            since = now.failing_since or attempt.at
            values: dict[str, Any] = {"failures": now.failures + 1, "failing_since": since}
            if hold is not None:
                values["held_until"] = attempt.at + timedelta(seconds=hold)
            why = self._given_up(attempt, now.failures + 1, since)
            if why and now.disabled_at is None:
                values |= {"disabled_at": attempt.at, "disabled_why": why}
            await connection.execute(update(ENDPOINTS).where(ENDPOINTS.c.name == endpoint.name).values(values))
        found = await self.find(endpoint.name)
        return found or endpoint

    def _given_up(self, attempt: Attempt, failures: int, since: datetime) -> str | None:
        if attempt.status == 410:
            return "it answers 410: it is gone"
        if failures >= FEWEST_FAILURES and attempt.at - since >= self._disable_after:
            return f"{failures} failures and no success since {since:%Y-%m-%d %H:%M} UTC"
        return None

    # ------------------------------------------------------------------ what an operator asks

    async def register(self, name: str, url: str, secret_ref: str, schedule: Schedule = "family") -> Endpoint:
        """Register an endpoint, or change one; what is known of its health stays."""
        values = {"url": url, "secret_ref": secret_ref, "schedule": schedule, "registered": True}
        async with self.database.begin() as connection:
            new = insert(connection, ENDPOINTS).values({"name": name, "failures": 0, **values})
            await connection.execute(new.on_conflict_do_update(index_elements=["name"], set_=values))
        found = await self.find(name)
        assert found is not None
        return found

    async def listed(self, *, disabled: bool = False) -> list[Endpoint]:
        """Give the registered endpoints and those that fail, or only the disabled ones, by name."""
        query = select(ENDPOINTS).order_by(ENDPOINTS.c.name)
        if disabled:
            query = query.where(ENDPOINTS.c.disabled_at.is_not(None))
        async with self.database.read() as connection:
            return [Endpoint(**row) for row in (await connection.execute(query)).mappings()]

    async def enable(self, name: str) -> None:
        """Let deliveries to an endpoint go on, and forget its failures.

        Raises:
            EndpointNotFound: there is none of this name.
        """
        well = {"failures": 0, "failing_since": None, "held_until": None, "disabled_at": None, "disabled_why": None}
        await self._change(name, **well)

    async def disable(self, name: str, why: str) -> None:
        """Stop deliveries to an endpoint; raises as `enable`."""
        await self._change(name, disabled_at=datetime.now(UTC), disabled_why=why)

    async def remove(self, name: str) -> None:
        """Forget an endpoint; its log stays. Raises as `enable`."""
        async with self.database.begin() as connection:
            done = await connection.execute(delete(ENDPOINTS).where(ENDPOINTS.c.name == name))
        _must_exist(name, done.rowcount)

    async def _change(self, name: str, **values: Any) -> None:
        async with self.database.begin() as connection:
            done = await connection.execute(update(ENDPOINTS).where(ENDPOINTS.c.name == name).values(values))
        _must_exist(name, done.rowcount)

    async def deliveries(self, name: str, limit: int = 50) -> Sequence[Attempt]:
        """Give the newest tries of an endpoint, the newest first."""
        columns = [DELIVERIES.c[field] for field in Attempt.__dataclass_fields__]
        query = select(*columns).where(DELIVERIES.c.endpoint == name).order_by(DELIVERIES.c.id.desc()).limit(limit)
        async with self.database.read() as connection:
            return [Attempt(**row) for row in (await connection.execute(query)).mappings()]

    async def prune(self, before: datetime) -> int:
        """Remove tries that are older from the log, in portions; gives how many.

        An endpoint that nobody has registered, that came in a job and has only failed since, is forgotten as well.
        """
        removed = 0
        row = ENDPOINTS.c
        failing = (row.registered.is_(False), row.disabled_at.is_(None), row.failing_since < before)
        async with self.database.begin() as connection:
            await connection.execute(delete(ENDPOINTS).where(*failing))
        while True:
            old = select(DELIVERIES.c.id).where(DELIVERIES.c.at < before).limit(PORTION)
            async with self.database.begin() as connection:
                done = await connection.execute(delete(DELIVERIES).where(DELIVERIES.c.id.in_(old)))
            removed += done.rowcount
            if done.rowcount < PORTION:
                return removed

    async def count(self) -> int:
        """Count the tries in the log."""
        async with self.database.read() as connection:
            return int((await connection.execute(select(func.count()).select_from(DELIVERIES))).scalar_one())


async def _works(connection: Any, endpoint: Endpoint) -> None:
    """One that has failed is well again; one that nobody has registered needs no row any more."""
    row = ENDPOINTS.c
    mine = row.name == endpoint.name
    if endpoint.registered:
        well = {"failures": 0, "failing_since": None, "held_until": None}
        await connection.execute(update(ENDPOINTS).where(mine, row.failing_since.is_not(None)).values(well))
    else:
        await connection.execute(delete(ENDPOINTS).where(mine, row.registered.is_(False), row.disabled_at.is_(None)))


async def _known(connection: Any, endpoint: Endpoint) -> None:
    """Have a row for it, locked: a success at the same time may remove one."""
    new = insert(connection, ENDPOINTS).values(
        name=endpoint.name,
        url=endpoint.url,
        secret_ref=endpoint.secret_ref,
        schedule=endpoint.schedule,
        registered=endpoint.registered,
        failures=0,
    )
    await connection.execute(new.on_conflict_do_update(index_elements=["name"], set_={"name": endpoint.name}))


def _must_exist(name: str, changed: int) -> None:
    if not changed:
        raise EndpointNotFound(f"there is no endpoint {name}: arqd webhooks list shows what there is")
