"""How idle workers of a process sleep: a blocking connection pops the wake-up marks of all of them.

One connection for each place of keys: a server, or in a cluster a family's slot, since a command takes keys of one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from itertools import chain
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from daemon.claiming.take import Take
from daemon.connecting.channel import Channel
from daemon.connecting.connections import LOST, connect
from daemon.connecting.routed import at_key, lost_node, place_of
from daemon.servers import RedisUrl

if TYPE_CHECKING:
    from daemon.supervisor import Supervisor
    from daemon.worker import Worker

logger = logging.getLogger("arqd.wakeups")

#: How long one pop blocks: bounds what a half-open connection can cost.
BLOCK_SECONDS = 5
AGAIN_SECONDS = 0.2
#: How long a process has been idle before it wants to hear of suspects, too.
PATIENCE_SECONDS = 0.2


class Wakeups:
    """Pops marks for the workers that listen, and tells them."""

    def __init__(self, supervisor: Supervisor, url: RedisUrl) -> None:
        self._supervisor = supervisor
        self._client = connect(url, timeout=BLOCK_SECONDS + 2)
        self._permits = [worker.permits for worker in supervisor.workers if worker.permits is not None]
        #: By place: workers with their mark and their suspects'; this is looked through several times for each job.
        self._sleepers: defaultdict[Hashable, list[tuple[Worker, str, str]]] = defaultdict(list)
        for worker in supervisor.workers:
            key = worker.keys.key
            self._sleepers[self._place(worker.keys.queue)].append((worker, key("mark"), key("suspects")))
        keys = [mark for _, mark, _ in chain.from_iterable(self._sleepers.values())]
        keys += [mark for permits in self._permits for mark in permits.marks]
        self._pops = {place: self._pop(key, place) for place, key in {self._place(key): key for key in keys}.items()}

    def _pop(self, key: str, place: Hashable) -> _Pop:
        here = [worker for worker, _, _ in self._sleepers[place]]
        return _Pop(self._supervisor, self._client, key, here, partial(self._wanted, place), self._tell)

    def listen(self) -> None:
        """A worker has nothing to do and wants to hear of work, or of permits it waits for."""
        for pop in self._pops.values():
            pop.listen()

    async def run(self) -> None:
        """Pop until cancelled."""
        tasks = [asyncio.create_task(pop.run()) for pop in self._pops.values()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._client.aclose()

    def _place(self, key: str) -> Hashable:
        return place_of(self._client, key)

    def _wanted(self, place: Hashable) -> frozenset[str]:
        listening = [entry for entry in self._sleepers[place] if entry[0].listening]
        wanted = {mark for _, mark, _ in listening}
        if listening and self._supervisor.idle:
            wanted.update(suspects for _, _, suspects in listening)
        for permits in self._permits:
            wanted.update(mark for mark in permits.awaited if self._place(mark) == place)
        return frozenset(wanted)

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


class _Pop:
    """The blocking connection of one place.

    A pop is only open while somebody is idle. When one more worker becomes idle the open pop is unblocked and issued
    again with that worker's mark too: dropping the connection instead could lose a mark.

    Args:
        client: gives the connection.
        key: any of the place.
        workers: those whose families are there.
        wanted: gives the marks to pop now.
        tell: is given a mark that was popped.
    """

    def __init__(
        self, supervisor: Supervisor, client: Any, key: str, workers: Sequence[Worker],
        wanted: Callable[[], frozenset[str]], tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._supervisor = supervisor
        self._client = client
        self._key = key
        self._workers = workers
        self._wanted = wanted
        self._tell = tell
        self._changed = asyncio.Event()
        self._popping: frozenset[str] = frozenset()
        self._client_id: int | None = None
        self._unblocking: asyncio.Task[None] | None = None
        self._channel = Channel(client, key)
        alone = len(workers) == 1 and workers[0].prefetch.allowed
        self._take = Take(workers[0], self._channel) if alone else None
        self._opened = 0
        self._later: asyncio.TimerHandle | None = None
        self._suspects = frozenset(worker.keys.key("suspects") for worker in workers)

    def listen(self) -> None:
        missing = self._wanted() - self._popping
        if not missing:
            return
        self._changed.set()
        if not self._popping or not (self._unblocking is None or self._unblocking.done()):
            return
        if not missing <= self._suspects:
            self._unblocking = asyncio.create_task(self._unblock(self._popping))
        elif self._later is None:
            # A process is idle for a moment between any two jobs: for a mark that hardly ever comes it does not open
            # its pop anew each time.
            self._later = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._listen_later)

    def _listen_later(self) -> None:
        self._later = None
        if self._popping and self._supervisor.idle and not self._wanted() <= self._popping:
            self._unblocking = asyncio.create_task(self._unblock(self._popping))

    async def run(self) -> None:
        try:
            while True:
                try:
                    await self._serve()
                except (*LOST, RedisError) as error:
                    logger.debug("waiting for work: %s", error)
                    self._supervisor.redis_up = False
                    self._channel.close()
                    self._client_id = None
                    for worker in self._workers:
                        worker.session.doubt()
                        if self._take is not None and self._take.under_way:
                            # The server may have let it claim a job that nobody heard of.
                            worker.session.renew()
                    lost_node(self._client, self._key)
                    await asyncio.sleep(AGAIN_SECONDS)
        finally:
            if self._later is not None:
                self._later.cancel()
            if self._unblocking is not None:
                self._unblocking.cancel()
                await asyncio.gather(self._unblocking, return_exceptions=True)
            self._channel.close()

    async def _serve(self) -> None:
        while True:
            self._changed.clear()
            wanted = self._wanted()
            if wanted:
                await self._pop(wanted)
            else:
                await self._changed.wait()

    async def _pop(self, wanted: frozenset[str]) -> None:
        try:
            if self._opened != self._channel.opened or self._client_id is None:
                self._client_id = await self._channel.call("CLIENT", "ID")
                self._opened = self._channel.opened
                # A mark may have been lost with the connection before.
                for worker in self._workers:
                    worker.notify_due()
            if self._take is not None:
                self._take.load()
            self._popping = wanted
            pop = "BZPOPMIN", *sorted(wanted), BLOCK_SECONDS
            popped = await (self._channel.start(*pop) if self._take is None else self._take.send(pop))
            if self._opened != self._channel.opened:
                raise ConnectionError("the connection was opened anew: it has another id")
            taken = self._take is not None and await self._take.arrived()
            found = await popped
        finally:
            self._popping = frozenset()
        self._supervisor.redis_up = True
        if found is not None and not taken:
            self._tell(found[0].decode())

    async def _unblock(self, popping: frozenset[str]) -> None:
        """End an open pop; asked again while the server has not seen the pop yet."""
        try:
            while self._popping is popping and (client_id := self._client_id) is not None:
                unblock = methodcaller("client_unblock", client_id)
                if await at_key(self._supervisor.redis, self._key, unblock):
                    return
                await asyncio.sleep(0.01)
        except (*LOST, RedisError) as error:
            logger.debug("cannot unblock: %s", error)
