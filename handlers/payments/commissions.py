"""``pay_commission``: a referrer's share of an order goes into the books, once, with the statistics of the referral."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.context import JobContext
from daemon.errors import PermanentError
from handlers.integrations.database import insert
from handlers.payments.money import EXACT, share
from handlers.payments.payloads import Commission, PayCommission
from handlers.payments.tables import ENTRIES, REFERRALS, TRANSACTIONS
from handlers.payments.tasks import PaymentService

#: Debited with what referrers get, and credited to each of them.
EXPENSE, PAYABLE = "expense:commissions", "payable:referral:{}"


async def pay_commission(ctx: JobContext, job: PayCommission) -> Commission:
    """Write a commission: its transaction with two entries, and the referral's statistics, all or nothing.

    The transaction's reference is the order and the referral, so a second job, or the same one again, finds it and
    writes nothing.

    Raises:
        PermanentError: the order has paid this referral another commission, or the share rounds to nothing.
    """
    service: PaymentService = ctx["payments"]
    rate = service.settings.commission_rate if job.rate is None else job.rate
    commission = share(job.amount, rate, job.currency)
    if not commission:
        raise PermanentError(f"{rate} of this order is less than the smallest unit of {job.currency}")
    async with service.database.begin() as connection:
        transaction = await _transaction(connection, job, commission)
        if transaction is None:
            return await _existing(connection, job, commission)
        await connection.execute(
            ENTRIES.insert(),
            [
                {"transaction": transaction, "account": EXPENSE, "amount": commission},
                {"transaction": transaction, "account": PAYABLE.format(job.referral_id), "amount": -commission},
            ],
        )
        await _count(connection, job, commission)
    return Commission(transaction=transaction, commission=commission, currency=job.currency, existed=False)


def _reference(job: PayCommission) -> str:
    # With the length of the first: ids may hold any character.
    return f"commission:{len(job.order_id)}:{job.order_id}:{job.referral_id}"


async def _transaction(connection: AsyncConnection, job: PayCommission, commission: Decimal) -> str | None:
    """Write the transaction, and give its id; None when it is there already."""
    values = {
        "id": str(uuid.uuid4()),
        "reference": _reference(job),
        "currency": job.currency,
        "amount": commission,
        "at": datetime.now(UTC),
    }
    once = insert(connection, TRANSACTIONS).values(values).on_conflict_do_nothing().returning(TRANSACTIONS.c.id)
    made: str | None = (await connection.execute(once)).scalar_one_or_none()
    return made


async def _existing(connection: AsyncConnection, job: PayCommission, commission: Decimal) -> Commission:
    mine = select(TRANSACTIONS).where(TRANSACTIONS.c.reference == _reference(job))
    found = (await connection.execute(mine)).one()
    if (found.amount, found.currency) != (commission, job.currency):
        raise PermanentError(
            f"this order has paid a commission of {found.amount:f} {found.currency}, not {commission:f} {job.currency}"
        )
    return Commission(transaction=found.id, commission=commission, currency=job.currency, existed=True)


async def _count(connection: AsyncConnection, job: PayCommission, commission: Decimal) -> None:
    """Add to the referral's statistics. The sums are made here: SQLite would make them with floats."""
    row, nothing = REFERRALS.c, Decimal(0)
    first = {"orders": 0, "turnover": nothing, "commission": nothing, "last_order_at": datetime.now(UTC)}
    key = {"referral_id": job.referral_id, "currency": job.currency}
    await connection.execute(insert(connection, REFERRALS).values(key | first).on_conflict_do_nothing())
    mine = (row.referral_id == job.referral_id) & (row.currency == job.currency)
    found = (await connection.execute(select(REFERRALS).where(mine).with_for_update())).one()
    sums = {
        "orders": found.orders + 1,
        "turnover": EXACT.add(found.turnover, job.amount),
        "commission": EXACT.add(found.commission, commission),
        "last_order_at": datetime.now(UTC),
    }
    await connection.execute(update(REFERRALS).where(mine).values(sums))
