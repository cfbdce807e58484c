"""Where what was made goes: the object store, or a folder that the operator allows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from daemon.context import JobContext
from handlers.integrations.folders import write_confined
from handlers.integrations.object_store.store import ObjectStore, own_name

SETTING = "ARQD_MEDIA__TARGET_DIRS"


class Results:
    """Writes results, whole or not at all.

    Args:
        folders: those that paths may lead into.
    """

    def __init__(self, store: ObjectStore, folders: Sequence[Path]) -> None:
        self._store = store
        self._folders = folders

    async def put(self, ctx: JobContext, target: str, file: BinaryIO, content_type: str) -> str:
        """Write a file to its target, and give the URL it can be read at.

        Args:
            target: key of an object, or an absolute path.

        Raises:
            PathForbidden: the path is outside of the folders.
            ObjectError: see `handlers.integrations.object_store.store`.
        """
        if target.startswith("/"):
            return (await asyncio.to_thread(write_confined, target, self._folders, SETTING, file)).as_uri()
        await self._store.put_once(ctx, target, file, content_type=content_type)
        return await self._store.link(target)


def own_key(job_id: str, suffix: str) -> str:
    """Give the key of a job's own result: ``media/<id>.webp``."""
    return f"media/{own_name(job_id)}.{suffix}"
