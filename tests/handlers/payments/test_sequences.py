"""Random sequences of what a provider does and what happens to the worker: no payment twice, none told that is not."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.payments.payloads import Commission, RetriedPayment
from handlers.payments.tables import ATTEMPTS, REFERRALS, TRANSACTIONS
from tests.handlers.payments.providers import StripeServer
from tests.handlers.payments.support import PROVIDERS, Shop, charge, failed_payment, order
from tests.handlers.sequences import examples

#: For each of two providers and two databases, and of commissions on each database; SEQUENCES=3 makes over 200 of them.
EXAMPLES = 18
WORDS = st.sampled_from(
    ["ok", "declined", "pending", "429", "500", "500-done", "cut", "cut-done", "twice", "409", "202"]
)
#: What happens before a try: nothing; the worker died in the last one; another job is at it; a day passes, and the
#: provider forgets its keys; the dead letter is sent back.
EVENTS = st.sampled_from(["", "", "", "crash", "other job", "a day", "redrive"])
names = (f"pi_{number}" for number in itertools.count())
several = settings(
    max_examples=examples(EXAMPLES), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.timeout(480)
@pytest.mark.parametrize("provider", PROVIDERS)
@several
@given(words=st.lists(WORDS, max_size=5), events=st.lists(EVENTS, min_size=4, max_size=4))
async def test_no_payment_is_charged_twice(shop: Shop, provider: str, words: list[str], events: list[str]) -> None:
    name = next(names)
    server = failed_payment(shop, provider, name)
    # What only the other service says means that all is well here.
    server.script = ["ok" if word == ("202" if isinstance(server, StripeServer) else "409") else word for word in words]
    tries = crashes = 0
    error: BaseException | None = None
    for event in [*events, "a day", "", ""]:
        job_id = f"{name}-{'other' if event == 'other job' else 'job'}"
        if event == "crash":
            crashes += 1
        elif event == "redrive":
            tries = crashes = 0
        elif event == "a day":
            await shop.age(name, 30)
            server.kept.clear()
        told = {"previous_error": error} if event == "redrive" and error is not None else {}
        run = await shop.run(charge(provider, name), job_id, tries=min(tries, 7), crashes=crashes, **told)
        assert server.charges[name] <= 1, (words, events)
        if run.ending == "completed":
            assert server.charges[name] == 1
            RetriedPayment.model_validate(run.result)
        elif run.ending == "failed":
            error = run.error
        tries += run.ending == "retried"
    states = [row.state for row in await shop.rows(ATTEMPTS, payment_id=name)]
    assert states.count("succeeded") <= 1
    assert (server.charges[name] == 1) == ("succeeded" in states) or "open" in states


@pytest.mark.timeout(480)
@several
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), min_size=1, max_size=8))
async def test_no_commission_is_paid_twice(shop: Shop, orders: list[tuple[int, int, bool]]) -> None:
    """Orders that come again, at the same time, and workers that are cut off in the middle."""
    label = next(names)
    jobs = [(order(number, f"{label}-{referral}"), cut) for number, referral, cut in orders]

    async def run(index: int, job: Any, cut: bool) -> Any:
        task = asyncio.ensure_future(shop.run(job, f"job-{index}"))
        if cut:
            for _ in range(index + 3):
                await asyncio.sleep(0)
            task.cancel()
        return (await asyncio.gather(task, return_exceptions=True))[0]

    await asyncio.gather(*(run(index, *job) for index, job in enumerate(jobs)))
    await shop.check_books()
    for index, (job, _) in enumerate(jobs):
        Commission.model_validate((await shop.run(job, f"job-{index}")).value())
    distinct = {(job.referral_id, job.order_id) for job, _ in jobs}
    rows = [row for row in await shop.rows(REFERRALS) if row.referral_id.startswith(f"{label}-")]
    assert sum(row.orders for row in rows) == len(distinct)
    references = [row.reference for row in await shop.rows(TRANSACTIONS)]
    assert len(set(references)) == len(references)
    await shop.check_books()
