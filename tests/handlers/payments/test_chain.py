"""Transfers on the chain of a real node: they count when they are deep enough, and only as long as they are there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daemon.settings import load_settings
from daemon.testing.handlers import HandlerRun, run_handler
from handlers.payments.payloads import RetryPayment
from handlers.payments.tasks import retry_payment
from handlers.payments.worker import WorkerSettings, close_payments, open_payments
from tests.anvil import OPERATOR, WINNER, Anvil, calldata, deployed

#: Runs one try of a job that checks a transfer.
Check = Callable[..., Awaitable[HandlerRun]]
ETHER = 10**18


@pytest.fixture
async def check(anvil: Anvil, database_url: str) -> AsyncIterator[Check]:
    environ = {
        "ARQD_DATABASE_URL": database_url,
        "ARQD_HTTP__CONNECT_TIMEOUT": "60",
        "ARQD_RPC__ANVIL": anvil.url,
        "ARQD_PAYMENTS__CONFIRMATIONS": "3",
    }
    ctx: dict[str, Any] = {"settings": load_settings(environ)}
    await open_payments(ctx)

    async def run(
        tx_hash: str, payment_id: str = "order-42", receipts: Mapping[str, Any] | None = None, **fields: Any
    ) -> HandlerRun:
        given = {"amount": "1.5", "network_id": "anvil", "to": WINNER, **fields}
        job = RetryPayment(payment_id=payment_id, provider="crypto", tx_hash=tx_hash, **given)
        about = {"settings": WorkerSettings, "ctx": ctx, "receipts": receipts, "job_id": payment_id}
        return await run_handler(retry_payment, job, **about)

    yield run
    await close_payments(ctx)


async def test_a_transfer_counts_with_its_confirmations(anvil: Anvil, check: Check) -> None:
    sent = anvil.send(to=WINNER, value=hex(3 * ETHER // 2))
    for _ in range(2):
        assert (await check(sent)).ending == "told_to_wait"
        anvil.mine()
    paid = (await check(sent)).value()
    assert (paid.status, paid.object_id, paid.attempt) == ("3 confirmations", f"31337:{sent}", 1)
    again = (await check(sent)).value()
    assert again.object_id == paid.object_id
    other = await check(sent, "order-43")
    assert (other.ending, other.reason, str(other.error)) == (
        "failed",
        "permanent",
        "this transfer has paid another payment",
    )


async def test_a_reorganisation_takes_it_back(anvil: Anvil, check: Check) -> None:
    sent = anvil.send(to=WINNER, value=hex(2 * ETHER))
    anvil.mine()
    assert (await check(sent)).ending == "told_to_wait"
    anvil.reorganise(2)
    anvil.mine(5)
    assert anvil.call("eth_getTransactionReceipt", sent) is None
    assert (await check(sent)).ending == "told_to_wait", "however long the chain is, it is not on it"


async def test_one_that_was_replaced(anvil: Anvil, check: Check) -> None:
    """By one of the same nonce: it can arrive no more."""
    anvil.call("evm_setAutomine", False)
    about = {"from": OPERATOR, "to": WINNER, "nonce": anvil.call("eth_getTransactionCount", OPERATOR, "latest")}
    about |= {"value": hex(3 * ETHER // 2), "gas": hex(21_000)}
    sent = anvil.call("eth_sendTransaction", about | {"gasPrice": hex(2 * 10**9)})
    first = await check(sent)
    assert first.ending == "told_to_wait"
    other = anvil.call("eth_sendTransaction", about | {"gasPrice": hex(4 * 10**9)})
    anvil.mine(2)
    assert (await check(sent, receipts=first.receipts)).ending == "told_to_wait"
    anvil.mine()
    run = await check(sent, receipts=first.receipts)
    assert (run.ending, run.reason) == ("failed", "permanent")
    assert "the transfer failed: the transaction was replaced" in str(run.error)
    assert (await check(other)).value().object_id == f"31337:{other}"


@pytest.mark.parametrize(
    ("value", "fields"), [(ETHER, {}), (2 * ETHER, {"to": "0x" + "1" * 40})], ids=["too little", "somebody else"]
)
async def test_another_transfer_than_the_one_expected(
    anvil: Anvil, check: Check, value: int, fields: dict[str, Any]
) -> None:
    sent = anvil.send(to=WINNER, value=hex(value))
    anvil.mine(3)
    run = await check(sent, **fields)
    assert (run.ending, run.reason) == ("failed", "permanent")
    assert "it is not the one expected" in str(run.error)


@pytest.mark.parametrize("of_token", [False, True], ids=["coin", "token"])
async def test_who_has_to_have_paid(anvil: Anvil, check: Check, of_token: bool) -> None:
    if of_token:
        token, _ = deployed(anvil, "Coin")
        sent, wanted = anvil.send(to=token, data=calldata("transfer(address,uint256)", WINNER, 1_500_000)), 1_500_000
        fields: dict[str, Any] = {"token": token, "decimals": 6}
    else:
        sent, wanted, fields = anvil.send(to=WINNER, value=hex(2 * ETHER)), 3 * ETHER // 2, {}
    anvil.mine(3)
    other = await check(sent, sender=WINNER, **fields)
    assert (other.ending, other.reason) == ("failed", "permanent")
    assert f"pays 0 of {wanted} units to the receiver from {WINNER}" in str(other.error)
    assert (await check(sent, sender=OPERATOR, **fields)).ending == "completed"


async def test_a_transfer_from_before_the_payment(anvil: Anvil, check: Check) -> None:
    sent = anvil.send(to=WINNER, value=hex(2 * ETHER))
    block = anvil.call("eth_getTransactionReceipt", sent)["blockNumber"]
    made = datetime.fromtimestamp(int(anvil.call("eth_getBlockByNumber", block, False)["timestamp"], 16), UTC)
    anvil.mine(3)
    old = await check(sent, not_before=made + timedelta(seconds=1))
    assert (old.ending, old.reason) == ("failed", "permanent")
    assert str(old.error) == f"the transfer is of {made:%Y-%m-%dT%H:%M:%SZ}, from before this payment"
    # A block's time is in whole seconds, a payment's is not.
    assert (await check(sent, not_before=made + timedelta(milliseconds=900))).ending == "completed"


async def test_a_token(anvil: Anvil, check: Check) -> None:
    coin, _ = deployed(anvil, "Coin")
    sent = anvil.send(to=coin, data=calldata("transfer(address,uint256)", WINNER, 1_500_000))
    anvil.mine(2)
    assert (await check(sent, token=coin, decimals=6)).value().status == "3 confirmations"
    other = await check(sent, "order-43", token="0x" + "2" * 40, decimals=6)
    assert (other.ending, other.reason) == ("failed", "permanent")


async def test_a_transfer_that_was_reverted(anvil: Anvil, check: Check) -> None:
    coin, _ = deployed(anvil, "Coin")
    sent = anvil.send(to=coin, data=calldata("transfer(address,uint256)", WINNER, 10**30))
    # A reorganisation may yet put it into a block in which it goes well.
    assert (await check(sent, token=coin, decimals=6)).ending == "told_to_wait"
    anvil.mine(2)
    run = await check(sent, token=coin, decimals=6)
    assert (run.ending, str(run.error)) == ("failed", "the transfer failed: the transaction was reverted")
