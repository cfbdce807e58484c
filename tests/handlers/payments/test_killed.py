"""kill -9 at every await of `retry_payment` and `pay_commission`: never two charges, the books always balance."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from daemon.payload import Payload
from handlers.payments.payloads import Commission
from handlers.payments.tables import REFERRALS
from tests.handlers.payments.support import PROVIDERS, Shop, charge, failed_payment, order

ROOT = Path(__file__).parents[3]
#: Runs a job in a process that dies at, or behind, an await; gives how that ended.
Kill = Callable[..., Awaitable[str]]
MODES = ("at", "behind")
#: All awaits take minutes: without EVERY_AWAIT it is every third or, of charges, every sixth, in each database others.
EVERY = "EVERY_AWAIT" in os.environ


@pytest.fixture
async def kill(shop: Shop) -> AsyncIterator[Kill]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.handlers.payments.mortal"),
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("ARQD_")},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    asked, answers = process.stdin, process.stdout

    async def run(job: Payload, *, at: int = 0, behind: int = 0) -> str:
        line = {"environ": shop.environ, "job": json.loads(job.model_dump_json()), "at": at, "behind": behind}
        asked.write(json.dumps(line).encode() + b"\n")
        return (await answers.readline()).decode().strip()

    yield run
    asked.close()
    await process.wait()


async def awaits(shop: Shop, kill: Kill, job: Payload, step: int) -> range:
    """Give the awaits of a job that nothing disturbs, counted from 1."""
    word, _, number = (await kill(job)).partition(" ")
    assert word == "ended"
    assert int(number) > 8
    last, first = int(number), 1 if shop.environ["ARQD_DATABASE_URL"].startswith("sqlite") else 1 + step // 2
    return range(1, last + 1) if EVERY else range(first, last + 1, step)


@pytest.mark.timeout(480)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_charging(shop: Shop, kill: Kill, provider: str) -> None:
    server = failed_payment(shop, provider)
    numbers = await awaits(shop, kill, charge(provider), 6)
    kept = set()
    for number in numbers:
        for mode in MODES:
            name = f"pi_{mode}{number}"
            failed_payment(shop, provider, name)
            assert await kill(charge(provider, name), **{mode: number}) == "killed"
            kept.add(server.charges[name])
            run = await shop.run(charge(provider, name), crashes=1)
            if run.ending != "completed":
                # SQLite lets go of a dead process's lock at once; of a call a server may hear only now.
                run = await shop.run(charge(provider, name), tries=1, crashes=1)
            assert run.ending == "completed", (name, run.error)
            assert server.charges[name] == 1, name
    # Some died before the charge and some behind it: both were seen.
    assert kept == {0, 1}


@pytest.mark.timeout(480)
async def test_a_commission(shop: Shop, kill: Kill) -> None:
    numbers = await awaits(shop, kill, order(0, "r0"), 3)
    existed = set()
    for number in numbers:
        for mode in MODES:
            job = order(number, f"{mode}{number}")
            assert await kill(job, **{mode: number}) == "killed"
            await shop.check_books()
            paid = Commission.model_validate((await shop.run(job, crashes=1)).value())
            existed.add(paid.existed)
            (row,) = await shop.rows(REFERRALS, referral_id=f"{mode}{number}")
            assert (row.orders, row.commission) == (1, paid.commission)
    assert existed == {False, True}
    await shop.check_books()
