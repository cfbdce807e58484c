"""The files family: its functions, limits and retry policy, and what it opens."""

from __future__ import annotations

import logging
import socket
from typing import Any

from daemon.family import Exponential, FamilySettings
from handlers.files.tasks import FileService, process_file
from handlers.integrations.clamd import Clamd
from handlers.integrations.http import HttpClient
from handlers.integrations.object_store.opening import open_store
from handlers.integrations.packages import required
from handlers.integrations.processes import Processes
from handlers.integrations.sources import Sources

logger = logging.getLogger("arqd.files")

# Only its processes import them.
required("PIL", "docx", "pypdfium2", "python_calamine", "zstandard")


async def open_files(ctx: dict[Any, Any]) -> None:
    """Open the object store and the connections; processes start with the first jobs.

    Raises:
        ConfigurationError: the object store cannot be used.
    """
    settings = ctx["settings"]
    files = settings.files
    store = ctx["store"] = open_store(settings)
    http = ctx["http"] = HttpClient.of(settings)
    processes = ctx["processes"] = Processes(files.processes, memory=int(files.memory))
    # What is scanned has to be what is kept, whoever writes into the upload meanwhile.
    sources = Sources(http, store, files.source_dirs, "ARQD_FILES__SOURCE_DIRS", files.temp_dir, private=True)
    scanner = Clamd(files.clamd, files.clamd_timeout) if files.virus_scan else None
    if scanner is None:
        await _audited(ctx)
    ctx["files"] = FileService(files, sources, store, processes, scanner)


async def _audited(ctx: dict[Any, Any]) -> None:
    """Leave a trace of the operator's choice where it cannot be taken back."""
    from daemon.console.audit import Audit
    from daemon.console.roles import Actor, Role

    logger.warning("files are not scanned for viruses: ARQD_FILES__VIRUS_SCAN is false")
    if "redis" in ctx:
        actor = Actor("files", Role.ADMIN, "worker", socket.gethostname())
        async with Audit(ctx["redis"], ctx["settings"].console.audit_entries).record(actor, "files.scan-off", "files"):
            pass


async def close_files(ctx: dict[Any, Any]) -> None:
    """Close what was opened."""
    for name in ("processes", "http", "store"):
        if name in ctx:
            await ctx[name].close()


class WorkerSettings(FamilySettings):
    """See docs/families/files.md."""

    family = "files"
    functions = (process_file,)
    max_jobs = 3
    max_tries = 3
    backoff = Exponential(base=2)
    job_timeout = 120
    priority = 3
    on_startup = open_files
    on_shutdown = close_files
