"""The media family's functions. The work itself is done in other processes: `integrations.pictures` and `videos`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from daemon.context import JobContext
from handlers.integrations.processes import Processes, scratch
from handlers.integrations.sources import Sources
from handlers.media.payloads import ProcessedImage, ProcessImage
from handlers.media.results import Results, own_key
from handlers.media.settings import MediaSettings

SUFFIX = {"jpeg": "jpg"}


@dataclass(frozen=True, slots=True)
class MediaService:
    """What the family opens at start and finds in its context as ``media``."""

    settings: MediaSettings
    sources: Sources
    results: Results
    processes: Processes


async def process_image(ctx: JobContext, job: ProcessImage) -> ProcessedImage:
    """Make a picture from another one.

    1. Get the source (10).
    2. Decode and transform it (50), write it in its format (70): in a process of its own.
    3. Put it to its target (90).
    4. Remove the source where that is asked for (100).

    It may run twice: the second try makes the same picture again unless the first one came to the end of 3, and never
    overwrites what somebody else has put there since.

    Raises:
        InputRefused: it is no picture, a broken or an oversized one, or a step cannot be made with it; permanent.
        OutOfMemory, PathForbidden, HttpForbidden, ObjectConflict …: permanent, too.
        HttpError, StoreUnavailable, ProcessFailed, OSError: tried again.
    """
    service: MediaService = ctx["media"]
    made: ProcessedImage = await ctx.once("image", lambda: _image(ctx, service, job), returns=ProcessedImage)
    if job.delete_source:
        await service.sources.remove(path=job.path, key=job.key)
    await ctx.progress(100)
    return made


async def _image(ctx: JobContext, service: MediaService, job: ProcessImage) -> ProcessedImage:
    settings, limit = service.settings, int(service.settings.max_image)
    arguments = job.model_dump(mode="json", include=_ASKED) | {"max_pixels": settings.max_pixels}
    pictures = [step for step in job.transformations if step.type == "watermark" and step.text is None]

    async def tell(at: Mapping[str, Any]) -> None:
        await ctx.progress(at["percent"])

    async with AsyncExitStack() as opened:
        source = await opened.enter_async_context(
            service.sources.opened(limit, ctx.remaining, url=job.url, path=job.path, key=job.key)
        )
        marks = [
            await opened.enter_async_context(service.sources.opened(limit, ctx.remaining, path=step.path, key=step.key))
            for step in pictures
        ]
        target = await opened.enter_async_context(scratch(settings.temp_dir))
        await ctx.progress(10)
        made = await service.processes.run(
            "handlers.integrations.pictures.images:process", arguments, [source, target, *marks], tell=tell
        )
        where = job.target or own_key(ctx.job_id, SUFFIX.get(made["format"], made["format"]))
        url = await service.results.put(ctx, where, target, made["content_type"])
        await ctx.progress(90)
    return ProcessedImage(url=url, target=where, **made)


_ASKED = {"transformations", "output_format", "quality", "max_width", "max_height"}
