"""A connection of one's own: replies in their order, lost connections, frozen servers, refused commands."""

from __future__ import annotations

import asyncio
import gc
import warnings
from typing import Self

import pytest
from redis import exceptions

from daemon.connecting.channel import Channel
from daemon.connecting.connections import connect
from tests.conftest import RedisServerFactory
from tests.engine import until
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


class Mute:
    """A server that takes connections and never says a word."""

    def __init__(self) -> None:
        self.taken: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(lambda _, writer: self.taken.append(writer), "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self.taken:
            writer.close()


async def test_who_waits_for_a_connection_hears_that_it_failed() -> None:
    async with Mute() as mute:
        # Long enough for all that is to happen while one try is under way.
        channel = Channel(client := connect(mute.url, timeout=1))
        calls = [channel.call("PING") for _ in range(20)]
        failed = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in failed} == {exceptions.TimeoutError}
        # Not one try after the other, of which each takes the whole time.
        assert len(mute.taken) == 1
        # Who calls later tries anew, and who gives up takes nobody's try from him.
        given_up, later = (asyncio.create_task(channel.call("PING")) for _ in range(2))
        await until(lambda: len(mute.taken) == 2)
        given_up.cancel()
        with pytest.raises(exceptions.TimeoutError):
            await later
        assert len(mute.taken) == 3
        await client.aclose()


async def test_connections_of_a_pool_are_opened_side_by_side() -> None:
    async with Mute() as mute:
        client = connect(mute.url, timeout=60)
        calls = [asyncio.create_task(client.ping()) for _ in range(20)]
        await until(lambda: len(mute.taken) == 20, seconds=30)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
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
