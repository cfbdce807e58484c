"""What was used and what may be: each call is written down with the most it may cost before it is made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.errors import PermanentError, RetryAfter
from handlers.ai.settings import AiSettings
from handlers.ai.tables import DAYS, USAGE
from handlers.integrations.database import Database, insert

_WIDE = Context(prec=60)
_MILLION = Decimal(1_000_000)


class OverBudget(PermanentError):
    """The group's budget of this day is used up."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """How many a call uses."""

    prompt: int
    completion: int


@dataclass(frozen=True, slots=True)
class Booking:
    """A call under way, and what is set aside for it; ``cost`` is None where the model has no price."""

    id: int
    group: str
    day: str
    model: str
    cost: Decimal | None


class Budget:
    """The books of all groups; jobs without a group are the group ""."""

    def __init__(self, database: Database, settings: AiSettings) -> None:
        self._database = database
        self._settings = settings

    async def book(self, job_id: str, group: str, model: str, most: Tokens) -> Booking:
        """Set aside what a call may cost at most.

        Raises:
            RetryAfter, OverBudget: it is more than is left of the day, as ``ARQD_AI__OVER_BUDGET`` says.
            PermanentError: it is more than a whole day's, or the model has no price.
        """
        limit = self._settings.budgets.get(group, self._settings.budget)
        cost = self._cost(model, most)
        if limit is not None and cost is None:
            raise PermanentError(f"there is a budget, and no price for the model {model}: set ARQD_AI__PRICES")
        if limit is not None and cost is not None and cost > limit:
            raise OverBudget(f"this call may cost {cost:f}, and a day's budget is {limit:f}: lower max_tokens")
        now = datetime.now(UTC)
        day = f"{now:%Y-%m-%d}"
        values: dict[str, Any] = {"job_id": job_id, "group": group, "day": day, "model": model, "cost": cost, "at": now}
        values |= {"prompt_tokens": most.prompt, "completion_tokens": most.completion}
        async with self._database.begin() as connection:
            spent = await _spent(connection, group, day)
            if limit is not None and cost is not None and _WIDE.add(spent, cost) > limit:
                raise self._over(group, now)
            await _spend(connection, group, day, _WIDE.add(spent, cost or Decimal(0)))
            made = await connection.execute(insert(connection, USAGE).values(values).returning(USAGE.c.id))
            return Booking(int(made.scalar_one()), group, day, model, cost)

    async def settle(self, booking: Booking, used: Tokens) -> Decimal | None:
        """Write down what a call has used, and give what it cost."""
        cost = self._cost(booking.model, used)
        values = {"prompt_tokens": used.prompt, "completion_tokens": used.completion, "cost": cost}
        async with self._database.begin() as connection:
            spent = await _spent(connection, booking.group, booking.day)
            left = _WIDE.subtract(spent, booking.cost or Decimal(0))
            await _spend(connection, booking.group, booking.day, _WIDE.add(left, cost or Decimal(0)))
            mine = update(USAGE).where(USAGE.c.id == booking.id)
            await connection.execute(mine.values(**values, ended_at=datetime.now(UTC)))
        return cost

    def _cost(self, model: str, tokens: Tokens) -> Decimal | None:
        price = self._settings.prices.get(model)
        if price is None:
            return None
        cost = _WIDE.add(_WIDE.multiply(price.input, tokens.prompt), _WIDE.multiply(price.output, tokens.completion))
        return _WIDE.divide(cost, _MILLION)

    def _over(self, group: str, now: datetime) -> Exception:
        if self._settings.over_budget == "fail":
            return OverBudget(f"the budget of {group or 'jobs without a group'} for {now:%Y-%m-%d} is used up")
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        return RetryAfter((midnight - now).total_seconds() + 1, "job")


async def _spent(connection: AsyncConnection, group: str, day: str) -> Decimal:
    """Give what was spent, and lock the row until the transaction ends."""
    new = insert(connection, DAYS).values(group=group, day=day, spent=Decimal(0))
    await connection.execute(new.on_conflict_do_nothing())
    mine = select(DAYS.c.spent).where(DAYS.c.group == group, DAYS.c.day == day).with_for_update()
    spent: Decimal = (await connection.execute(mine)).scalar_one()
    return spent


async def _spend(connection: AsyncConnection, group: str, day: str, spent: Decimal) -> None:
    mine = update(DAYS).where(DAYS.c.group == group, DAYS.c.day == day)
    await connection.execute(mine.values(spent=spent))
