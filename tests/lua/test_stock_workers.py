"""A stock arq worker on the same queue: what it runs is neither claimed nor moved, and what stands behind is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from daemon import codec
from tests.lua.state import A, Engine
from tests.marks import stock_arq

pytestmark = stock_arq

POLL = 500


@pytest.fixture
async def engine(engine: Engine) -> Engine:
    # The mark may be there for a job that a stock worker runs, until the next tick.
    engine.checked = False
    await engine.sync()
    return engine


async def stock_takes(engine: Engine, *names: str) -> None:
    """Mark jobs as stock arq does."""
    for name in names:
        await engine.redis.set("arq:in-progress:" + engine.id(name), b"1", px=310_000)


async def inbox(engine: Engine, *names: str) -> None:
    """Add jobs as a stock producer does."""
    for at, name in enumerate(names):
        entry = codec.dumps({"f": "send", "a": (), "k": {}, "t": None, "et": engine.now})
        await engine.redis.set("arq:job:" + engine.id(name), entry, px=86_400_000)
        await engine.redis.zadd(engine.keys.queue, {engine.id(name): engine.now - 1000 + at})


async def claimed(engine: Engine, wanted: int = 10) -> Sequence[str]:
    return [mine.name for mine in await engine.claim(wanted=wanted, poll=POLL)]


async def test_what_a_stock_worker_runs_is_not_claimed(engine: Engine) -> None:
    await engine.enqueue("a", "b", "c")
    await stock_takes(engine, "a", "b")
    before = (await engine.look("a")).score
    assert await claimed(engine) == ["c"]
    assert (await engine.look("a")).score == before
    assert await engine.redis.get("arq:in-progress:" + engine.id("a")) == b"1"


async def test_many_of_theirs_at_the_head_do_not_hide_ours(engine: Engine) -> None:
    theirs = [f"t{n}" for n in range(300)]
    await engine.enqueue(*theirs, "mine1", "mine2")
    await stock_takes(engine, *theirs)
    assert await claimed(engine, 1) == ["mine1"]
    assert await claimed(engine, 1) == ["mine2"]
    assert await claimed(engine, 1) == []


async def test_an_entry_that_a_stock_worker_runs_keeps_its_score(engine: Engine) -> None:
    theirs = [f"t{n}" for n in range(40)]
    await inbox(engine, *theirs, "mine")
    await stock_takes(engine, *theirs)
    before = [(await engine.look(name)).score for name in theirs]
    assert await claimed(engine, 1) == ["mine"]
    assert [(await engine.look(name)).score for name in theirs] == before
    # Its payload's life is arq's own affair.
    assert await engine.redis.pttl("arq:job:" + engine.id("t0")) > 0


async def test_only_jobs_of_stock_workers_due_wakes_nobody_and_is_polled(engine: Engine) -> None:
    await engine.enqueue("a")
    await stock_takes(engine, "a")
    reply = await engine.tick(wanted=1, poll=POLL)
    assert (reply.claims, reply.wait) == ([], POLL)
    assert not await engine.marked()
    await engine.redis.delete("arq:in-progress:" + engine.id("a"))
    assert await claimed(engine) == ["a"]


async def test_a_job_whose_stock_worker_died_is_claimed_once_its_key_has_expired(engine: Engine) -> None:
    await inbox(engine, "a")
    await stock_takes(engine, "a")
    assert await claimed(engine) == []
    await engine.redis.delete("arq:in-progress:" + engine.id("a"))
    await engine.redis.set("arq:retry:" + engine.id("a"), b"1")
    (mine,) = await engine.claim(wanted=1, poll=POLL)
    assert mine.claim.tries == b"1"


async def test_a_token_of_arqd_left_over_is_no_stock_worker(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.redis.set("arq:in-progress:" + engine.id("a"), f"{A}:7")
    assert await claimed(engine) == ["a"]


async def test_promotion_breaks_a_claim_that_a_stock_worker_has_begun(engine: Engine) -> None:
    await inbox(engine, "a")
    async with engine.redis.pipeline(transaction=True) as begun:
        await begun.watch("arq:in-progress:" + engine.id("a"))
        await begun.zscore(engine.keys.queue, engine.id("a"))
        await engine.tick(wanted=0, poll=POLL)
        assert (await engine.look("a")).band == "ready"
        begun.multi()
        begun.set("arq:in-progress:" + engine.id("a"), b"1")
        with pytest.raises(Exception, match="Watched variable changed"):
            await begun.execute()
    assert (await engine.look("a")).token is None


async def test_a_stock_workers_retry_of_a_promoted_job_waits_as_long_as_it_asked(engine: Engine) -> None:
    await inbox(engine, "a")
    await engine.tick(wanted=0, poll=POLL)
    await stock_takes(engine, "a")
    score = int((await engine.look("a")).score or 0)
    # What arq's run_job and finish_job do for Retry(defer=5).
    await engine.redis.zincrby(engine.keys.queue, 5000 + (engine.now - score), engine.id("a"))
    await engine.redis.delete("arq:in-progress:" + engine.id("a"))
    assert (await engine.look("a")).score == engine.now + 5000
    assert await claimed(engine) == []
    engine.advance(5000)
    assert await claimed(engine) == ["a"]


async def test_after_a_lost_connection_a_job_that_a_stock_worker_took_is_not_held_again(engine: Engine) -> None:
    await engine.enqueue("a")
    (mine,) = await engine.claim(poll=POLL)
    # A failover rolled the claim back, and a stock worker took the job.
    await engine.redis.delete(engine.keys.key("held", A))
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): float(mine.claim.score)})
    await stock_takes(engine, "a")
    assert await engine.sync(A, mine.held()) == [mine.claim.id]
    assert (await engine.look("a")).band == "ready"
    reply = await engine.tick(A, mine.complete(), poll=POLL)
    assert reply.refused == [mine.claim.id]


async def test_commands_leave_what_a_stock_worker_runs(engine: Engine) -> None:
    await engine.enqueue("a", "b", "c")
    await stock_takes(engine, "a")
    score = (await engine.look("a")).score
    assert await engine.remove("a") == ["active"]
    assert await engine.broker.reprioritize([engine.id("a")], 1) == ["active"]
    assert await engine.broker.drain(1) == 1
    assert await engine.broker.drain(2) == 1
    assert (await engine.look("a")).score == score
    assert await engine.order() == ["a"]
    assert await engine.abort("a") == "asked"
    assert await engine.redis.zscore("arq:abort", engine.id("a"))


async def test_families_without_stock_workers_pay_nothing_for_it(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.redis.config_resetstat()
    await engine.claim()
    stats = await engine.redis.info("commandstats")
    # Of the records.
    assert stats["cmdstat_mget"]["calls"] == 1
    assert "cmdstat_mset" not in stats
