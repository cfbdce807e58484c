"""retry_payment, case by case: what is called, with which key, and what is told."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from daemon.context import JobContext
from daemon.errors import RetryAfter
from daemon.family import load_family
from daemon.job import JobState
from daemon.producer import Producer
from handlers.payments.payloads import RetriedPayment, RetryPayment
from handlers.payments.tables import ATTEMPTS
from handlers.payments.tasks import OutcomeUnknown, PaymentDeclined
from handlers.payments.worker import WorkerSettings
from tests.engine import eventually, until, working
from tests.handlers.payments.support import PROVIDERS, Shop, charge, failed_payment, order

TX, TO, TOKEN = "0x" + "ab" * 32, "0x" + "Cd" * 20, "0x" + "ef" * 20


def posts(server: Any) -> int:
    return sum(method == "POST" for method, _ in server.calls)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_charged_once_however_often_it_runs(shop: Shop, provider: str) -> None:
    server = failed_payment(shop, provider)
    first = await shop.run(charge(provider))
    result: RetriedPayment = RetriedPayment.model_validate(first.value())
    assert (result.attempt, result.status) == (1, "succeeded")
    for job_id in ("job", "another"):
        again = RetriedPayment.model_validate((await shop.run(charge(provider), job_id)).value())
        assert again.object_id == result.object_id
    assert (posts(server), server.charges) == (1, {"pi_1": 1})


async def test_stripe_charges_the_method_that_failed_unless_another_one_is_given(shop: Shop) -> None:
    """A PaymentIntent that failed has no method any more: confirmed without one it would fail for ever."""
    shop.stripe.intent("pi_1", method="pm_first")
    shop.stripe.intent("pi_2", method="pm_first")
    shop.stripe.intent("pi_3", "requires_confirmation", method="pm_attached")
    other = charge("stripe", "pi_2").model_copy(update={"payment_method": "pm_other"})
    for job in (charge("stripe", "pi_1"), other, charge("stripe", "pi_3")):
        assert (await shop.run(job, job.payment_id)).ending == "completed"
    used = {row.payment_id: json.loads(row.body)["payment_method"] for row in await shop.rows(ATTEMPTS)}
    assert used == {"pi_1": "pm_first", "pi_2": "pm_other", "pi_3": "pm_attached"}


async def test_a_payment_nobody_has_given_a_method_for(shop: Shop) -> None:
    shop.stripe.intent("pi_1", method=None)
    run = await shop.run(charge("stripe"))
    assert (run.ending, run.reason) == ("failed", "permanent")
    assert "give the job a payment_method" in str(run.error)
    assert (posts(shop.stripe), await shop.rows(ATTEMPTS)) == (0, [])


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_failure_that_takes_days_to_show_is_told_and_not_charged_again(shop: Shop, provider: str) -> None:
    """A bank may take three days to refuse a debit; that is an answer, however old the key is by then."""
    server = failed_payment(shop, provider)
    server.script = ["pending"]
    assert isinstance((await shop.run(charge(provider))).error, RetryAfter)
    await shop.age("pi_1", 72)
    if provider == "stripe":
        server.intent("pi_1")
    else:
        server.payments["made-1"]["status"] = "canceled"
    run = await shop.run(charge(provider))
    assert isinstance(run.error, PaymentDeclined)
    assert (posts(server), server.charges) == (1, {})


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_job_sent_back_after_days_has_time_for_its_new_attempt(
    shop: Shop, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = failed_payment(shop, provider)
    server.script = ["declined", "pending"]
    declined = await shop.run(charge(provider))
    monkeypatch.setattr(JobContext, "enqueue_time", datetime.now(UTC) - timedelta(days=4))
    pending = await shop.run(charge(provider), previous_error=declined.error)
    assert pending.ending == "told_to_wait", "it was charged a moment ago"
    for _ in range(2):
        run = await shop.run(charge(provider))
    assert run.ending == "completed"


async def test_yookassa_tells_of_another_payment(shop: Shop) -> None:
    """What is asked for is a payment's id and never a part of the address."""
    shop.yookassa.payment("paid", "succeeded")
    run = await shop.run(charge("yookassa", "paid?of=another"))
    assert (run.ending, run.reason) == ("failed", "permanent")


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_one_that_was_paid_meanwhile_is_not_charged(shop: Shop, provider: str) -> None:
    server = failed_payment(shop, provider)
    (server.intents if provider == "stripe" else server.payments)["pi_1"]["status"] = "succeeded"
    result = RetriedPayment.model_validate((await shop.run(charge(provider))).value())
    assert (result.attempt, posts(server)) == (0, 0)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_declined(shop: Shop, provider: str) -> None:
    """Permanent; after a crash the same is told without a call; sent back from the dead letters it is a new attempt."""
    server = failed_payment(shop, provider)
    server.script = ["declined"]
    run = await shop.run(charge(provider))
    assert (run.ending, run.reason) == ("failed", "permanent")
    assert isinstance(run.error, PaymentDeclined)
    assert "insufficient_funds" in str(run.error)
    crashed = await shop.run(charge(provider), crashes=1)
    assert (str(crashed.error), posts(server)) == (str(run.error), 1)
    redriven = await shop.run(charge(provider), previous_error=run.error)
    assert RetriedPayment.model_validate(redriven.value()).attempt == 2
    assert server.charges == {"pi_1": 1}
    one, two = await shop.rows(ATTEMPTS)
    assert (one.state, two.state) == ("failed", "succeeded")
    assert one.key != two.key


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_one_that_was_sent_back_makes_its_attempt_after_a_failed_look_too(shop: Shop, provider: str) -> None:
    server = failed_payment(shop, provider)
    server.script = ["declined"]
    declined = await shop.run(charge(provider))
    usual = server.answer
    server.answer = lambda *request: (502, {}, {})
    hiccup = await shop.run(charge(provider), previous_error=declined.error)
    assert hiccup.ending == "retried"
    server.answer = usual
    again = await shop.run(charge(provider), tries=1, previous_error=hiccup.error)
    assert RetriedPayment.model_validate(again.value()).attempt == 2


async def test_a_word_of_the_providers_that_no_database_keeps(shop: Shop) -> None:
    server = failed_payment(shop, "stripe")
    said = {"error": {"type": "card_error", "decline_code": "no\x00\ud83d" + "x" * 9000}}
    usual = server.answer

    def declining(method: str, *request: Any) -> Any:
        return (402, said, {}) if method == "POST" else usual(method, *request)

    server.answer = declining
    assert isinstance((await shop.run(charge("stripe"))).error, PaymentDeclined)
    (row,) = await shop.rows(ATTEMPTS)
    assert (row.state, row.detail[:6], len(row.detail)) == ("failed", "no\ufffd?xx", 500)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("word", ["cut", "cut-done", "500-done", "429", "pending", "twice"])
async def test_the_next_try_has_the_same_key(shop: Shop, provider: str, word: str) -> None:
    server = failed_payment(shop, provider)
    server.script = [word]
    run = await shop.run(charge(provider))
    if word == "twice":
        assert run.ending == "completed"
    elif word in ("429", "pending"):
        assert isinstance(run.error, RetryAfter)
        assert run.ending == "told_to_wait" or run.error.scope == "job"
        assert run.retry_in == (7 if word == "429" else 30)
    else:
        assert run.ending == "retried"
        assert isinstance(run.error, OutcomeUnknown)
    for _ in range(2):
        run = await shop.run(charge(provider), tries=1)
    assert run.ending == "completed"
    assert server.charges == {"pi_1": 1}
    assert len(await shop.rows(ATTEMPTS)) == 1
    assert len(server.kept) == 1


async def test_stripe_says_the_same_500_until_the_key_is_forgotten(shop: Shop) -> None:
    """Then the payment is looked at, and only since it has failed there is another key."""
    failed_payment(shop, "stripe")
    shop.stripe.script = ["500"]
    assert isinstance((await shop.run(charge("stripe"))).error, OutcomeUnknown)
    waits = await shop.run(charge("stripe"), tries=1)
    assert isinstance(waits.error, RetryAfter)
    assert 22 * 3600 < (waits.retry_in or 0) < 24 * 3600
    await shop.age("pi_1", 24)
    assert (await shop.run(charge("stripe"), tries=2)).ending == "completed"
    assert shop.stripe.charges == {"pi_1": 1}
    assert [row.state for row in await shop.rows(ATTEMPTS)] == ["failed", "succeeded"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("word", ["cut", "cut-done"])
async def test_past_the_life_of_the_key(shop: Shop, provider: str, word: str) -> None:
    """The old call is not made again: it is looked for, and what was charged is found."""
    server = failed_payment(shop, provider)
    for number in range(5):
        shop.yookassa.payment(f"other-{number}", "succeeded")
    server.script = [word]
    assert isinstance((await shop.run(charge(provider))).error, OutcomeUnknown)
    await shop.age("pi_1", 30)
    server.kept.clear()
    assert (await shop.run(charge(provider), tries=1)).ending == "completed"
    assert server.charges == {"pi_1": 1}
    assert posts(server) == (1 if word == "cut-done" else 2)


async def test_two_jobs_at_once(shop: Shop) -> None:
    for provider in PROVIDERS:
        server = failed_payment(shop, provider)
        runs = await asyncio.gather(*(shop.run(charge(provider), f"job-{n}") for n in range(4)))
        assert {run.ending for run in runs} <= {"completed", "retried"}
        assert server.charges == {"pi_1": 1}


@pytest.mark.parametrize(("status", "reason"), [("requires_action", "permanent"), ("processing", None)])
async def test_what_is_not_a_failure_gets_no_attempt(shop: Shop, status: str, reason: str | None) -> None:
    shop.stripe.intent("pi_1", status)
    run = await shop.run(charge("stripe"))
    assert run.reason == reason
    assert (posts(shop.stripe), await shop.rows(ATTEMPTS)) == (0, [])


async def test_pending_for_too_long(shop: Shop) -> None:
    shop.node.transfer(TX, TO, 10**18, block=100)
    run = await shop.run(transfer())
    assert isinstance(run.error, RetryAfter)
    service = shop.service
    service.settings.__dict__["pending_limit"] = -1.0
    run = await shop.run(transfer())
    assert (run.ending, run.reason) == ("failed", "permanent")
    assert "1 of 12 confirmations" in str(run.error)


@pytest.mark.parametrize(("provider", "told"), [("stripe", "STRIPE_KEY"), ("yookassa", "YOOKASSA_SHOP_ID and ARQD_")])
async def test_wrong_credentials_tell_what_to_check(shop: Shop, provider: str, told: str) -> None:
    server = failed_payment(shop, provider)
    server._key = server._authorization = "other"
    run = await shop.run(charge(provider))
    assert run.reason == "permanent"
    assert f"answers 401: check ARQD_PAYMENTS__{told}" in str(run.error)


async def test_wrong_credentials_leave_the_attempt_open(shop: Shop) -> None:
    failed_payment(shop, "stripe")
    shop.stripe.script = ["cut"]
    await shop.run(charge("stripe"))
    right, shop.stripe._key = shop.stripe._key, "other"
    run = await shop.run(charge("stripe"))
    assert (run.ending, run.reason) == ("failed", "permanent")
    assert right not in str(run.error)
    shop.stripe._key = right
    assert (await shop.run(charge("stripe"))).ending == "completed"
    assert len(await shop.rows(ATTEMPTS)) == 1


async def test_a_provider_that_is_not_set_up(shop: Shop) -> None:
    shop.service.providers.clear()  # type: ignore[attr-defined]
    run = await shop.run(charge("stripe"))
    assert "ARQD_PAYMENTS__STRIPE" in str(run.error)
    assert run.reason == "permanent"


# ---------------------------------------------------------------- crypto


def transfer(name: str = "p1", **more: Any) -> RetryPayment:
    fields = {"provider": "crypto", "amount": "1", "network_id": "mainnet", "tx_hash": TX, "to": TO}
    return RetryPayment.model_validate(fields | {"payment_id": name} | more)


async def test_a_transfer_that_arrives(shop: Shop) -> None:
    """Not there, in the pool, too fresh, taken back by the chain, there."""
    waits = []
    waits.append(await shop.run(transfer()))
    shop.node.transfer(TX, TO, 10**18, block=95)
    receipt = shop.node.receipts.pop(TX)
    waits.append(await shop.run(transfer()))
    shop.node.receipts[TX] = receipt
    waits.append(await shop.run(transfer()))
    shop.node.blocks[95] = "0xother"
    shop.node.height = 120
    waits.append(await shop.run(transfer()))
    assert all(isinstance(run.error, RetryAfter) and run.retry_in == 30 for run in waits)
    shop.node.blocks[95] = receipt["blockHash"]
    for _ in range(2):
        result = RetriedPayment.model_validate((await shop.run(transfer())).value())
        assert (result.object_id, result.attempt) == (f"1:{TX}", 1)


async def test_a_payment_is_paid_by_one_of_two_transfers_that_are_checked_at_once(shop: Shop) -> None:
    other = TX.replace("ab", "12")
    shop.node.transfer(TX, TO, 10**18, block=10)
    shop.node.transfer(other, TO, 10**18, block=11)
    jobs = [transfer(), transfer(tx_hash=other)]
    runs = await asyncio.gather(*(shop.run(job, f"job-{number}") for number, job in enumerate(jobs)))
    told = {RetriedPayment.model_validate(run.value()).object_id for run in runs}
    assert told == {row.object_id for row in await shop.rows(ATTEMPTS)}
    assert len(told) == 1


async def test_a_transfer_pays_one_payment(shop: Shop) -> None:
    shop.node.transfer(TX, TO, 10**18, block=10)
    assert (await shop.run(transfer("p1"))).ending == "completed"
    run = await shop.run(transfer("p2", tx_hash=TX.replace("ab", "AB")))
    shop.node.transfer(TX.replace("ab", "AB"), TO, 10**18, block=10)
    run = await shop.run(transfer("p2", tx_hash=TX.replace("ab", "AB")), "other")
    assert (run.reason, str(run.error)) == ("permanent", "this transfer has paid another payment")


@pytest.mark.parametrize(
    ("sent", "more", "reason"),
    [
        ({"value": 10**18 - 1}, {}, "of 1000000000000000000 units"),
        ({"to": "0x" + "11" * 20}, {}, "pays 0 of"),
        ({"token": TOKEN, "value": 1_500_000}, {"token": TOKEN, "decimals": 6, "amount": "1.5"}, None),
        ({"token": TOKEN, "value": 1_499_999}, {"token": TOKEN, "decimals": 6, "amount": "1.5"}, "pays 1499999 of"),
        ({"token": "0x" + "22" * 20, "value": 10**18}, {"token": TOKEN}, "pays 0 of"),
        ({"token": TOKEN, "value": 10**18}, {}, "pays 0 of"),
    ],
)
async def test_what_a_transfer_pays(shop: Shop, sent: dict[str, Any], more: dict[str, Any], reason: str | None) -> None:
    shop.node.transfer(TX, **{"to": TO, "value": 10**18, "block": 10} | sent)
    run = await shop.run(transfer(**more))
    if reason is None:
        assert run.ending == "completed"
    else:
        assert run.reason == "permanent"
        assert reason in str(run.error)


async def test_a_transfer_that_was_reverted_and_a_node_that_fails(shop: Shop) -> None:
    shop.node.transfer(TX, TO, 10**18, block=10)
    shop.node.script = ["error"]
    assert (await shop.run(transfer())).ending == "retried"
    shop.node.receipts[TX]["status"] = "0x0"
    assert isinstance((await shop.run(transfer())).error, PaymentDeclined)
    assert "ARQD_RPC__137" in str((await shop.run(transfer(network_id=137))).error)


# ---------------------------------------------------------------- payloads


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"payment_id": "x", "provider": "stripe"}, "PaymentIntent"),
        ({"payment_id": "x", "provider": "yookassa"}, "needs amount and currency and payment_method"),
        ({"payment_id": "x", "provider": "crypto"}, "needs amount and network_id and tx_hash and to"),
        ({"payment_id": "pi_1", "provider": "stripe", "amount": 1.5}, "float"),
        ({"payment_id": "pi_1", "provider": "stripe", "amount": "1.005", "currency": "EUR"}, "at most 2 digits"),
        ({"payment_id": "pi_1", "provider": "stripe", "amount": "1.5", "currency": "JPY"}, "at most 0 digits"),
        ({"payment_id": "pi_1", "provider": "stripe", "amount": "-1"}, "greater than 0"),
        ({"payment_id": "pi_1", "provider": "stripe", "currency": "EURO"}, "no currency's code"),
        ({"payment_id": "pi_1\n", "provider": "stripe"}, "pattern"),
        ({"payment_id": "pi_1", "provider": "paypal"}, "stripe"),
        *(
            (
                {
                    "payment_id": "p",
                    "provider": "crypto",
                    "amount": "1",
                    "network_id": 1,
                    "tx_hash": TX,
                    "to": TO,
                    **more,
                },
                "pattern",
            )
            for more in ({"tx_hash": TX + "00"}, {"tx_hash": f"x{TX}"}, {"to": TO + "00"}, {"token": f"{TOKEN}\n"})
        ),
    ],
)
def test_payloads_that_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RetryPayment.model_validate(fields)


def test_amounts_survive_json() -> None:
    job = RetryPayment.model_validate_json(
        '{"paymentId": "a", "provider": "crypto", "amount": "0.000000000000000001", "networkId": 1, '
        f'"txHash": "{TX}", "to": "{TO}"}}'
    )
    assert job.amount == Decimal("1e-18")
    assert RetryPayment.model_validate_json(job.model_dump_json()) == job
    with pytest.raises(ValueError, match="float"):
        RetryPayment.model_validate_json('{"payment_id": "pi_1", "provider": "stripe", "amount": 10.1}')


def test_an_amount_that_is_no_number_of_units() -> None:
    for more in ({"amount": "1.0000001", "decimals": 6}, {"amount": "0.1", "decimals": 0}):
        with pytest.raises(ValidationError, match="decimals"):
            transfer(**more)
    assert transfer(amount="1.500000", decimals=1).amount == Decimal("1.5")


async def test_a_node_that_tells_of_a_transfer_in_the_pool(shop: Shop) -> None:
    shop.node.transfer(TX, TO, 10**18, block=10)
    shop.node.receipts[TX] |= {"blockNumber": None, "blockHash": None}
    run = await shop.run(transfer())
    assert (run.ending, run.retry_in) == ("told_to_wait", 30)


@pytest.mark.parametrize(("said", "wait"), [(10**15, 86_400), (-5, 1), (1e308, 86_400)])
async def test_yookassa_says_how_long_it_takes(shop: Shop, said: float, wait: float) -> None:
    server = failed_payment(shop, "yookassa")
    usual = server.answer

    def busy(method: str, *request: Any) -> Any:
        return (202, {"type": "processing", "retry_after": said}, {}) if method == "POST" else usual(method, *request)

    server.answer = busy
    run = await shop.run(charge("yookassa"))
    assert (run.ending, run.retry_in) == ("told_to_wait", wait)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_answer_about_another_payment_proves_nothing(shop: Shop, provider: str) -> None:
    server = failed_payment(shop, provider)
    server.answer = lambda *request: (200, {"id": "pi_2", "status": "succeeded"}, {})
    run = await shop.run(charge(provider))
    assert isinstance(run.error, OutcomeUnknown)
    assert await shop.rows(ATTEMPTS) == []


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_answer_that_is_too_large_leaves_it_open(shop: Shop, provider: str) -> None:
    """It was charged, and we do not know: the next try finds out, where a dead letter would leave it at that."""
    server = failed_payment(shop, provider)
    usual = server.answer

    def large(method: str, *request: Any) -> Any:
        status, body, headers = usual(method, *request)
        return status, body, headers | ({"content-length": str(10**9)} if method == "POST" else {})

    server.answer = large
    run = await shop.run(charge(provider))
    assert run.ending == "retried"
    assert isinstance(run.error, OutcomeUnknown)
    server.answer = usual
    await shop.run(charge(provider), tries=1)
    assert server.charges == {"pi_1": 1}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("body", [b"<html>not found</html>", b'{"error": "no", "code": null}'])
@pytest.mark.parametrize("status", [400, 404])
async def test_a_refusal_that_is_none_of_the_providers_is_permanent_and_leaves_it_open(
    shop: Shop, provider: str, status: int, body: bytes
) -> None:
    server = failed_payment(shop, provider)
    usual = server.answer

    def proxy(method: str, *request: Any) -> Any:
        return (status, body, {}) if method == "POST" else usual(method, *request)

    server.answer = proxy
    run = await shop.run(charge(provider))
    assert (run.ending, run.reason) == ("failed", "permanent")
    assert f"answers {status}" in str(run.error)
    server.answer = usual
    assert (await shop.run(charge(provider), previous_error=run.error)).ending == "completed"
    (row,) = await shop.rows(ATTEMPTS)
    assert (row.state, server.charges) == ("succeeded", {"pi_1": 1})


async def test_a_provider_that_says_to_wait_holds_up_nobody_else(
    shop: Shop, redis_url: str, producer: Producer
) -> None:
    busy, other = failed_payment(shop, "yookassa"), failed_payment(shop, "stripe")
    usual = busy.answer

    def wait(method: str, *request: Any) -> Any:
        return (429, {}, {"retry-after": "3600"}) if method == "POST" else usual(method, *request)

    busy.answer = wait
    family = load_family(WorkerSettings)
    family.ctx["settings"] = shop.ctx["settings"]
    async with working(redis_url, family):
        waits = await producer.enqueue(charge("yookassa"))
        await until(lambda: posts(busy))
        await eventually(lambda: _is_delayed(waits))
        second = await producer.enqueue(charge("yookassa", "pi_2"))
        assert (await (await producer.enqueue(charge("stripe"))).result(30)).status == "succeeded"
        assert not (await (await producer.enqueue(order())).result(30)).existed
        assert await second.status() == JobState.WAITING
    assert (posts(busy), other.charges) == (1, {"pi_1": 1})


async def _is_delayed(job: Any) -> bool:
    return bool(await job.status() == JobState.DELAYED)
