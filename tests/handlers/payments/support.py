"""The payments family with its providers and its database, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select, update

from daemon.payload import Payload
from daemon.testing.handlers import HandlerRun, run_handler
from handlers.payments.commissions import pay_commission
from handlers.payments.payloads import PayCommission, RetryPayment
from handlers.payments.tables import ATTEMPTS, ENTRIES, REFERRALS, TRANSACTIONS
from handlers.payments.tasks import PaymentService, retry_payment
from handlers.payments.worker import WorkerSettings
from tests.handlers.payments.providers import NodeServer, StripeServer, YooKassaServer

PROVIDERS = ("stripe", "yookassa")


@dataclass
class Shop:
    """The family with its providers and its database."""

    stripe: StripeServer
    yookassa: YooKassaServer
    node: NodeServer
    environ: dict[str, str]
    ctx: dict[str, Any]

    @property
    def service(self) -> PaymentService:
        service: PaymentService = self.ctx["payments"]
        return service

    async def run(self, job: Payload, job_id: str = "job", **more: Any) -> HandlerRun:
        """Run one try of a job."""
        function = retry_payment if isinstance(job, RetryPayment) else pay_commission
        return await run_handler(function, job, settings=WorkerSettings, ctx=self.ctx, job_id=job_id, **more)

    async def rows(self, table: Any, **where: Any) -> list[Any]:
        query = select(table)
        for name, value in where.items():
            query = query.where(table.c[name] == value)
        async with self.service.database.read() as connection:
            return list((await connection.execute(query)).all())

    async def age(self, payment_id: str, hours: float) -> None:
        """Have a payment's attempts been opened so long ago."""
        earlier = datetime.now(UTC) - timedelta(hours=hours)
        async with self.service.database.begin() as connection:
            await connection.execute(
                update(ATTEMPTS).where(ATTEMPTS.c.payment_id == payment_id).values(opened_at=earlier)
            )

    async def check_books(self) -> None:
        """Every transaction's entries cancel out, and the statistics are the sums of the books."""
        entries = await self.rows(ENTRIES)
        for transaction in await self.rows(TRANSACTIONS):
            amounts = [entry.amount for entry in entries if entry.transaction == transaction.id]
            assert sorted(amounts) == [-transaction.amount, transaction.amount]
        assert len(entries) == 2 * len(await self.rows(TRANSACTIONS))
        for referral in await self.rows(REFERRALS):
            account = f"payable:referral:{referral.referral_id}"
            currencies = {row.id: row.currency for row in await self.rows(TRANSACTIONS)}
            owed = [
                -e.amount for e in entries if e.account == account and currencies[e.transaction] == referral.currency
            ]
            assert (sum(owed), len(owed)) == (referral.commission, referral.orders)


def order(number: int = 1, referral: str = "r1", **more: Any) -> PayCommission:
    """A commission on an order."""
    return PayCommission(
        **{"referral_id": referral, "order_id": f"o{number}", "amount": "19.99", "currency": "EUR"} | more
    )


def charge(provider: str, name: str = "pi_1") -> RetryPayment:
    """A charge to retry."""
    more = {"amount": "10", "currency": "RUB", "payment_method": "card-1"} if provider == "yookassa" else {}
    return RetryPayment.model_validate({"payment_id": name, "provider": provider, **more})


def failed_payment(shop: Shop, provider: str, name: str = "pi_1") -> Any:
    """Have a payment that failed, and give the provider's server."""
    if provider == "stripe":
        shop.stripe.intent(name)
        return shop.stripe
    shop.yookassa.payment(name)
    return shop.yookassa
