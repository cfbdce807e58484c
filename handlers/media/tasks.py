"""The media family's functions. The work itself is done in other processes: `integrations.pictures` and `videos`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from daemon.context import JobContext
from handlers.integrations.processes import Processes, scratch
from handlers.integrations.sources import Sources
from handlers.media.payloads import (
    ProcessedImage,
    ProcessedVideo,
    ProcessImage,
    ProcessVideo,
    VideoFacts,
    VideoStill,
)
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
    overwrites an object that somebody else has put there since. A file at a path is replaced, whoever's it is.

    Raises:
        InputRefused: it is no picture, a broken or an oversized one, or a step cannot be made with it; permanent.
        OutOfMemory, PathForbidden, HttpForbidden, ObjectConflict …: permanent, too.
        HttpError, StoreUnavailable, ProcessFailed, OSError: tried again.
    """
    service: MediaService = ctx["media"]
    made: ProcessedImage = await ctx.once("image", lambda: _image(ctx, service, job), returns=ProcessedImage)
    if job.delete_source:
        await service.sources.remove(path=job.path, key=job.key, made=[made.target])
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


async def process_video(ctx: JobContext, job: ProcessVideo) -> ProcessedVideo:
    """Look at a video, take pictures from it, and write it anew.

    1. Get the source, and tell what it is (10).
    2. Take the poster and the thumbnails (30).
    3. Write it anew (90, by the time that is written), and put it to its target.
    4. Remove the source where that is asked for (100).

    It may run twice, as `process_image` may.

    Raises:
        InputRefused: it is no video, a broken one, or the result is too large; permanent.
        ProcessCrashed, OutOfMemory, PathForbidden, HttpForbidden, ObjectConflict …: permanent, too.
        HttpError, StoreUnavailable, ProcessFailed, OSError: tried again.
    """
    service: MediaService = ctx["media"]
    made: ProcessedVideo = await ctx.once("video", lambda: _video(ctx, service, job), returns=ProcessedVideo)
    if job.delete_source:
        stills = [made.poster, *made.thumbnails]
        targets = [made.target, *(still.target for still in stills if still is not None)]
        await service.sources.remove(path=job.path, key=job.key, made=[each for each in targets if each is not None])
    await ctx.progress(100)
    return made


async def _video(ctx: JobContext, service: MediaService, job: ProcessVideo) -> ProcessedVideo:
    settings = service.settings
    key = job.target or own_key(ctx.job_id, job.output_format or "mp4")
    source = service.sources.opened(int(settings.max_video), ctx.remaining, url=job.url, path=job.path, key=job.key)
    async with source as file, scratch(settings.temp_dir) as target:

        async def run(name: str, arguments: Mapping[str, Any], tell: Tell | None = None) -> dict[str, Any]:
            files = [file] if name == "probe" else [file, target]
            memory = int(settings.video_memory)
            return await service.processes.run(
                f"handlers.media.videos:{name}", arguments, files, tell=tell, memory=memory
            )

        facts = VideoFacts.model_validate(await run("probe", {}))
        await ctx.progress(10, "looked at")
        stills = []
        for number, (at, width) in enumerate(_stills(job, facts.duration or 0.0)):
            taken = await run("still", {"at": at, "width": width})
            where = f"{key.rpartition('.')[0] or key}-{number}.jpg"
            url = await service.results.put(ctx, where, target, "image/jpeg")
            stills.append(VideoStill(target=where, url=url, **taken))
        await ctx.progress(30, "pictures taken")
        pictures = {"poster": stills.pop(0) if job.poster else None, "thumbnails": tuple(stills)}
        if job.output_format is None:
            return ProcessedVideo(source=facts, **pictures)

        async def tell(at: Mapping[str, Any]) -> None:
            await ctx.progress(30 + 60 * at["share"])

        limits = {"max_size": int(settings.max_video_result), "max_seconds": ctx.remaining}
        made = await run("transcode", job.model_dump(mode="json", include=_WANTED) | limits, tell)
        url = await service.results.put(ctx, key, target, made.pop("content_type"))
        await ctx.progress(90)
    return ProcessedVideo(source=facts, url=url, target=key, result=VideoFacts.model_validate(made), **pictures)


def _stills(job: ProcessVideo, duration: float) -> list[tuple[float, int | None]]:
    """Give the times of the pictures, the poster's first, and how wide each may be."""
    wanted: list[tuple[float, int | None]] = []
    if job.poster:
        wanted.append((duration / 10 if job.poster_at is None else job.poster_at, None))
    step = duration / max(1, job.thumbnails)
    return wanted + [((number + 0.5) * step, job.thumbnail_width) for number in range(job.thumbnails)]


Tell = Callable[[Mapping[str, Any]], Any]
_WANTED = {"output_format", "max_width", "max_height", "video_bitrate", "audio_bitrate", "max_frame_rate"}
_ASKED = {"transformations", "output_format", "quality", "max_width", "max_height"}
