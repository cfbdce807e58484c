"""A connection of one's own: replies in their order, lost connections, frozen servers, refused commands."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest
from redis import exceptions

from daemon.channel import Channel
from daemon.connections import connect
from tests.conftest import RedisServerFactory
from tests.marks import one_server

pytestmark = one_server


async def test_replies_come_in_their_order(redis_url: str) -> None:
    channel = Channel(client := connect(redis_url))
    await channel.call("SET", "text", b"\x00\xff")
    under_way = [await channel.start("ECHO", str(number)) for number in range(100)]
    refused = await channel.start("INCR", "text")
    after = await channel.start("GET", "text")
    assert [await reply for reply in under_way] == [b"%d" % number for number in range(100)]
    with pytest.raises(exceptions.ResponseError, match="not an integer"):
        await refused
    assert await after == b"\x00\xff"
    assert channel.opened == 1
    channel.close()
    await client.aclose()


async def test_who_gives_up_takes_nobody_elses_reply(redis_url: str) -> None:
    channel = Channel(client := connect(redis_url))
    await channel.call("PING")
    given_up = asyncio.ensure_future(await channel.start("BLPOP", "nothing", 0.2))
    mine = await channel.start("ECHO", "mine")
    given_up.cancel()
    assert await mine == b"mine"
    channel.close()
    await client.aclose()


async def test_it_opens_at_once_for_all_who_call(redis_url: str) -> None:
    channel = Channel(client := connect(redis_url))
    assert await asyncio.gather(*(channel.call("ECHO", "a") for _ in range(20))) == [b"a"] * 20
    assert channel.opened == 1
    channel.close()
    assert await channel.call("ECHO", "b") == b"b"
    assert channel.opened == 2
    channel.close()
    await client.aclose()


async def test_a_lost_connection_is_told_to_all_who_wait_and_opened_again(redis_url: str) -> None:
    channel = Channel(client := connect(redis_url))
    number = await channel.call("CLIENT", "ID")
    waiting = [await channel.start("BLPOP", "nothing", 5) for _ in range(3)]
    assert await client.client_kill_filter(_id=str(number)) == 1
    for each in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(each, exceptions.ConnectionError)
    assert await channel.call("ECHO", "again") == b"again"
    channel.close()
    await client.aclose()


async def test_a_frozen_server_is_told_in_time(redis_server: RedisServerFactory) -> None:
    server = redis_server()
    channel = Channel(client := connect(server.url, timeout=1))
    await channel.call("PING")
    server.pause()
    try:
        with pytest.raises(exceptions.TimeoutError):
            await channel.call("PING")
    finally:
        server.resume()
    assert await channel.call("ECHO", "again") == b"again"
    channel.close()
    await client.aclose()


async def test_a_refused_user_and_a_dead_address(redis_server: RedisServerFactory) -> None:
    server = redis_server(password="letmein" * 3)
    wrong = Channel(client := connect(f"redis://:no@127.0.0.1:{server.port}"))
    with pytest.raises(exceptions.AuthenticationError):
        await wrong.call("PING")
    await client.aclose()
    server.stop()
    gone = Channel(client := connect(server.url))
    with pytest.raises(exceptions.ConnectionError):
        await gone.call("PING")
    await client.aclose()


async def test_closing_leaves_nothing_open(redis_url: str) -> None:
    # What earlier tests left is not of this channel.
    gc.collect()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        channel = Channel(client := connect(redis_url))
        await channel.call("PING")
        waiting = await channel.start("BLPOP", "nothing", 5)
        channel.close()
        with pytest.raises(exceptions.ConnectionError, match="closed"):
            await waiting
        await client.aclose()
        del channel, client, waiting
        gc.collect()
        await asyncio.sleep(0)
    assert [str(warning.message) for warning in told if warning.category is ResourceWarning] == []
