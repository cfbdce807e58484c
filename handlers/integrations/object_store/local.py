"""An object store in a folder: objects are plain files, what else is known of them lies beside in ``.arqd``."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from handlers.integrations.object_store.settings import ObjectStoreSettings
from handlers.integrations.object_store.store import (
    CHUNK,
    Content,
    InvalidKey,
    ObjectConflict,
    ObjectInfo,
    ObjectMissing,
    ObjectStore,
    ObjectStream,
    StoreUnavailable,
    checked_key,
    guessed_type,
    pieces,
)

#: Drafts older than this are of processes that were killed, seconds.
STALE = 86_400


class LocalStore(ObjectStore):
    """Keeps objects in a folder, for one machine or a file system that several share.

    A link inside the folder that leads out of it is not followed.

    Args:
        root: made when something is first written.
    """

    def __init__(self, root: Path, options: ObjectStoreSettings) -> None:
        self.root = root.absolute()
        self._own = self.root / ".arqd"
        self._options = options
        self._swept = False

    async def put(
        self,
        key: str,
        content: Content,
        *,
        content_type: str | None = None,
        owner: str | None = None,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> ObjectInfo:
        """See `ObjectStore.put`."""
        target = self._path(key)
        draft = self._own / "drafts" / secrets.token_hex(16)
        known = {"content_type": content_type or guessed_type(key), "owner": owner}
        try:
            with _told(key):
                await asyncio.to_thread(self._prepare, draft.parent)
                with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "wb") as file:
                    async for piece in pieces(content, CHUNK):
                        await asyncio.to_thread(file.write, piece)
                    await asyncio.to_thread(_to_disk, file.fileno())
                return await asyncio.to_thread(self._appear, key, draft, target, known, if_absent, if_match)
        finally:
            for left in (draft, draft.with_suffix(".json")):
                left.unlink(missing_ok=True)

    @asynccontextmanager
    async def get(self, key: str) -> AsyncIterator[ObjectStream]:
        """See `ObjectStore.get`."""
        path = self._path(key)
        with _told(key):
            try:
                file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
            except (FileNotFoundError, NotADirectoryError):
                raise ObjectMissing(f"there is no object {key}") from None
        with file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ObjectMissing(f"there is no object {key}")

            async def chunks() -> AsyncIterator[bytes]:
                with _told(key):
                    while chunk := await asyncio.to_thread(file.read, CHUNK):
                        yield chunk

            yield ObjectStream(self._info(key, status), chunks())

    async def head(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore.head`."""
        path = self._path(key)
        with _told(key):
            return await asyncio.to_thread(self._look, key, path)

    async def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        path = self._path(key)
        with _told(key), suppress(FileNotFoundError, NotADirectoryError):
            await asyncio.to_thread(path.unlink)
            self._beside(key).unlink(missing_ok=True)

    async def link(self, key: str, lifetime: float | None = None) -> str:
        """See `ObjectStore.link`: under the public URL, else that of the file."""
        path = self._path(key)
        public = self._options.public_url
        return f"{public}/{quote(key)}" if public else path.as_uri()

    async def check(self) -> str:
        """See `ObjectStore.check`."""
        with _told("the folder"):
            await asyncio.to_thread(self._prepare, self._own / "drafts")
        if not os.access(self._own, os.W_OK):
            raise StoreUnavailable(f"{self.root} is not writable")
        return str(self.root)

    # ------------------------------------------------------------------ on the disk

    def _path(self, key: str) -> Path:
        path = self.root / checked_key(key)
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise InvalidKey("an object's key leads through a link out of the store")
        return path

    def _beside(self, key: str) -> Path:
        # Not among the objects: a listing of the folder shows them and nothing else.
        return self._own / "known" / f"{key}.json"

    def _prepare(self, drafts: Path) -> None:
        drafts.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            self._swept = True
            for draft in drafts.iterdir():
                with suppress(FileNotFoundError):
                    if draft.stat().st_mtime < time.time() - STALE:
                        draft.unlink()

    def _look(self, key: str, path: Path) -> ObjectInfo | None:
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return self._info(key, status) if stat.S_ISREG(status.st_mode) else None

    def _info(self, key: str, status: os.stat_result) -> ObjectInfo:
        etag = _etag(status)
        known: dict[str, str] = {}
        with suppress(OSError, ValueError):
            known = json.loads(self._beside(key).read_bytes())
        if known.pop("etag", None) != etag:
            # Of an object that was replaced, or never came to be.
            known = {"content_type": guessed_type(key)}
        return ObjectInfo(key=key, size=status.st_size, etag=etag, **known)

    def _appear(
        self, key: str, draft: Path, target: Path, known: dict[str, str | None], if_absent: bool, if_match: str | None
    ) -> ObjectInfo:
        """Put a draft into its place, in one piece; what is known of it first, under the etag it is going to have."""
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InvalidKey(f"{key}: a part of it is the key of another object, and so no folder") from None
        if target.is_dir():
            raise InvalidKey(f"{key} is a folder of other objects")
        with self._alone():
            if if_absent or if_match is not None:
                there = self._look(key, target)
                if (if_absent and there) or (if_match is not None and (there is None or there.etag != if_match)):
                    raise ObjectConflict(f"{key} was written by somebody else")
            status = draft.stat()
            beside = self._beside(key)
            beside.parent.mkdir(parents=True, exist_ok=True)
            note = draft.with_suffix(".json")
            note.write_text(json.dumps({**known, "etag": _etag(status)}))
            note.replace(beside)
            draft.replace(target)
        return self._info(key, status)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process of this machine compare and replace at a time."""
        with (self._own / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"


def _to_disk(number: int) -> None:
    os.fsync(number)


@contextmanager
def _told(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"{key}: {error.strerror or error}") from error
