"""relay: a batch of an outbox is added once, however often it is sent, and what refuses it leaves no trace."""

from __future__ import annotations

import pytest
from redis.exceptions import OutOfMemoryError

from daemon.broker import NewJob
from daemon.errors import InClear, QueueFull
from tests.lua.conftest import Fill
from tests.lua.state import Engine

DAY = 86_400_000


async def relay(engine: Engine, batch: str, *jobs: NewJob) -> list[bool] | None:
    added = await engine.broker.relay(batch, jobs, DAY)
    await engine.check()
    return added  # type: ignore[return-value]


async def test_a_batch_is_added_once(engine: Engine) -> None:
    jobs = [engine.job("a"), engine.job("b", delay=60_000)]
    assert await relay(engine, "1", *jobs) == [True, True]
    assert await relay(engine, "1", *jobs) is None
    assert [mine.name for mine in await engine.claim(wanted=5)] == ["a"]


async def test_even_if_its_jobs_are_forgotten(engine: Engine) -> None:
    assert await relay(engine, "1", engine.job("a")) == [True]
    assert await engine.remove("a") == ["removed"]
    assert await relay(engine, "1", engine.job("a")) is None
    assert await relay(engine, "2", engine.job("a")) == [True]


async def test_what_is_there_already_is_not_added(engine: Engine) -> None:
    assert await engine.enqueue("a") == [True]
    assert await relay(engine, "1", engine.job("a"), engine.job("b")) == [False, True]


async def test_how_long_it_is_remembered(engine: Engine) -> None:
    await relay(engine, "1", engine.job("a"))
    assert 0 < await engine.redis.pttl(engine.keys.key("relayed", "1")) <= DAY


async def test_a_full_server_refuses_it_whole(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await fill()
    with pytest.raises(OutOfMemoryError):
        await engine.broker.relay("1", [engine.job("a")], DAY)
    await engine.redis.config_set("maxmemory", "100mb")
    assert await relay(engine, "1", engine.job("a")) == [True]


async def test_one_in_clear_refuses_it_whole(engine: Engine) -> None:
    await engine.redis.hset(engine.keys.key("conf"), "encrypted", "1")
    with pytest.raises(InClear):
        await relay(engine, "1", engine.job("a", body=b"[1]"))
    await engine.redis.hdel(engine.keys.key("conf"), "encrypted")
    assert await relay(engine, "1", engine.job("a")) == [True]


async def test_a_budget_that_is_used_up_refuses_it_whole(engine: Engine) -> None:
    await engine.sync(max_bytes=1)
    with pytest.raises(QueueFull):
        await engine.broker.relay("1", [engine.job("a")], DAY)
    await engine.sync(max_bytes=100_000)
    assert await relay(engine, "1", engine.job("a")) == [True]
