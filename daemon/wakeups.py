"""How idle workers of a process sleep: one blocking connection pops the wake-up marks of all of them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from daemon.connections import LOST, connect

if TYPE_CHECKING:
    from daemon.supervisor import Supervisor

logger = logging.getLogger("arqd.wakeups")

#: How long one pop blocks: bounds what a half-open connection can cost.
BLOCK_SECONDS = 5
AGAIN_SECONDS = 0.2


class Wakeups:
    """Pops marks for the workers that listen, and tells them.

    A pop is only open while somebody is idle. When one more worker becomes idle the open pop is unblocked and issued
    again with that worker's mark too: dropping the connection instead could lose a mark.
    """

    def __init__(self, supervisor: Supervisor, url: str) -> None:
        self._supervisor = supervisor
        self._client = connect(url, timeout=BLOCK_SECONDS + 2)
        self._changed = asyncio.Event()
        self._popping: frozenset[str] = frozenset()
        self._client_id: int | None = None
        self._unblocking: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """A worker has nothing to do and wants to hear of work, or of permits it waits for."""
        if self._wanted() <= self._popping:
            return
        self._changed.set()
        if self._popping and (self._unblocking is None or self._unblocking.done()):
            self._unblocking = asyncio.create_task(self._unblock(self._popping))

    async def run(self) -> None:
        """Pop until cancelled."""
        try:
            while True:
                try:
                    async with self._client.client() as connection:
                        await self._serve(connection)
                except (*LOST, RedisError) as error:
                    logger.debug("waiting for work: %s", error)
                    self._supervisor.redis_up = False
                    self._client_id = None
                    for worker in self._supervisor.workers:
                        worker.session.doubt()
                    await asyncio.sleep(AGAIN_SECONDS)
        finally:
            if self._unblocking is not None:
                self._unblocking.cancel()
                await asyncio.gather(self._unblocking, return_exceptions=True)
            await self._client.aclose()

    async def _serve(self, connection: Any) -> None:
        while True:
            self._changed.clear()
            wanted = self._wanted()
            if wanted:
                await self._pop(connection, wanted)
            else:
                await self._changed.wait()

    async def _pop(self, connection: Any, wanted: frozenset[str]) -> None:
        try:
            if self._client_id is None:
                self._client_id = await connection.client_id()
                # A mark may have been lost with the connection before.
                for worker in self._supervisor.workers:
                    worker.notify_due()
            self._popping = wanted
            found = await connection.bzpopmin(sorted(wanted), BLOCK_SECONDS)
        finally:
            self._popping = frozenset()
        self._supervisor.redis_up = True
        if found is not None:
            self._tell(found[0].decode())

    async def _unblock(self, popping: frozenset[str]) -> None:
        """End an open pop; asked again while the server has not seen the pop yet."""
        try:
            while self._popping is popping and self._client_id is not None:
                if await self._supervisor.redis.client_unblock(self._client_id):
                    return
                await asyncio.sleep(0.01)
        except (*LOST, RedisError) as error:
            logger.debug("cannot unblock: %s", error)

    def _wanted(self) -> frozenset[str]:
        idle = [worker.keys for worker in self._supervisor.workers if worker.listening]
        names = ("mark", "suspects") if self._supervisor.idle else ("mark",)
        permits = [worker.permits for worker in self._supervisor.workers if worker.permits is not None]
        marks = [keys.key(name) for keys in idle for name in names]
        return frozenset((*marks, *(mark for found in permits for mark in found.awaited)))

    def _tell(self, key: str) -> None:
        for worker in self._supervisor.workers:
            if key == worker.keys.key("mark"):
                worker.notify()
            elif worker.permits is not None and key in worker.permits.awaited:
                worker.permits.freed(key)
            elif key == worker.keys.key("suspects"):
                if self._supervisor.idle:
                    self._supervisor.isolate(worker)
                worker.notify()
