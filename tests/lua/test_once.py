"""once: receipts are kept under the token of the claim, and gone with the job."""

from __future__ import annotations

import pytest

from tests.lua.conftest import Fill
from tests.lua.state import LEASE, A, B, Engine, Mine


async def keep(engine: Engine, mine: Mine, receipt: bytes, session: str = A) -> bytes | None:
    found = await engine.broker.once(session, mine.claim.id, mine.n, receipt)
    await engine.check()
    return found


async def read(engine: Engine, mine: Mine, session: str = A) -> bytes | None:
    return await keep(engine, mine, b"", session)


async def kept(engine: Engine, name: str) -> bytes | None:
    found: bytes | None = await engine.redis.hget(engine.keys.key("receipts"), engine.id(name))
    return found


async def test_receipts_are_kept_a_line_each_and_read(engine: Engine) -> None:
    mine = await engine.take("a")
    assert await read(engine, mine) == b""
    assert await keep(engine, mine, b"charge\t41") == b""
    assert await keep(engine, mine, b"mail\tnull") == b""
    assert await read(engine, mine) == b"charge\t41\nmail\tnull"


async def test_a_step_is_kept_once(engine: Engine) -> None:
    """A call whose reply was lost comes twice; names that end alike or hold magic characters are others."""
    mine = await engine.take("a")
    for receipt in (b"charge\t1", b"charge\t2", b"arge\t3", b"ch.rge\t4", b"charge 2\t5", b"ch.rge\t6"):
        await keep(engine, mine, receipt)
    assert await read(engine, mine) == b"charge\t1\narge\t3\nch.rge\t4\ncharge 2\t5"


async def test_receipts_survive_retry_and_release_and_a_crash(engine: Engine) -> None:
    mine = await engine.take("a")
    await keep(engine, mine, b"one\t1")
    await engine.settle(mine.retry(0))
    (mine,) = await engine.claim()
    await keep(engine, mine, b"two\t2")
    await engine.settle(mine.release())
    (mine,) = await engine.claim()
    assert await read(engine, mine) == b"one\t1\ntwo\t2"
    await engine.sync(B)
    await engine.pass_time(LEASE + 1, B)
    await engine.tick(B)
    (mine,) = await engine.claim(B)
    assert await read(engine, mine, B) == b"one\t1\ntwo\t2"


async def test_a_stale_token_is_refused_and_nothing_is_written(engine: Engine) -> None:
    """After a reaped lease: while the job waits, while another session has it, and when it has ended there."""
    stale = await engine.take("a")
    await keep(engine, stale, b"one\t1")
    await engine.sync(B)
    await engine.pass_time(LEASE + 1, B)
    await engine.tick(B)
    assert await keep(engine, stale, b"two\t2") is None
    (mine,) = await engine.claim(B)
    assert await keep(engine, stale, b"two\t2") is None
    assert await read(engine, stale) is None
    assert await keep(engine, stale, b"two\t2", B) is None, "the session of the other, the number of the stale claim"
    assert await kept(engine, "a") == b"one\t1"
    await engine.settle(mine.complete(), session=B)
    assert await keep(engine, stale, b"two\t2") is None
    assert await kept(engine, "a") is None


async def test_an_older_claim_of_the_same_session_is_refused(engine: Engine) -> None:
    """Claim 1 must not pass for claim 10 either: the whole number counts."""
    stale = await engine.take("a")
    await engine.settle(stale.release())
    while engine.n[A] < 10 * stale.n - 1:
        await engine.tick(A)
    (mine,) = await engine.claim()
    assert str(mine.n).startswith(str(stale.n))
    assert await keep(engine, stale, b"one\t1") is None
    assert await keep(engine, mine, b"one\t1") == b""


@pytest.mark.parametrize("outcome", ["complete", "abort", "expire"])
async def test_the_end_of_a_job_drops_its_receipts_only(engine: Engine, outcome: str) -> None:
    ends, stays = await engine.take("a"), await engine.take("b")
    for mine in (ends, stays):
        await keep(engine, mine, b"one\t1")
    await engine.settle(getattr(ends, outcome)())
    assert (await kept(engine, "a"), await kept(engine, "b")) == (None, b"one\t1")


async def test_a_dead_letter_keeps_its_receipts_for_a_redrive(engine: Engine) -> None:
    mine = await engine.take("a")
    await keep(engine, mine, b"one\t1")
    await engine.settle(mine.bury())
    assert await engine.redrive("a") == ["retried"]
    (mine,) = await engine.claim()
    assert await read(engine, mine) == b"one\t1"


@pytest.mark.parametrize("way", ["remove", "clean", "age"])
async def test_a_forgotten_dead_letter_leaves_none(engine: Engine, way: str) -> None:
    mine = await engine.take("a")
    await keep(engine, mine, b"one\t1")
    await engine.settle(mine.bury())
    engine.advance(10_000)
    if way == "remove":
        await engine.remove("a")
    elif way == "clean":
        assert await engine.broker.clean("dead", 10, engine.now) == 1
    else:
        await engine.renew(A, dead_age=5000)
    assert await engine.traces() == set()


async def test_a_waiting_job_that_is_removed_or_drained_leaves_none(engine: Engine) -> None:
    for name in ("a", "b"):
        mine = await engine.take(name)
        await keep(engine, mine, b"one\t1")
        await engine.settle(mine.retry(60_000))
    await engine.remove("a")
    await engine.broker.drain(10)
    assert not await engine.redis.exists(engine.keys.key("receipts"))


async def test_a_full_server_takes_a_receipt(full: tuple[Engine, Fill]) -> None:
    """The effect has happened: an error here would repeat it."""
    engine, fill = full
    mine = await engine.take("a")
    await fill()
    assert await keep(engine, mine, b"one\t1") == b""
    assert await read(engine, mine) == b"one\t1"
