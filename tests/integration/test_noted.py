"""Sets of families are read together: mostly there are none, and one command says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from daemon.connecting.connections import connect
from daemon.noted import Noted
from tests.engine import calls
from tests.marks import one_server

FIRST, SECOND = "arqd:first:families", "arqd:second:families"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    client = connect(redis_url)
    yield client
    await client.aclose()


async def test_families_are_those_of_their_set(redis: Any) -> None:
    noted = Noted(redis, FIRST, SECOND, seconds=3600)
    await redis.sadd(SECOND, "email")
    assert [await noted.families(key) for key in (FIRST, SECOND)] == [[], ["email"]]
    await redis.sadd(FIRST, "push")
    assert await noted.families(FIRST) == [], "what was read is good enough"
    await noted.look()
    assert [await noted.families(key) for key in (FIRST, SECOND)] == [["push"], ["email"]]


async def test_what_is_too_old_is_read_anew(redis: Any) -> None:
    noted = Noted(redis, FIRST, SECOND, seconds=0)
    assert await noted.families(FIRST) == []
    await redis.sadd(FIRST, "push")
    assert await noted.families(FIRST) == ["push"]


@one_server
async def test_that_there_are_none_takes_one_command(redis: Any, redis_url: str) -> None:
    noted = Noted(redis, FIRST, SECOND, seconds=3600)
    before = calls(redis_url, "exists", "smembers")
    for key in (FIRST, SECOND, FIRST):
        assert await noted.families(key) == []
    assert calls(redis_url, "exists", "smembers") - before == 1
