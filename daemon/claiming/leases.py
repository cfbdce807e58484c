"""Lease renewal: a thread with a connection of its own, so that a busy event loop does not cost a worker its jobs.

Every third of the lease it renews the session in its families. In between it blocks on the session's control lists,
where aborts arrive. A process has one for each place of keys (a server, or in a cluster a family's slot): a server that
hangs holds up no lease on another. Code that keeps the interpreter lock for longer stops it too: such work belongs in
the pool.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from redis.exceptions import NoScriptError, RedisError, ResponseError

from daemon.broker import Broker
from daemon.claiming.progress import Progress
from daemon.claiming.resting import Resting
from daemon.connecting.connections import LOST, connect_blocking
from daemon.keys import FamilyKeys
from daemon.layout import LAYOUT
from daemon.limits.permits import Permits
from daemon.lua import SCRIPTS
from daemon.process import profiler
from daemon.servers import RedisUrl

logger = logging.getLogger("arqd.leases")


class Leased(Protocol):
    """What the keeper needs of a worker; ``published`` is refreshed by the event loop."""

    keys: FamilyKeys
    broker: Broker
    published: bytes
    lease_ms: int
    keep_ms: int
    keep_failed_ms: int
    permits: Permits | None
    progress: Progress
    loop: asyncio.AbstractEventLoop

    def control(self, message: str) -> None: ...
    def lost(self) -> None: ...
    def notify_due(self) -> None: ...


class LeaseKeeper:
    """Renews one session's leases in a thread, from `start` to `stop`.

    Args:
        url: Redis.
        session: this process's session.
        workers: the workers whose families it holds, all of one place.
        call: runs a function in the event loop (``loop.call_soon_threadsafe``).
        place: tells where a key is.
    """

    def __init__(
        self, url: RedisUrl, session: str, workers: Sequence[Leased], call: Callable[[Callable[[], object]], Any],
        place: Callable[[str], Hashable],
    ) -> None:  # fmt: skip
        self._url = url
        self._place = place
        self._clients: dict[Hashable, Any] = {}
        self._session = session
        self._workers = workers
        self._resting = Resting(session, workers)
        self._call = call
        self._interval = min(worker.lease_ms for worker in workers) / 3000
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arqd-leases", daemon=True)
        self._controls = {worker.keys.key("ctl", session).encode(): worker for worker in workers}

    @property
    def wake(self) -> str:
        """A control list: an entry on it ends the thread's blocking pop."""
        return self._workers[0].keys.key("ctl", self._session)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start renewing."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; it does with its next message or renewal (send one to `wake` to hurry it)."""
        self._stopped.set()

    def join(self, timeout: float) -> None:
        """Wait until it has ended, at most ``timeout`` seconds."""
        self._thread.join(timeout)

    def _run(self) -> None:
        delay = 0.05
        due = time.monotonic() + self._interval
        try:
            while not self._stopped.is_set():
                try:
                    rest = due - time.monotonic()
                    if rest > 0:
                        self._listen(rest)
                    else:
                        due = time.monotonic() + self._interval
                        self._renew()
                    delay = 0.05
                except LOST as error:
                    self._resting.forget()
                    logger.debug("leases cannot be renewed: %s", error)
                    # They may be elsewhere now.
                    self._close()
                    self._stopped.wait(delay)
                    delay = min(2 * delay, 1.0)
                except RedisError as error:
                    self._resting.forget()
                    logger.error("leases cannot be renewed: %s", error)
                    self._stopped.wait(1.0)
        finally:
            self._close()

    def _send(self, key: str, text: str) -> None:
        """Send a profile; on a connection of its own, since another thread calls it."""
        with connect_blocking(self._url, 5.0, key) as client, client.pipeline(transaction=False) as pipe:
            pipe.rpush(key, text).pexpire(key, profiler.KEPT_MS)
            pipe.execute()

    def _client(self, key: str) -> Any:
        place = self._place(key)
        if place not in self._clients:
            self._clients[place] = connect_blocking(self._url, self._interval + 2, key)
        return self._clients[place]

    def _close(self) -> None:
        while self._clients:
            self._clients.popitem()[1].close()

    def _renew(self) -> None:
        resting = self._resting.next_round()
        restless = [worker for worker in self._workers if worker not in resting]
        if resting:
            restless += self._renew_resting(resting)
        if restless:
            self._renew_wholly(restless)
        for worker in self._workers:
            if worker.permits is not None:
                self._renew_permits(worker.permits)

    def _renew_resting(self, workers: Sequence[Leased]) -> Sequence[Leased]:
        """Renew families without jobs; gives those that have to be renewed wholly."""
        try:
            reply = self._execute("rest", self.wake, self._resting.call(workers))
        except LOST:
            raise
        except ResponseError as error:
            # The server's memory is full, perhaps: a whole renewal begins with what that does not stop.
            logger.debug("leases are renewed wholly: %s", error)
            return workers
        failed = self._resting.renewed(workers, reply)
        for worker in workers:
            if worker not in failed:
                self._call(functools.partial(worker.progress.renewed, waits=False))
        return failed

    def _execute(self, name: str, key: str, command: tuple[Any, ...]) -> Any:
        """Run a script where a key is."""
        client = self._client(key)
        try:
            return client.execute_command(*command)
        except NoScriptError:
            return client.execute_command("EVAL", SCRIPTS[name].text, *command[2:])

    def _renew_wholly(self, workers: Sequence[Leased]) -> None:
        commands, published = [], [worker.published for worker in workers]
        for worker, told in zip(workers, published, strict=True):
            ages = (worker.keep_ms, worker.keep_failed_ms)
            commands.append(worker.broker.call("renew", self._session, worker.lease_ms, told, *ages, LAYOUT))
        client = self._client(self.wake)
        with client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            replies = pipe.execute(raise_on_error=False)
        for worker, command, told, reply in zip(workers, commands, published, replies, strict=True):
            if isinstance(reply, NoScriptError):
                reply = client.execute_command("EVAL", SCRIPTS["renew"].text, *command[2:])
            if isinstance(reply, Exception):
                raise reply
            code, now, ends_in, rests, *layout = reply if reply[0] else (0, 0, -1, 0)
            self._resting.renewed_wholly(worker, told, now, bool(rests))
            if not code:
                self._call(worker.lost)
            if layout:
                self._call(functools.partial(worker.control, f"layout {layout[0].decode('utf-8', 'replace')}"))
            self._call(functools.partial(worker.progress.renewed, waits=code == 2))
            if code == 2:
                # The wake-up may have been lost.
                self._call(worker.notify_due)
            elif ends_in >= 0:
                # Somebody has not renewed: reap him as soon as his lease has ended.
                self._call(functools.partial(worker.loop.call_later, ends_in / 1000, worker.notify_due))

    def _renew_permits(self, permits: Permits) -> None:
        """Renew what a worker holds of limits that families share; they are in slots of their own."""
        for command in permits.renewals():
            if self._execute("permits", command[3], command) == [0]:
                self._call(permits.lapsed)

    def _listen(self, seconds: float) -> None:
        found = self._client(self.wake).blpop(list(self._controls), max(seconds, 0.01))
        if found is not None:
            worker, message = self._controls[found[0]], found[1].decode("utf-8", "surrogateescape")
            if profiler.start(message, self._send):
                return
            self._call(lambda: worker.control(message))
