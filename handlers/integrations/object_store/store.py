"""The object store as families see it: one interface, its errors, and what both kinds of store share.

    store = open_store(ctx["settings"])                                  # handlers.integrations.object_store.opening
    await store.put("avatars/7.webp", content, owner=ctx.job_id)
    async with store.get("avatars/7.webp") as found:
        async for chunk in found.chunks: ...
    await store.link("avatars/7.webp")

A write appears whole or not at all. One that must not overwrite what somebody else has put there meanwhile is
`put_once`, which a job's next try may repeat.

ObjectError
├── ObjectMissing      there is no such object; permanent
├── ObjectConflict     what is there is not what the condition says; permanent
├── ObjectTooLarge     it has more bytes than the caller takes; permanent
├── StoreRefused       the store refuses the call for good: keys, permissions, bucket; permanent
└── StoreUnavailable   no connection, or the store is in trouble: try again
"""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

from daemon.errors import PermanentError
from daemon.keys import spoken_id

#: What is written at once; anything larger goes up in parts of this size, bytes.
PART = 8 * 1024 * 1024
#: What is read from a file at a time, bytes.
CHUNK = 256 * 1024
LONGEST_KEY = 1024
#: A file system takes names of 255 bytes, and ours have a suffix more.
LONGEST_PART = 240

#: What is written to a file at a time, in a thread, bytes.
WRITTEN = 1024 * 1024

_ODD = re.compile(r"[^A-Za-z0-9._-]")

Content = bytes | Path | BinaryIO | AsyncIterable[bytes]


class ObjectError(Exception):
    """The object store could not do what was asked."""


class ObjectMissing(ObjectError, PermanentError):
    """There is no such object."""


class ObjectConflict(ObjectError, PermanentError):
    """Another object is there already, or not the one that was expected: nothing was written."""


class ObjectTooLarge(ObjectError, PermanentError):
    """The object has more bytes than are accepted here."""


class StoreRefused(ObjectError, PermanentError):
    """The object store refuses the call: its keys, its permissions, the bucket's name."""


class StoreUnavailable(ObjectError):
    """The object store was not reached, or is in trouble."""


class ObjectInfo(BaseModel):
    """What is known of an object.

    Attributes:
        key: its name.
        size: bytes.
        etag: another one whenever the object is written anew.
        content_type: e.g. ``image/webp``.
        owner: who wrote it (`ObjectStore.put`), None where nobody said.
    """

    key: str
    size: int
    etag: str
    content_type: str = "application/octet-stream"
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectStream:
    """An object that is being read: what it is, and its bytes."""

    info: ObjectInfo
    chunks: AsyncIterator[bytes]


class ObjectStore(ABC):
    """A place for files. Keys are paths: ``reports/2030/01.pdf``.

    Attributes:
        link_lifetime: how long links are good for unless somebody asks for less, seconds; None: they do not end.
    """

    link_lifetime: float | None = None

    @abstractmethod
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
        """Write an object; readers see the old one until the new one is whole.

        Args:
            key: see `checked_key`.
            content: bytes, a file by path or open (from its beginning), or pieces of any size; what exceeds `PART` is
                never in memory as a whole.
            content_type: default by the key's suffix.
            owner: who writes it, kept with it.
            if_absent: only if there is no such object.
            if_match: only if the object there has this etag.

        Raises:
            ObjectConflict: the condition does not hold.
            StoreRefused, StoreUnavailable: see above.
            InvalidKey: for a key that is none.
        """

    @abstractmethod
    def get(self, key: str) -> AbstractAsyncContextManager[ObjectStream]:
        """Read an object in pieces.

        Raises:
            ObjectMissing, StoreRefused, StoreUnavailable: see above.
        """

    @abstractmethod
    async def head(self, key: str) -> ObjectInfo | None:
        """Give what is known of an object, None when there is none."""

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Remove an object; nothing happens when there is none."""

    @abstractmethod
    async def link(self, key: str, lifetime: float | None = None) -> str:
        """Give a URL under which the object can be read without keys.

        Args:
            lifetime: seconds it is good for, at most a week; default the settings'. A folder's links do not end.
        """

    @abstractmethod
    async def check(self) -> str:
        """Try it, and give where it is."""

    async def close(self) -> None:  # noqa: B027 # a folder has nothing to close
        """Close what is open."""

    # ------------------------------------------------------------------ with what is above

    async def fetch(self, key: str, file: BinaryIO, limit: int) -> ObjectInfo:
        """Read an object into a file.

        Raises:
            ObjectTooLarge: it has more bytes than ``limit``.
        """
        async with self.get(key) as found:
            too_large = ObjectTooLarge(f"{key} has more than {limit:,} bytes")
            if found.info.size > limit:
                raise too_large
            size = 0
            async for piece in pieces(found.chunks, WRITTEN):
                size += len(piece)
                if size > limit:
                    raise too_large
                await asyncio.to_thread(file.write, piece)
            return found.info

    async def put_once(self, ctx: Any, key: str, content: Content, *, content_type: str | None = None) -> ObjectInfo:
        """Write an object for a job, so that a later try of it never overwrites what somebody else has put there since.

        What stands there when the job first comes here may be overwritten. What an earlier try of this job has
        written is left as it is.

        Args:
            ctx: the job's context; the step ``put:…`` of `JobContext.once` is used.

        Raises:
            ObjectConflict: somebody else has written the object meanwhile.
        """

        async def before() -> str | None:
            found = await self.head(key)
            return None if found is None else found.etag

        step = f"put:{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        etag = await ctx.once(step, before, returns=str | None)
        condition: dict[str, Any] = {"if_absent": True} if etag is None else {"if_match": etag}
        try:
            return await self.put(key, content, content_type=content_type, owner=ctx.job_id, **condition)
        except ObjectConflict:
            found = await self.head(key)
            if found is None or found.owner != ctx.job_id:
                raise
            return found


class InvalidKey(ObjectError, PermanentError):
    """This is no key of an object."""


def checked_key(key: str) -> str:
    """Give a key back.

    Raises:
        InvalidKey: unless it is a relative path of at most 1,024 bytes, without empty parts, parts that begin with a
            point, backslashes and control characters.
    """
    if not key or not key.isprintable() or "\\" in key or len(key.encode()) > LONGEST_KEY:
        raise InvalidKey("an object's key has 1 to 1,024 bytes, no backslashes and no control characters")
    if any(not part or part.startswith(".") or len(part.encode()) > LONGEST_PART for part in key.split("/")):
        raise InvalidKey(
            "an object's key is a relative path; its parts are not empty, do not begin with a point and have at most "
            f"{LONGEST_PART} bytes"
        )
    return key


def own_name(job_id: str) -> str:
    """Give a part of a key that is a job's alone: its id without the family, of letters that every store takes.

    Two jobs of a family never have the same: what is changed or cut in an id is told by a digest of it.
    """
    name = spoken_id(job_id).partition(":")[2] or job_id
    plain = _ODD.sub("-", name)[:100].lstrip(".")
    if plain != name:
        plain += "-" + hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return plain


def guessed_type(key: str) -> str:
    """Give the content type a key's suffix stands for."""
    return mimetypes.guess_type(key)[0] or "application/octet-stream"


async def pieces(content: Content, size: int) -> AsyncIterator[bytes]:
    """Cut content into pieces of exactly ``size`` bytes, the last one shorter; at least one, which may be empty."""
    held = bytearray()
    given = False
    async for chunk in _chunks(content, size):
        held += chunk
        while len(held) > size:
            with memoryview(held) as view:
                piece = bytes(view[:size])
            yield piece
            given = True
            del held[:size]
    if held or not given:
        yield bytes(held)


async def _chunks(content: Content, size: int) -> AsyncIterator[bytes]:
    if isinstance(content, bytes):
        yield content
    elif isinstance(content, AsyncIterable):
        async for chunk in content:
            yield chunk
    elif isinstance(content, Path):
        with content.open("rb") as file:
            async for chunk in _chunks(file, size):
                yield chunk
    else:
        content.seek(0)
        while chunk := await asyncio.to_thread(content.read, min(size, CHUNK)):
            yield chunk
