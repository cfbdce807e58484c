"""await: a result now, later, or never."""

from __future__ import annotations

import pytest
from redis.exceptions import OutOfMemoryError

from daemon.keys import RESULT
from tests.lua.conftest import Fill
from tests.lua.state import A, Engine

P, Q = "d" * 16, "e" * 16


async def ask(engine: Engine, name: str, session: str = P) -> tuple[int, bytes | None]:
    reply = await engine.broker.await_result(session, engine.id(name))
    await engine.check()
    return reply


@pytest.mark.parametrize("kind", ["complete", "abort", "expire", "bury"])
async def test_a_result_that_is_there_is_given_at_once(engine: Engine, kind: str) -> None:
    mine = await engine.take("a")
    await engine.settle(getattr(mine, kind)(b"\x00bytes\r\n"))
    assert await ask(engine, "a") == (1, b"\x00bytes\r\n")
    assert not await engine.redis.exists(engine.keys.key("waiters"))


async def test_an_unknown_job_is_told_and_not_waited_for(engine: Engine) -> None:
    assert await ask(engine, "never") == (-1, None)
    assert not await engine.redis.exists(engine.keys.key("waiters"))


async def test_a_job_whose_result_was_not_kept_is_told(engine: Engine) -> None:
    await engine.settle((await engine.take("a")).complete(keep=0))
    assert await ask(engine, "a") == (-1, None)


async def test_a_waiting_delayed_or_running_job_is_waited_for(engine: Engine) -> None:
    await engine.enqueue("running")
    await engine.claim()
    await engine.enqueue("waiting", engine.job("delayed", delay=9000))
    for name in ("waiting", "delayed", "running"):
        assert await ask(engine, name) == (0, None)
        assert await engine.redis.hget(engine.keys.key("waiters"), engine.id(name)) == P.encode()


async def waiting_for(engine: Engine, name: str) -> bytes | None:
    found: bytes | None = await engine.redis.hget(engine.keys.key("waiters"), engine.id(name))
    return found


async def test_a_job_is_added_with_who_waits_for_it(engine: Engine) -> None:
    for job in ("now", engine.job("later", delay=9000), engine.job("grouped", group="g")):
        assert await engine.enqueue(job, waiting=P) == [True]
    for name in ("now", "later", "grouped"):
        assert await waiting_for(engine, name) == P.encode()
    # The same call again, after its reply was lost: it is noted once, and by who repeats it.
    assert await engine.enqueue(engine.job("now"), waiting=P, resend=True) == [True]
    assert await engine.enqueue(engine.job("again"), waiting=P, resend=True) == [True]
    assert await waiting_for(engine, "now") == await waiting_for(engine, "again") == P.encode()


async def test_nobody_waits_for_a_job_that_was_not_added(engine: Engine) -> None:
    await engine.enqueue("a", engine.job("keyed")._replace(when="now drop 0 key"))
    assert await engine.enqueue("a", waiting=P) == [False]
    ((other, *_),) = await engine.enqueue(engine.job("b")._replace(when="now drop 0 key"), waiting=P)  # type: ignore[misc]
    assert other == engine.id("keyed")
    assert not await engine.redis.exists(engine.keys.key("waiters"))


async def test_a_full_server_notes_nobody_with_a_job_it_refuses(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await fill()
    for job in (engine.job("a"), engine.job("b", group="g")):
        with pytest.raises(OutOfMemoryError):
            await engine.enqueue(job, waiting=P)
    assert not await engine.redis.exists(engine.keys.key("waiters"))


async def test_a_session_is_noted_once_and_others_beside_it(engine: Engine) -> None:
    await engine.enqueue("a")
    for session in (P, Q, P, Q):
        await ask(engine, "a", session)
    assert await engine.redis.hget(engine.keys.key("waiters"), engine.id("a")) == f"{P} {Q}".encode()


async def test_asking_again_after_a_lost_answer_gives_the_result(engine: Engine) -> None:
    mine = await engine.take("a")
    await ask(engine, "a")
    await engine.settle(mine.complete())
    assert await ask(engine, "a") == (1, b"done")


async def test_a_removed_job_answers_with_nothing(engine: Engine) -> None:
    await engine.enqueue("a")
    await ask(engine, "a")
    await engine.remove("a")
    assert await engine.redis.lrange(engine.keys.key("reply", P), 0, -1) == [engine.id("a").encode() + b"\n"]


async def test_an_aborted_job_answers(engine: Engine) -> None:
    await engine.enqueue("a")
    await ask(engine, "a")
    await engine.abort("a", b"stopped")
    assert await engine.redis.lpop(engine.keys.key("reply", P)) == engine.id("a").encode() + b"\nstopped"


async def test_a_result_of_a_wrong_type_is_none(engine: Engine) -> None:
    await engine.redis.hset(RESULT + engine.id("a"), "wrong", "type")
    assert await ask(engine, "a") == (-1, None)


async def test_a_full_server_lets_one_wait(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    mine = await engine.take("a")
    await fill()
    assert await ask(engine, "a") == (0, None)
    await engine.settle(mine.complete())
    assert await engine.redis.llen(engine.keys.key("reply", P)) == 1
    assert (await engine.look("a")).holders == {}
    assert await engine.renew(A)
