"""pay_commission: once, exact, in balance, with the statistics."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from sqlalchemy import text

from handlers.payments.money import share, units
from handlers.payments.payloads import Commission, PayCommission
from handlers.payments.tables import ENTRIES, REFERRALS, TRANSACTIONS
from tests.handlers.payments.support import Shop, order


async def test_books_and_statistics(shop: Shop) -> None:
    paid = Commission.model_validate((await shop.run(order(1))).value())
    assert (paid.commission, paid.currency, paid.existed) == (Decimal("2.00"), "EUR", False)
    await shop.run(order(2, amount="0.30", rate="0.15"))
    await shop.run(order(3, currency="JPY", amount="1000"))
    accounts = {(row.account, row.amount) for row in await shop.rows(ENTRIES)}
    assert ("expense:commissions", Decimal(2)) in accounts
    assert ("payable:referral:r1", Decimal(-2)) in accounts
    (euros,) = await shop.rows(REFERRALS, currency="EUR")
    # 0.15 of 0.30 is 0.045, half to even 0.04.
    assert (euros.orders, euros.turnover, euros.commission) == (2, Decimal("20.29"), Decimal("2.04"))
    (yen,) = await shop.rows(REFERRALS, currency="JPY")
    assert (yen.orders, yen.commission) == (1, 100)
    await shop.check_books()


async def test_an_order_pays_once(shop: Shop) -> None:
    first = Commission.model_validate((await shop.run(order(1))).value())
    again = await asyncio.gather(*(shop.run(order(1), f"job-{n}") for n in range(4)))
    assert {Commission.model_validate(run.value()).existed for run in again} == {True}
    assert {Commission.model_validate(run.value()).transaction for run in again} == {first.transaction}
    other = await shop.run(order(1, amount="25"), "other")
    assert (other.ending, other.reason) == ("failed", "permanent")
    assert "has paid a commission of 2 EUR, not 2.50 EUR" in str(other.error)
    await shop.run(order(1, referral="r2"))
    assert len(await shop.rows(TRANSACTIONS)) == 2
    await shop.check_books()


async def test_many_at_once(shop: Shop) -> None:
    runs = await asyncio.gather(*(shop.run(order(number % 10), f"job-{number}") for number in range(30)))
    assert {run.ending for run in runs} == {"completed"}
    (row,) = await shop.rows(REFERRALS)
    assert (row.orders, row.turnover, row.commission) == (10, Decimal("199.90"), Decimal("20.00"))
    await shop.check_books()


async def test_nothing_is_half_written(shop: Shop) -> None:
    async with shop.service.database.begin() as connection:
        await connection.execute(text("ALTER TABLE arqd_referrals RENAME TO arqd_gone"))
    assert (await shop.run(order(1))).ending == "retried"
    assert (await shop.rows(TRANSACTIONS), await shop.rows(ENTRIES)) == ([], [])


async def test_less_than_the_smallest_unit(shop: Shop) -> None:
    run = await shop.run(order(1, amount="0.01"))
    assert (run.reason, await shop.rows(TRANSACTIONS)) == ("permanent", [])


@pytest.mark.parametrize(
    ("amount", "rate", "currency", "expected"),
    [
        ("19.99", "0.1", "EUR", "2.00"),
        ("0.25", "0.1", "EUR", "0.02"),
        ("0.35", "0.1", "EUR", "0.04"),
        ("99999999999999999999.99", "0.333333333333", "EUR", "33333333333300000000.00"),
        ("1", "0.1", "JPY", "0"),
        ("1.001", "0.5", "KWD", "0.500"),
        ("1.0001", "0.5", "CLF", "0.5000"),
        ("1", "0.123456789123456789", "ETH", "0.123456789123456789"),
    ],
)
def test_shares(amount: str, rate: str, currency: str, expected: str) -> None:
    assert str(share(Decimal(amount), Decimal(rate), currency)) == expected


def test_units() -> None:
    assert units(Decimal("1.5"), 18) == 1_500_000_000_000_000_000
    assert units(Decimal("99999999999999999999.999999999999999999"), 18) == 10**38 - 1
    with pytest.raises(ValueError, match="0 decimals"):
        units(Decimal("1.5"), 0)


@pytest.mark.parametrize("fields", [{"amount": 19.99}, {"amount": "19.999"}, {"rate": 0.1}, {"rate": "1.1"}])
def test_payloads_that_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"float|digits|less than"):
        order(**fields)


def test_camel_case() -> None:
    job = PayCommission.model_validate({"referralId": "a", "orderId": "b", "amount": "1.00", "currency": "eur"})
    assert (job.currency, job.amount) == ("EUR", Decimal("1.00"))
