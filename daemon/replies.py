"""How a producer process hears that its jobs ended: one blocking connection for all it waits for, no polling."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from daemon.broker import Broker
from daemon.connections import LOST, connect, translate, translated
from daemon.errors import JobNotFound, ResultTimeout
from daemon.keys import FamilyKeys, spoken_id

#: How long one pop blocks; shorter on a client that may time out before.
BLOCK_SECONDS, BLOCK_SHARED_SECONDS = 5, 1


class ReplyReader:
    """Waits for results on the reply lists of this process's session.

    Args:
        redis: the producer's client.
        url: where to open the blocking connection; None takes one of ``redis``'s pool for it.
    """

    def __init__(self, redis: Any, url: str | None) -> None:
        self._redis = redis
        self._url = url
        self._blocking: Any = None
        self._session = secrets.token_hex(8)
        self._waiting: dict[str, set[asyncio.Future[bytes]]] = {}
        self._families: dict[str, FamilyKeys] = {}
        self._task: asyncio.Task[None] | None = None

    async def wait(self, family: str, job_id: str, timeout: float | None) -> bytes:
        """Give the result record of a job as soon as it has ended.

        Args:
            timeout: seconds, None for ever.

        Raises:
            ResultTimeout, JobNotFound, RedisUnavailable: see `JobHandle.result`.
        """
        keys = FamilyKeys.of(family)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, set()).add(future)
        try:
            async with asyncio.timeout(timeout):
                await self._register(keys, job_id, future)
                return await future
        except TimeoutError:
            raise ResultTimeout(f"{spoken_id(job_id)} has not ended within {timeout:g} s; it goes on") from None
        finally:
            self._waiting[job_id].discard(future)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def _register(self, keys: FamilyKeys, job_id: str, future: asyncio.Future[bytes]) -> None:
        with translated():
            code, result = await Broker(self._redis, keys).await_result(self._session, job_id)
        if code < 0:
            raise JobNotFound(f"there is no job {spoken_id(job_id)}, or its result was not kept")
        if result is not None:
            if not future.done():
                future.set_result(result)
            return
        if keys.family not in self._families:
            self._families[keys.family] = keys
            if len(self._families) > 1:
                # The reader blocks on the lists it knew: an empty entry makes it look at the new one as well.
                first = next(iter(self._families.values()))
                await self._redis.rpush(self._list(first), b"")
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._read(), name="arqd-replies")

    def _list(self, keys: FamilyKeys) -> str:
        return keys.key("reply", self._session)

    async def _read(self) -> None:
        """Hand out what arrives; ends when nobody waits any more."""
        block = BLOCK_SHARED_SECONDS if self._url is None else BLOCK_SECONDS
        if self._blocking is None:
            self._blocking = self._redis if self._url is None else connect(self._url, timeout=block + 2)
        while self._waiting:
            lists = [self._list(keys) for keys in self._families.values()]
            try:
                found = await self._blocking.blpop(lists, block)
            except LOST:
                await self._again()
                continue
            except Exception as error:
                self._fail(translate(error))
                return
            if found is not None:
                job_id, _, result = found[1].partition(b"\n")
                self._give(job_id.decode(), result)

    def _give(self, job_id: str, result: bytes) -> None:
        for future in self._waiting.get(job_id, ()):
            if future.done():
                continue
            if result:
                future.set_result(result)
            else:
                future.set_exception(JobNotFound(f"{spoken_id(job_id)} was removed"))

    def _fail(self, error: Exception) -> None:
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    async def _again(self) -> None:
        """After a lost connection: ask for everything once more, since answers may have been lost with it."""
        while self._waiting:
            try:
                for job_id in list(self._waiting):
                    for keys in self._families.values():
                        if job_id.startswith(keys.prefix):
                            code, result = await Broker(self._redis, keys).await_result(self._session, job_id)
                            if result is not None or code < 0:
                                self._give(job_id, result or b"")
                return
            except LOST:
                await asyncio.sleep(0.2)

    async def close(self) -> None:
        """End the reader and close its connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._blocking is not None and self._blocking is not self._redis:
            await self._blocking.aclose()
