"""A TCP proxy on loopback between clients and a server, whose link can freeze, be cut, or half open."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Self


class Link:
    """Forwards a port of its own to another one; a context manager. It runs in a thread with a loop of its own.

    Args:
        port: where the server listens.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._flows = asyncio.Event()
        self._pairs: list[_Pair] = []
        self._lost: list[_Pair] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """``redis://`` URL of the server behind it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self._thread.start()
        self.thaw()
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._call(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    def freeze(self) -> None:
        """Let nothing pass, either way; connections stay open, new ones are accepted."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def thaw(self) -> None:
        """Let what has gathered pass, and all that follows."""
        self._loop.call_soon_threadsafe(self._flows.set)

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        self._call(self._cut)

    def mend(self) -> None:
        """Accept connections again."""
        self._call(self._listen)

    def half_open(self) -> int:
        """Let the connections there are hang for ever, as when the other machine is gone; new ones work.

        Returns:
            How many they are.
        """
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.gone = True
        self._lost += pairs
        return len(pairs)

    # ------------------------------------------------------------------ in its thread

    def _call(self, call: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            await call()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for pair in [*self._pairs, *self._lost]:
            pair.reset()
        self._pairs, self._lost = [], []

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flows.wait()
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(self._flows, (writer, upstream[1]))
        self._pairs.append(pair)
        await asyncio.gather(pair.pump(reader, upstream[1]), pair.pump(upstream[0], writer))
        if pair in self._pairs:
            self._pairs.remove(pair)


class _Pair:
    def __init__(self, flows: asyncio.Event, writers: tuple[asyncio.StreamWriter, ...]) -> None:
        self.gone = False
        self._flows = flows
        self._writers = writers

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = await reader.read(65536)
                await self._flows.wait()
                if self.gone:
                    # Not even an end is told any more.
                    return
                if not data:
                    break
                writer.write(data)
                await writer.drain()
        if not self.gone:
            writer.close()

    def reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
