"""Where a job's file comes from: the web, a folder that the operator allows, or the object store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from handlers.integrations.folders import PathForbidden, open_confined, remove_confined
from handlers.integrations.http import HttpClient
from handlers.integrations.object_store.store import WRITTEN, ObjectStore, pieces
from handlers.integrations.processes import scratch


class Sources:
    """Opens and removes sources.

    Args:
        http: guarded.
        folders: those that paths may lead into.
        setting: the variable that names them.
        temp_dir: whose disk downloads are on.
        private: give a copy of a file by path: nobody can write into it any more.
    """

    def __init__(
        self,
        http: HttpClient,
        store: ObjectStore,
        folders: Sequence[Path],
        setting: str,
        temp_dir: Path | None,
        *,
        private: bool = False,
    ) -> None:
        self._http = http
        self._store = store
        self._folders = folders
        self._setting = setting
        self._temp_dir = temp_dir
        self._private = private

    @asynccontextmanager
    async def opened(
        self, limit: int, seconds: float, *, url: str | None = None, path: str | None = None, key: str | None = None
    ) -> AsyncIterator[BinaryIO]:
        """Give one of them as an open file, at its beginning.

        Args:
            limit: largest size accepted, bytes.
            seconds: limit on a download.

        Raises:
            PathForbidden: the path is outside of the folders, no plain file, or too large.
            HttpError, RetryAfter: see `handlers.integrations.http`.
            ObjectError: see `handlers.integrations.object_store.store`.
            OSError: it cannot be read now.
        """
        if path is not None:
            file = await asyncio.to_thread(open_confined, path, self._folders, self._setting, limit)
            with file:
                if not self._private:
                    yield file
                    return
                async with scratch(self._temp_dir) as copy:
                    await asyncio.to_thread(_copy, file, copy, limit)
                    yield copy
            return
        async with scratch(self._temp_dir) as file:
            if url is not None:
                async with self._http.stream("GET", url, timeout=max(0.1, seconds), max_body=limit) as stream:
                    stream.reply.checked("job")
                    async for piece in pieces(stream.chunks(), WRITTEN):
                        await asyncio.to_thread(file.write, piece)
            else:
                assert key is not None
                await self._store.fetch(key, file, limit)
            file.seek(0)
            yield file

    async def remove(self, *, path: str | None, key: str | None, made: Sequence[str] = ()) -> None:
        """Remove a source; nothing happens when it is gone.

        Args:
            made: keys and absolute paths of what was made of it: one that has taken its place stays.
        """
        if path is not None:
            spared = [each for each in made if each.startswith("/")]
            await asyncio.to_thread(remove_confined, path, self._folders, self._setting, spared=spared)
        elif key is not None and key not in made:
            await self._store.delete(key)


def _copy(file: BinaryIO, copy: BinaryIO, limit: int) -> None:
    while chunk := file.read(WRITTEN):
        copy.write(chunk)
        if copy.tell() > limit:
            raise PathForbidden(f"a file grows while it is read; the limit is {limit:,} bytes")
    copy.seek(0)
