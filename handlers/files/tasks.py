"""The files family's function: an upload scanned, checked, kept, and worked on."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass
from typing import Any, BinaryIO

from daemon.context import JobContext
from daemon.errors import PermanentError
from handlers.files.payloads import FileOperation, MadeFile, ProcessedFile, ProcessFile
from handlers.files.settings import FilesSettings
from handlers.files.types import SUFFIXES, type_named
from handlers.integrations.clamd import Clamd
from handlers.integrations.object_store.store import WRITTEN, ObjectConflict, ObjectStore
from handlers.integrations.processes import Processes, scratch
from handlers.integrations.sources import Sources

logger = logging.getLogger("arqd.files")

#: The operations that make a file, in the order they are done.
MAKING: tuple[FileOperation, ...] = ("optimize", "thumbnail", "convert", "compress", "extract_text")
#: Of these the file itself is kept as another type: a browser that follows its link must not run what is in a page.
KEPT_AS = {"text/html": "text/plain"}


class VirusFound(PermanentError):
    """The virus scanner knows the file; it lies in quarantine."""


class WrongFile(PermanentError):
    """The file is not what its job says of it."""


@dataclass(frozen=True, slots=True)
class FileService:
    """What the family opens at start and finds in its context as ``files``.

    Attributes:
        scanner: None where the operator has switched it off.
    """

    settings: FilesSettings
    sources: Sources
    store: ObjectStore
    processes: Processes
    scanner: Clamd | None


async def process_file(ctx: JobContext, job: ProcessFile) -> ProcessedFile:
    """Take an upload in.

    1. Get it (10); it must have the size that was declared.
    2. Scan it (30). What is infected goes into quarantine, away from where it came from.
    3. Check it (50): its type by its content, whether it is whole, what an archive has in it.
    4. Keep it, under a name of our own (60), and do what is asked, one operation after the other (100).

    It may run twice: the same files are made under the same names, and nobody else's are overwritten.

    Raises:
        VirusFound, WrongFile, InputRefused, OutOfMemory, ScannerRefused, PathForbidden …: permanent.
        ScannerUnavailable: it is not scanned now, and goes no further; tried again.
        HttpError, StoreUnavailable, ProcessFailed, OSError: tried again.
    """
    service: FileService = ctx["files"]
    limit = int(service.settings.max_size)
    if job.file_size is not None and job.file_size > limit:
        raise WrongFile(f"the file has {job.file_size:,} bytes; {limit:,} are the limit (ARQD_FILES__MAX_SIZE)")
    source = service.sources.opened(limit, ctx.remaining, url=job.file_url, path=job.path, key=job.key)
    async with source as file, scratch(service.settings.temp_dir) as target:
        await ctx.progress(10)
        size, sha256 = await asyncio.to_thread(_measured, file)
        if job.file_size is not None and job.file_size != size:
            raise WrongFile(f"the file was declared with {job.file_size:,} bytes, and has {size:,}")
        await _scanned(ctx, service, job, file, sha256)
        await ctx.progress(30)
        checked = await service.processes.run("handlers.files.work:check", _asked(service, job), [file])
        kind: str = checked["content_type"]
        await ctx.progress(50)
        base = f"files/{job.file_id.replace(':', '-')}/{sha256[:32]}"
        kept = KEPT_AS.get(kind, kind)
        stored = await _put(ctx, service, "store", f"{base}.{SUFFIXES[kept]}", file, kept)
        made, text = await _made(ctx, service, job, [file, target], kind, base)
    return ProcessedFile(
        file_id=job.file_id,
        content_type=kind,
        size=size,
        sha256=sha256,
        scanned=service.scanner is not None,
        files=(stored, *made),
        **text,
    )


async def _scanned(ctx: JobContext, service: FileService, job: ProcessFile, file: BinaryIO, sha256: str) -> None:
    if service.scanner is None:
        await ctx.log(f"not scanned for viruses: ARQD_FILES__VIRUS_SCAN is false (sha256 {sha256})")
        return
    found = await service.scanner.scan(file)
    if found is None:
        return
    key = f"{service.settings.quarantine}/{job.file_id.replace(':', '-')}/{sha256}"
    await service.store.put(key, file, content_type="application/octet-stream", owner=ctx.job_id)
    # What was in quarantine stays there.
    await service.sources.remove(path=job.path, key=job.key, made=[key])
    logger.warning("a file is infected (%s), and lies in quarantine: %s", found, key)
    raise VirusFound(f"the virus scanner finds {found}; the file lies in quarantine: {key}")


async def _made(
    ctx: JobContext, service: FileService, job: ProcessFile, files: list[BinaryIO], kind: str, base: str
) -> tuple[list[MadeFile], dict[str, Any]]:
    """Do the operations that make files; give these, and what there is to say of the text."""
    wanted = [operation for operation in MAKING if operation in job.operations]
    fields = {"quality", "convert_to", "compress_to", "thumbnail_width", "thumbnail_height", "file_name"}
    common = job.model_dump(mode="json", include=fields) | {
        "content_type": kind,
        "max_pixels": service.settings.max_pixels,
        "max_text": int(service.settings.max_text),
    }
    made, text = list[MadeFile](), dict[str, Any]()
    for number, operation in enumerate(wanted):
        await ctx.progress(60 + 40 * number / len(wanted), operation)
        result = await service.processes.run("handlers.files.work:make", common | {"operation": operation}, files)
        text |= {name: result[name] for name in ("text", "preview") if name in result}
        key = f"{base}-{operation.replace('_', '-')}.{result['suffix']}"
        made.append(await _put(ctx, service, operation, key, files[1], result["content_type"]))
    await ctx.progress(100)
    return made, text


async def _put(
    ctx: JobContext, service: FileService, operation: Any, key: str, file: BinaryIO, content_type: str
) -> MadeFile:
    try:
        written = await service.store.put_once(ctx, key, file, content_type=content_type)
    except ObjectConflict:
        # The file itself is named by its content: another job has put the same one there meanwhile.
        found = await service.store.head(key) if operation == "store" else None
        if found is None:
            raise
        written = found
    url = await service.store.link(key)
    return MadeFile(operation=operation, key=key, url=url, content_type=content_type, size=written.size)


def _asked(service: FileService, job: ProcessFile) -> dict[str, Any]:
    """Give what `handlers.files.work.check` takes."""
    settings = service.settings
    allowed = set(settings.types)
    if "extract_text" in job.operations:
        allowed |= set(settings.text_types)
    declared = job.file_type
    if declared is not None:
        try:
            declared = type_named(declared)
        except ValueError:
            raise WrongFile(f"the file is declared as {declared}, which is not accepted (ARQD_FILES__TYPES)") from None
    limits = {name: int(getattr(settings, name)) for name in ("max_pixels", "max_members", "max_ratio", "max_depth")}
    limits["max_unpacked"] = int(settings.max_unpacked)
    temp_dir = None if settings.temp_dir is None else str(settings.temp_dir)
    return {"declared": declared, "allowed": sorted(allowed), "temp_dir": temp_dir, **limits}


def _measured(file: BinaryIO) -> tuple[int, str]:
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(WRITTEN):
        digest.update(chunk)
    return file.tell(), digest.hexdigest()
