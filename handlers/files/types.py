"""The types of files we know, and which of them a file is by its content. Runs in a process of its own, too."""

from __future__ import annotations

import lzma
import re
import zipfile
import zlib
from collections.abc import Callable
from typing import BinaryIO

_OFFICE = "application/vnd.openxmlformats-officedocument."
#: Content type to the suffix its files have here.
SUFFIXES = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/avif": "avif",
    "application/pdf": "pdf",
    f"{_OFFICE}wordprocessingml.document": "docx",
    f"{_OFFICE}spreadsheetml.sheet": "xlsx",
    "application/zip": "zip",
    "application/gzip": "gz",
    "application/zstd": "zst",
    "text/html": "html",
    "text/plain": "txt",
}
DOCX, XLSX = f"{_OFFICE}wordprocessingml.document", f"{_OFFICE}spreadsheetml.sheet"
UNKNOWN = "application/octet-stream"
_NAMES = {suffix: kind for kind, suffix in SUFFIXES.items()} | {"image/jpg": "image/jpeg", "jpeg": "image/jpeg"}
_NAMES |= {"application/x-zip-compressed": "application/zip", "application/x-gzip": "application/gzip"}
#: What a zip that is broken raises, or encrypted, or packed in a way that is not known here.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError),
    *(NotImplementedError, RuntimeError),
)
#: What is read to tell a text from anything else, bytes.
LOOKED_AT = 65_536
_HTML = re.compile(rb"\s*(?:(?><!--.*?-->)\s*)*+<(?:!doctype\s+html|html|head|body|title|script|iframe)\b", re.I | re.S)


def type_named(name: str) -> str:
    """Give a content type for itself or for the suffix of its files.

    Raises:
        ValueError: it is none that we know.
    """
    kind = _NAMES.get(name.lower().lstrip("."), name.lower())
    if kind not in SUFFIXES:
        raise ValueError(f"{name!r} is no type of file we know: {', '.join(sorted(SUFFIXES.values()))}")
    return kind


def type_of(file: BinaryIO) -> str:
    """Give what a file is by its content; `UNKNOWN` for anything that is not in `SUFFIXES`."""
    file.seek(0)
    head = file.read(LOOKED_AT)
    for kind, fits in _SIGNATURES:
        if fits(head):
            return _inside(file) if kind == "application/zip" else kind
    return _text(head)


def _inside(file: BinaryIO) -> str:
    """Tell a document from any other zip: by the main part that its list of types names."""
    try:
        with zipfile.ZipFile(file) as archive:
            named = archive.getinfo("[Content_Types].xml")
            with archive.open(named) as member:
                types = member.read(1_000_000).decode("utf-8", "replace")
    except (*UNREADABLE, KeyError):
        return "application/zip"
    for kind in (DOCX, XLSX):
        if f'"{kind}.main+xml"' in types:
            return kind
    return "application/zip"


def _text(head: bytes) -> str:
    wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    if b"\0" in head and not wide:
        return UNKNOWN
    if _HTML.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "text/html"
    odd = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head)
    return "text/plain" if odd == 0 or wide else UNKNOWN


def _begins(*marks: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(marks)


_SIGNATURES: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("image/jpeg", _begins(b"\xff\xd8\xff")),
    ("image/png", _begins(b"\x89PNG\r\n\x1a\n")),
    ("image/gif", _begins(b"GIF87a", b"GIF89a")),
    ("image/webp", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP"),
    ("image/avif", lambda head: head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis")),
    ("application/pdf", _begins(b"%PDF-")),
    ("application/zip", _begins(b"PK\x03\x04", b"PK\x05\x06")),
    ("application/gzip", _begins(b"\x1f\x8b\x08")),
    ("application/zstd", _begins(b"\x28\xb5\x2f\xfd")),
)
