"""Events to many: one reader, resumed streams, and no command more for any worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import httpx
import pytest
from redis.asyncio import Redis

from daemon.console import live
from daemon.console.pages.dashboard import Dashboard
from tests.asking import FUNCTIONS
from tests.console.support import API, Console, console, served
from tests.engine import eventually, make_family, until, working


@asynccontextmanager
async def watched(found: Console) -> AsyncIterator[httpx.AsyncClient]:
    """Serve it, and give a viewer's client."""
    _, token = await found.services.tokens.add("stream", "viewer")
    async with served(found) as client:
        client.headers["authorization"] = f"Bearer {token}"
        yield client


class Reader:
    """Collects the messages of a stream: ``(id, event, data)``."""

    def __init__(self, client: httpx.AsyncClient, last: str | None = None, **params: Any) -> None:
        self.messages: list[tuple[str, str, Any]] = []
        self._open = asyncio.Event()
        headers = {"last-event-id": last} if last else {}
        self._task = asyncio.create_task(self._read(client, params, headers))

    async def _read(self, client: httpx.AsyncClient, params: Any, headers: dict[str, str]) -> None:
        async with client.stream("GET", f"{API}/events", params=params, headers=headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            fields: dict[str, str] = {}
            async for line in answer.aiter_lines():
                self._open.set()
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif "event" in fields:
                    self.messages.append((fields.get("id", ""), fields["event"], json.loads(fields["data"])))
                    fields = {}

    async def opened(self) -> None:
        """Wait for the first line; raises what came instead."""
        waiting = asyncio.create_task(self._open.wait())
        await asyncio.wait({waiting, self._task}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not self._open.is_set():
            await self._task
            raise AssertionError("the stream ended before it began")

    async def ended(self) -> None:
        await asyncio.wait_for(self._task, 60)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def kinds(self) -> list[str]:
        return [kind for _, kind, _ in self.messages]


async def test_what_happens_is_told_as_it_happens(redis_url: str) -> None:
    family = make_family("t", *FUNCTIONS)
    async with console(redis_url, family) as found, watched(found) as client:
        every, some = Reader(client), Reader(client, kind=["completed"])
        await asyncio.gather(every.opened(), some.opened())
        async with working(redis_url, family):
            job = await found.services.producer.enqueue("plain", {"n": 1}, family="t")
            await until(lambda: "completed" in every.kinds() and some.messages)
        first, *began, last = every.kinds()
        # A worker that stood still hands back what it has not begun, and starts it again.
        assert (first, began[-1], last) == ("enqueued", "started", "completed")
        ((_, kind, event),) = some.messages
        assert (kind, event["id"], event["family"], event["function"]) == ("completed", job.id, "t", "plain")
        await every.stop()
        await some.stop()


async def test_who_asks_for_the_headers_of_a_stream_gets_them_and_no_stream(redis_url: str) -> None:
    async with console(redis_url, pages=Dashboard()) as found, watched(found) as client:
        for path in (f"{API}/events", "/changes"):
            answer = await asyncio.wait_for(client.head(path), 30)
            assert (answer.status_code, answer.content) == (200, b""), answer.text
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert (await client.head(f"{path}?family=none")).status_code == 404
        assert not found.services.live._streams


async def test_a_stream_goes_on_where_it_was_left(redis_url: str) -> None:
    families = make_family("t", *FUNCTIONS), make_family("u", *FUNCTIONS)
    async with console(redis_url, *families) as found, watched(found) as client:
        producer = found.services.producer
        reader = Reader(client)
        await reader.opened()
        await producer.enqueue("plain", {"n": 1}, family="t", job_id="a")
        await until(lambda: reader.messages)
        await reader.stop()
        last = reader.messages[-1][0]
        # Of a family that had no event before, too, and while another stream is open.
        other = Reader(client)
        await other.opened()
        for family, name in (("u", "b"), ("t", "c"), ("t", "d")):
            await producer.enqueue("plain", {"n": 1}, family=family, job_id=name)
        again = Reader(client, last)
        await until(lambda: len(again.messages) == 3)
        await producer.enqueue("plain", {"n": 1}, family="u", job_id="e")
        await until(lambda: len(again.messages) == 4)
        await until(lambda: len(other.messages) == 4)
        ids = [event["id"] for _, _, event in again.messages]
        assert (sorted(ids[:3]), ids[3]) == (["t:c", "t:d", "u:b"], "u:e")
        await again.stop()
        await other.stop()
        wrong = await client.get(f"{API}/events", headers={"last-event-id": "nonsense"})
        assert wrong.status_code == 422
        assert (await client.get(f"{API}/events", params={"family": "none"})).status_code == 404


async def test_who_is_too_slow_is_let_go_and_misses_nothing(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BACKLOG", 5)
    async with console(redis_url) as found:
        producer, seen, last = found.services.producer, [], ""
        async with found.services.live.stream(["t"]) as slow:
            await producer.enqueue("plain", {"n": 0}, family="t", job_id="0")
            first = await anext(slow)
            assert isinstance(first, tuple)
            last = first[1]
            for n in range(1, 12):
                await producer.enqueue("plain", {"n": n}, family="t", job_id=str(n))
            async for each in slow:
                assert isinstance(each, tuple)
                seen.append(each[0].id)
                last = each[1]
                await eventually(lambda: all_told(found))
            assert len(seen) < 11
        async with found.services.live.stream(["t"], live.Place.parse(last)) as rest:
            while len(seen) < 11:
                each = await anext(rest)
                assert isinstance(each, tuple)
                seen.append(each[0].id)
        assert seen == [f"t:{n}" for n in range(1, 12)]


async def all_told(found: Console) -> bool:
    """Whether the slow stream has been closed, since the reader has offered it more than it can hold."""
    return all(stream.closed for stream in found.services.live._streams)


async def test_streams_end_with_the_console(redis_url: str) -> None:
    async with console(redis_url) as found:
        async with watched(found) as client:
            reader = Reader(client)
            await reader.opened()
            found.services.live.close()
            await reader.ended()
        assert found.services.live._tasks == []


async def test_counts_come_with_the_stream_if_wanted(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SNAPSHOT_SECONDS", 0.02)
    async with console(redis_url) as found, watched(found) as client:
        reader, plain = Reader(client, counts=True), Reader(client)
        await until(lambda: reader.messages)
        await found.services.producer.enqueue("plain", {"n": 1}, family="t")

        def counted() -> bool:
            return any(kind == "queues" and data[0]["stats"]["waiting"] == 1 for _, kind, data in reader.messages)

        await until(counted)
        late = Reader(client, counts=True)
        await until(lambda: late.messages)
        assert "queues" not in plain.kinds()
        for each in (reader, plain, late):
            await each.stop()


async def test_fifty_streams_cost_no_worker_a_command(redis_url: str) -> None:
    family = make_family("t", *FUNCTIONS)
    async with console(redis_url, family) as found, watched(found) as client, AsyncExitStack() as stack:
        producer = found.services.producer

        async def addresses() -> set[str]:
            return {each["addr"] for each in await found.services.redis.client_list()}

        async def run_jobs(*others: set[str]) -> list[str]:
            """Run some jobs one after the other; gives the commands that none of the other connections sent."""
            async with Monitor(redis_url) as monitor:
                for n in range(10):
                    await (await producer.enqueue("plain", {"n": n}, family="t")).result(timeout=60)
                # It tells them in their order.
                await found.services.redis.echo("seen")
                await until(lambda: any(command == "ECHO" for _, command in monitor.seen))
                return [command for address, command in monitor.seen if not any(address in each for each in others)]

        before = await addresses()
        await stack.enter_async_context(working(redis_url, family))
        workers = await addresses() - before
        # The console's connection for results is opened by the first.
        await (await producer.enqueue("plain", {"n": 0}, family="t")).result(timeout=60)
        alone = await run_jobs(await addresses() - workers)
        readers = []
        # One after the other: fifty connections made at once in one busy loop can each take longer than a client waits.
        for _ in range(50):
            readers.append(reader := Reader(client))
            await reader.opened()
        beside = await run_jobs(await addresses() - workers)
        await until(lambda: all(reader.kinds().count("completed") == 10 for reader in readers))
        listed = await found.services.redis.client_list()
        assert len([each for each in listed if each["cmd"].startswith("xread")]) == 1
        # What workers do by time (renewals, wake-ups, the scheduler's lease) makes a difference, of more where the
        # machine is busy; a command for each stream and job would be five hundred.
        assert alone.count("EVALSHA") >= 10
        assert len(beside) <= len(alone) + 200
        assert {name for name in beside if name.startswith(("X", "PUB", "SUB"))} == set()
        for reader in readers:
            await reader.stop()


class Monitor:
    """Sees the commands that clients send, those inside scripts left out: ``(address, name)``."""

    def __init__(self, url: str) -> None:
        self.seen: list[tuple[str, str]] = []
        self._url = url
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        client = await self._stack.enter_async_context(Redis.from_url(self._url))
        self._monitor = await self._stack.enter_async_context(client.monitor())
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._stack.aclose()

    async def _listen(self) -> None:
        async for each in self._monitor.listen():
            if each["client_type"] != "lua":
                address = f"{each['client_address']}:{each['client_port']}"
                self.seen.append((address, each["command"].split(" ", 1)[0].upper()))
