"""The media family: its functions, limits and retry policy, and what it opens."""

from __future__ import annotations

from typing import Any

from daemon.family import FamilySettings, Fixed, func
from handlers.integrations.http import HttpClient
from handlers.integrations.object_store.opening import open_store
from handlers.integrations.packages import required
from handlers.integrations.processes import Processes
from handlers.integrations.sources import Sources
from handlers.media.results import Results
from handlers.media.tasks import MediaService, process_image, process_video

# Only its processes import them.
required("PIL", "av")


async def open_media(ctx: dict[Any, Any]) -> None:
    """Open the object store and the connections; processes start with the first jobs.

    Raises:
        ConfigurationError: the object store cannot be used.
    """
    settings = ctx["settings"]
    media = settings.media
    store = ctx["store"] = open_store(settings)
    http = ctx["http"] = HttpClient.of(settings)
    processes = ctx["processes"] = Processes(media.processes, memory=int(media.memory))
    sources = Sources(http, store, media.source_dirs, "ARQD_MEDIA__SOURCE_DIRS", media.temp_dir)
    ctx["media"] = MediaService(media, sources, Results(store, media.target_dirs), processes)


async def close_media(ctx: dict[Any, Any]) -> None:
    """Close what was opened."""
    for name in ("processes", "http", "store"):
        if name in ctx:
            await ctx[name].close()


class WorkerSettings(FamilySettings):
    """See docs/families/media.md."""

    family = "media"
    functions = (process_image, func(process_video, timeout=600))
    max_jobs = 3
    max_tries = 2
    backoff = Fixed(5)
    job_timeout = 60
    priority = 5
    on_startup = open_media
    on_shutdown = close_media
