"""Where what was made goes: the object store, or a folder that the operator allows."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from daemon.context import JobContext
from daemon.keys import spoken_id
from handlers.integrations.folders import confined
from handlers.integrations.object_store.store import ObjectStore

SETTING = "ARQD_MEDIA__TARGET_DIRS"
_ODD = re.compile(r"[^A-Za-z0-9._-]")


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
            path = confined(target, self._folders, SETTING)
            await asyncio.to_thread(_write, path, file)
            return path.as_uri()
        await self._store.put_once(ctx, target, file, content_type=content_type)
        return await self._store.link(target)


def own_key(job_id: str, suffix: str) -> str:
    """Give the key of a job's own result: ``media/<id>.webp``."""
    name = spoken_id(job_id).partition(":")[2] or job_id
    plain = _ODD.sub("-", name)[:100].lstrip(".")
    if plain != name:
        plain += "-" + hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"media/{plain}.{suffix}"


def _write(path: Path, file: BinaryIO) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{secrets.token_hex(8)}.part")
    file.seek(0)
    try:
        with draft.open("xb") as written:
            shutil.copyfileobj(file, written, 1024 * 1024)
            written.flush()
            os.fsync(written.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
