"""Archives are weighed before anything of them is used: how many files, how large unpacked, how deep, which names.

What an archive says of itself is looked at first. Then its files are unpacked piece by piece into nothing, since it may
lie; only an archive inside it is kept, in a file without a name, until it has been weighed as well.
"""

from __future__ import annotations

import errno
import gzip
import re
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

import zstandard

from daemon.errors import PermanentError
from handlers.files.types import UNREADABLE, type_of

CHUNK = 256 * 1024
#: Unpacked sizes up to here are never a bomb, whatever the ratio, bytes.
HARMLESS = 10_000_000
ARCHIVES = ("application/zip", "application/gzip", "application/zstd")
_DRIVE = re.compile(r"[A-Za-z]:")
_ENCRYPTED = 0x1
#: What the disk says, and no archive can bring about.
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EACCES, errno.EROFS, errno.EMFILE, errno.EIO))
_BROKEN = (*UNREADABLE, zstandard.ZstdError)


class BadArchive(PermanentError):
    """The archive is broken, too large unpacked, or has names that lead elsewhere."""


@dataclass(slots=True)
class Scales:
    """What an archive may have, and what has been seen of it.

    Attributes:
        members, unpacked, ratio, depth: limits: files, bytes, times its own size, archives inside each other.
        folder: whose disk archives inside it are kept on meanwhile; None: the system's for temporary files.
    """

    members: int
    unpacked: int
    ratio: int
    depth: int
    folder: str | None = None
    seen_members: int = 0
    seen_bytes: int = 0
    own_size: int = 0

    def add(self, members: int = 0, size: int = 0) -> None:
        """Put something on them.

        Raises:
            BadArchive: that was too much.
        """
        self.seen_members += members
        self.seen_bytes += size
        if self.seen_members > self.members:
            raise BadArchive(f"the archive has more than {self.members:,} files (ARQD_FILES__MAX_MEMBERS)")
        self.check(self.seen_bytes)

    def check(self, size: int) -> None:
        """See whether so many bytes are too many."""
        if size > self.unpacked:
            raise BadArchive(f"the archive has more than {self.unpacked:,} bytes unpacked (ARQD_FILES__MAX_UNPACKED)")
        if size > max(HARMLESS, self.own_size * self.ratio):
            raise BadArchive(f"the archive has more than {self.ratio} times its size unpacked (ARQD_FILES__MAX_RATIO)")


def weigh(file: BinaryIO, kind: str, scales: Scales, depth: int = 1) -> None:
    """Weigh an archive.

    Args:
        kind: its content type; a document that is a zip counts as one.
        depth: how many archives it is in, itself included.

    Raises:
        BadArchive: see above.
        OSError: there is no room to look into an archive inside it; that is no fault of the archive.
    """
    if depth > scales.depth:
        raise BadArchive(f"the archive has archives in it more than {scales.depth} deep (ARQD_FILES__MAX_DEPTH)")
    if depth == 1:
        scales.own_size = file.seek(0, 2)
    file.seek(0)
    try:
        if kind == "application/gzip":
            with gzip.GzipFile(fileobj=file) as stream:
                _member(cast(BinaryIO, stream), scales, depth)
        elif kind == "application/zstd":
            with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False) as stream:
                _member(cast(BinaryIO, stream), scales, depth)
        else:
            _zip(file, scales, depth)
    except BadArchive:
        raise
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise
        raise BadArchive(f"the archive cannot be read: {str(error)[:200] or type(error).__name__}") from error


def _zip(file: BinaryIO, scales: Scales, depth: int) -> None:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        scales.check(scales.seen_bytes + sum(member.file_size for member in members))
        scales.add(members=len(members))
        _apart(members)
        for member in members:
            _name(member)
            if member.is_dir():
                continue
            with archive.open(member) as stream:
                _member(cast(BinaryIO, stream), scales, depth, counted=True)


def _member(stream: BinaryIO, scales: Scales, depth: int, *, counted: bool = False) -> None:
    """Unpack a file into nothing; an archive is weighed, too."""
    if not counted:
        scales.add(members=1)
    first = stream.read(CHUNK)
    if first.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd")):
        with tempfile.TemporaryFile(dir=scales.folder) as inner:
            for chunk in _chunks(first, stream):
                scales.add(size=len(chunk))
                inner.write(chunk)
            kind = type_of(cast(BinaryIO, inner))
            weigh(cast(BinaryIO, inner), kind if kind in ARCHIVES else "application/zip", scales, depth + 1)
        return
    for chunk in _chunks(first, stream):
        scales.add(size=len(chunk))


def _chunks(first: bytes, stream: BinaryIO) -> Iterator[bytes]:
    chunk = first
    while chunk:
        yield chunk
        chunk = stream.read(CHUNK)


def _name(member: zipfile.ZipInfo) -> None:
    # orig_filename: zipfile cuts at a zero byte, others do not.
    name = member.orig_filename
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or _DRIVE.match(name) or ".." in parts or not name.isprintable():
        raise BadArchive("the archive has a file whose name leads out of it")
    if member.flag_bits & _ENCRYPTED:
        raise BadArchive("the archive is encrypted: what is in it cannot be checked")
    mode = member.external_attr >> 16
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
        raise BadArchive("the archive has a link or a device in it")


def _apart(members: list[zipfile.ZipInfo]) -> None:
    """See that files do not share bytes: else a small archive has a thousand large ones."""
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            raise BadArchive("the archive has files that overlap")
        end = member.header_offset + 30 + len(member.orig_filename) + member.compress_size
    if len({member.filename for member in members}) < len(members):
        raise BadArchive("the archive has two files of one name")
