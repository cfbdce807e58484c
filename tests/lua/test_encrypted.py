"""enqueue refuses what is in clear where it must not be; reencrypt puts values in the place of those it read."""

from __future__ import annotations

import pytest

from daemon.broker import NewJob, Repeat
from daemon.codec import record_tail
from daemon.errors import InClear
from tests.lua.conftest import Fill
from tests.lua.state import B, Engine

CLEAR = b'[{"x":1}]'
SEALED = b"\x01\x00\x00\x00\x05\x00\n\t\xff\x00" + b',"o":{"g":["vip"]}'
FIELDS = b'[{"x":{"$secret":"arqd1:AQ=="}}]'


async def guard(engine: Engine, **fields: str) -> None:
    await engine.redis.hset(engine.keys.key("conf"), mapping=fields)


def of_class(engine: Engine, name: str) -> NewJob:
    """A job whose payload class a producer knew, all secrets of which are null."""
    return engine.job(name)._replace(tail=record_tail("send", "acme", b'[{"x":null}]', "1#0a0b0c0d"))


def deduped(engine: Engine, name: str, mode: str, body: bytes, delay: int = 60_000) -> NewJob:
    return engine.job(name, delay=delay, body=body)._replace(when=f"in {mode} 0 key")


async def test_an_encrypted_family_takes_nothing_in_clear(engine: Engine) -> None:
    await guard(engine, encrypted="1")
    for body in (CLEAR, FIELDS, b'[],"k":{"x":1}', b""):
        with pytest.raises(InClear, match="the family of send is encrypted"):
            await engine.enqueue(engine.job("sealed", body=SEALED), engine.job("clear", body=body))
        with pytest.raises(InClear):
            await engine.enqueue(engine.job("clear", body=body, group="acme"), resend=True)
    with pytest.raises(InClear):
        await engine.enqueue(of_class(engine, "clear"))
    assert await engine.order() == []
    assert await engine.enqueue(engine.job("a", body=SEALED, group="acme"), engine.job("b", body=SEALED)) == [
        True,
        True,
    ]
    for name, body in (("c", b"[]"), ("d", b'[],"o":{"n":2}'), ("e", b'[],"k":{},"t":null')):
        assert await engine.enqueue(engine.job(name, body=body)) == [True]


async def test_a_function_with_marked_fields_takes_no_body_that_may_hold_one_in_clear(engine: Engine) -> None:
    await guard(engine, marked="\tother\t")
    assert await engine.enqueue(engine.job("a", body=CLEAR)) == [True]
    await guard(engine, marked="\tother\tsend\t")
    with pytest.raises(InClear, match="send has secret fields"):
        await engine.enqueue(engine.job("b", body=CLEAR))
    for name, body in (("c", FIELDS), ("d", SEALED)):
        assert await engine.enqueue(engine.job(name, body=body)) == [True]
    assert await engine.enqueue(of_class(engine, "e")) == [True]


@pytest.mark.parametrize("mode", ["replace", "debounce"])
@pytest.mark.parametrize("body", [SEALED, FIELDS])
async def test_a_payload_encrypted_for_one_id_is_not_given_to_another(engine: Engine, mode: str, body: bytes) -> None:
    assert await engine.enqueue(deduped(engine, "a", mode, body)) == [True]
    before = await engine.look("a")
    engine.advance(1000)
    (refused,) = await engine.enqueue(deduped(engine, "b", mode, body + b" "))
    assert refused == Repeat(engine.id("a"), False, True)
    assert await engine.look("a") == before
    assert await engine.enqueue(deduped(engine, "a", mode, body + b" ")) == [Repeat(engine.id("a"), True)]
    after = await engine.look("a")
    assert after.record is not None
    assert after.record.endswith(body + b" ")
    assert (after.score != before.score) == (mode == "debounce")
    assert await engine.enqueue(deduped(engine, "b", "drop", body)) == [Repeat(engine.id("a"), False)]


async def test_a_binary_body_survives_every_way_back(engine: Engine) -> None:
    job = engine.job("a", body=SEALED, group="acme", expires=60_000)
    await engine.enqueue(job)
    (mine,) = await engine.claim()
    await engine.settle(mine.retry(delay=0, line=b"{}"))
    (mine,) = await engine.claim()
    await engine.settle(mine.bury(line=b"{}"))
    assert await engine.redrive("a") == ["retried"]
    (mine,) = await engine.claim()
    await engine.settle(mine.park())
    await engine.sync(B)
    assert mine.claim.record is not None
    assert mine.claim.record.endswith(b"send\tacme\n" + SEALED)
    assert await engine.enqueue(job, resend=True) == [True]


async def reencrypt(engine: Engine, *changes: tuple[str, str, bytes, bytes, str]) -> list[int]:
    flat = [part for where, name, *rest in changes for part in (where, engine.id(name), *rest)]
    done: list[int] = await engine.broker.run("reencrypt", *flat)
    await engine.check()
    return done


async def test_only_what_is_as_it_was_read_is_replaced(engine: Engine) -> None:
    await engine.enqueue("a")
    record = (await engine.look("a")).record
    assert record is not None
    await engine.redis.set("arq:result:" + engine.id("r"), "old", px=50_000)
    await engine.redis.hset(engine.keys.key("logs"), engine.id("a"), "old")
    done = await reencrypt(
        engine,
        ("job", "a", record, record + b" ", ""),
        ("job", "a", record, b"lost", ""),
        ("job", "gone", record, b"lost", ""),
        ("result", "r", b"old", b"new", ""),
        ("logs", "a", b"old", b"new", ""),
        ("history", "a", b"old", b"lost", ""),
    )
    assert done == [1, 0, 0, 1, 1, 0]
    assert (await engine.look("a")).record == record + b" "
    assert await engine.redis.get("arq:result:" + engine.id("r")) == b"new"
    assert 0 < await engine.redis.pttl("arq:result:" + engine.id("r")) <= 50_000
    assert await engine.redis.hgetall(engine.keys.key("logs")) == {engine.id("a").encode(): b"new"}
    assert await engine.redis.exists(engine.keys.key("history"), "arq:job:" + engine.id("gone")) == 0


async def test_a_job_parked_for_the_old_key_may_be_tried_again(engine: Engine) -> None:
    await engine.enqueue("a", engine.job("later", delay=1))
    mine = await engine.claim()
    engine.advance(10)
    mine += await engine.claim()
    need = "send\x1fkey old 00000000"
    await engine.settle(*(one.park(need) for one in mine))
    assert [one.name for one in mine] == ["a", "later"]
    for one in mine:
        record = one.claim.record or b""
        assert await reencrypt(engine, ("job", one.name, record, record + b" ", "another need")) == [1]
        assert (await engine.look(one.name)).band != "ready"
        assert await reencrypt(engine, ("job", one.name, record + b" ", record, need)) == [1]
        assert (await engine.look(one.name)).band == "ready"
    assert await engine.redis.exists(engine.keys.key("parked"), engine.keys.key("parked", need)) == 0
    assert [one.name for one in await engine.claim(wanted=2)] == ["a", "later"]


async def test_a_full_server_is_reencrypted(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await engine.enqueue("a")
    record = (await engine.look("a")).record or b""
    await fill()
    assert await reencrypt(engine, ("job", "a", record, record + b" ", "")) == [1]
    assert (await engine.look("a")).record == record + b" "
