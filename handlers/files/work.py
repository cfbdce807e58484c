"""What is done with an upload, each call in a process of its own (`handlers.integrations.processes`)."""

from __future__ import annotations

import gzip
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import zstandard

from daemon.errors import PermanentError
from handlers.files import archives, text
from handlers.files.archives import Scales
from handlers.files.types import DOCX, SUFFIXES, XLSX, type_of
from handlers.integrations.pictures import images
from handlers.integrations.process_child import Tell

PICTURES = {"image/jpeg": "jpeg", "image/png": "png", "image/webp": "webp", "image/avif": "avif", "image/gif": "webp"}
CHUNK = 1024 * 1024
PREVIEW = 500

Made = dict[str, Any]


def check(job: Mapping[str, Any], files: Sequence[BinaryIO], tell: Tell) -> Made:
    """Tell what a file is, and see that it is whole and harmless.

    Args:
        job: ``declared`` (a content type or None), ``allowed`` (content types), ``temp_dir`` (or None), limits.
        files: the file.

    Returns:
        ``content_type``.

    Raises:
        PermanentError: it is of no type that is allowed, not what was declared, broken, encrypted or a bomb.
    """
    (file,) = files
    kind = type_of(file)
    allowed = ", ".join(sorted(SUFFIXES[each] for each in job["allowed"]))
    if kind not in job["allowed"]:
        raise PermanentError(f"the file is {kind} by its content; accepted are {allowed} (ARQD_FILES__TYPES)")
    if job["declared"] is not None and job["declared"] != kind:
        raise PermanentError(f"the file was declared as {job['declared']}, and is {kind} by its content")
    if kind in PICTURES:
        images.verify(file, job["max_pixels"])
    elif kind == "application/pdf":
        from handlers.files.pdf import opened

        with opened(file):
            pass
    elif kind in (*archives.ARCHIVES, DOCX, XLSX):
        limits = (job["max_members"], job["max_unpacked"], job["max_ratio"], job["max_depth"])
        archives.weigh(file, kind, Scales(*limits, job["temp_dir"]))
    return {"content_type": kind}


def make(job: Mapping[str, Any], files: Sequence[BinaryIO], tell: Tell) -> Made:
    """Do one operation.

    Args:
        job: ``operation``, ``content_type``, and what the operation takes.
        files: the file, and where the result goes.

    Returns:
        ``content_type`` and ``suffix`` of the result; of text ``text`` (characters) and ``preview``.

    Raises:
        PermanentError: it cannot be done with this file.
    """
    source, target = files
    target.seek(0)
    target.truncate()
    return _OPERATIONS[job["operation"]](job, source, target)


def _text(job: Mapping[str, Any], source: BinaryIO, target: BinaryIO) -> Made:
    found = text.extract(source, job["content_type"], job["max_text"])
    target.write(found.encode("utf-8", "replace"))
    return {"content_type": "text/plain", "suffix": "txt", "text": len(found), "preview": found[:PREVIEW]}


def _picture(job: Mapping[str, Any], source: BinaryIO, target: BinaryIO, format: str, *steps: Any) -> Made:
    asked = {"transformations": steps, "output_format": format, "quality": job["quality"], "max_width": None}
    made = images.process({**asked, "max_height": None, "max_pixels": job["max_pixels"]}, [source, target], _silent)
    return {"content_type": made["content_type"], "suffix": SUFFIXES[made["content_type"]]}


def _optimized(job: Mapping[str, Any], source: BinaryIO, target: BinaryIO) -> Made:
    format = PICTURES.get(job["content_type"])
    if format is None:
        raise PermanentError(f"pictures are optimized; this is {job['content_type']}")
    return _picture(job, source, target, format)


def _converted(job: Mapping[str, Any], source: BinaryIO, target: BinaryIO) -> Made:
    if job["content_type"] not in PICTURES:
        raise PermanentError(f"pictures are converted; this is {job['content_type']}")
    return _picture(job, source, target, job["convert_to"])


def _thumbnail(job: Mapping[str, Any], source: BinaryIO, target: BinaryIO) -> Made:
    width, height = job["thumbnail_width"], job["thumbnail_height"]
    if job["content_type"] == "application/pdf":
        from handlers.files.pdf import first_page

        first_page(source, width, height).save(target, "PNG")
        return {"content_type": "image/png", "suffix": "png"}
    if job["content_type"] not in PICTURES:
        raise PermanentError(f"thumbnails are made of pictures and PDFs; this is {job['content_type']}")
    return _picture(job, source, target, "webp", {"type": "thumbnail", "width": width, "height": height})


def _compressed(job: Mapping[str, Any], source: BinaryIO, target: BinaryIO) -> Made:
    kind, name = job["compress_to"], job["file_name"]
    source.seek(0)
    if kind == "zip":
        # No time of its own: the same file gives the same archive.
        about = zipfile.ZipInfo(name)
        about.compress_type = zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(target, "w") as archive, archive.open(about, "w", force_zip64=True) as member:
            shutil.copyfileobj(source, member, CHUNK)
    elif kind == "gzip":
        with gzip.GzipFile(filename="", fileobj=target, mode="wb", mtime=0) as stream:
            shutil.copyfileobj(source, stream, CHUNK)
    else:
        zstandard.ZstdCompressor(level=9).copy_stream(source, target)
    content_type = f"application/{kind}"
    return {"content_type": content_type, "suffix": SUFFIXES[content_type]}


def _silent(told: Mapping[str, Any]) -> None:
    """An operation's own progress is not told."""


_OPERATIONS: dict[str, Callable[[Mapping[str, Any], BinaryIO, BinaryIO], Made]] = {
    "extract_text": _text,
    "optimize": _optimized,
    "convert": _converted,
    "thumbnail": _thumbnail,
    "compress": _compressed,
}
