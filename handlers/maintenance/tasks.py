"""The maintenance family's functions."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.console.audit import Audit
from daemon.console.roles import Actor, Role
from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import PermanentError
from daemon.family import Family
from daemon.registry import installed_families, load_families
from handlers.integrations.database import Database
from handlers.maintenance.cache import Cache
from handlers.maintenance.files import OutsideError, Removed, Sweep
from handlers.maintenance.payloads import FILES, CleanedJobs, CleanedUp, CleanJobs, Cleanup, WarmCache, Warmed
from handlers.maintenance.rows import remove_rows
from handlers.maintenance.settings import MaintenanceSettings

logger = logging.getLogger("arqd.maintenance")


class NotAllowed(PermanentError):
    """The path is not below a folder in which files may be removed."""


class FoldersFailed(Exception):
    """Some folders cannot be looked through; the others are cleaned."""


class SourcesFailed(Exception):
    """Some data sources failed; the caches of the others are warm."""


@dataclass(frozen=True, slots=True)
class MaintenanceService:
    """What the family opens at start and finds in its context as ``maintenance``; ``daemon`` are all settings."""

    settings: MaintenanceSettings
    daemon: Any
    database: Database | None
    cache: Cache


async def cleanup(ctx: JobContext, job: Cleanup) -> CleanedUp:
    """Remove old files or rows. It may run twice: the second time finds what is left.

    Raises:
        NotAllowed, NoSuchTable: permanent. FoldersFailed: of several.
    """
    service: MaintenanceService = ctx["maintenance"]
    detail = {"older_than": job.age, "path": job.path, "pattern": job.pattern}
    if job.dry_run:
        return await _clean(service, job)
    # The audit log of the console: what was removed is a change like those of people.
    audit = Audit(ctx.redis, service.daemon.console.audit_entries)
    actor = Actor("maintenance", Role.ADMIN, "job", socket.gethostname())
    detail["job"] = ctx.job_id
    async with audit.record(actor, "maintenance.cleanup", job.target_type, **detail) as doing:
        done = await _clean(service, job)
        doing.detail |= {"deleted": done.deleted_count, "freed": done.freed_bytes, "skipped": done.skipped}
    logger.info("cleanup of %s: %d removed, %d bytes freed", job.target_type, done.deleted_count, done.freed_bytes)
    return done


async def warm_cache(ctx: JobContext, job: WarmCache) -> Warmed:
    """Fill a cache, or all that are set; of several that fail the others are filled all the same.

    Raises:
        UnknownSource: permanent. SourcesFailed: of several.
    """
    service: MaintenanceService = ctx["maintenance"]
    written: dict[str, int] = {}
    busy, failed = [], []
    for each in [job] if job.cache_key else service.settings.warm:
        key, source, ttl = each.cache_key or "", each.data_source or "", each.ttl or 0.0
        try:
            size = await service.cache.warm(ctx, key, source, ttl)
        except Exception as error:
            if job.cache_key:
                raise
            logger.exception("the cache %s was not warmed", key)
            failed.append(f"{key}: {type(error).__name__}")
            continue
        if size is None:
            busy.append(key)
        else:
            written[key] = size
    if failed:
        raise SourcesFailed(f"{', '.join(failed)}; warmed: {len(written)}")
    return Warmed(written=written, busy=busy)


async def clean_jobs(ctx: JobContext, job: CleanJobs) -> CleanedJobs:
    """Remove ended jobs whose time is over; one whose own `keep` lasts longer stays. It may run twice."""
    service: MaintenanceService = ctx["maintenance"]
    known = await asyncio.to_thread(_families, service.daemon)
    control = Control(ctx.redis, known)
    if job.queue is not None:
        control.inspector.of(job.queue)
    removed = {}
    for name in sorted(known) if job.queue is None else [job.queue]:
        family = known[name]
        age = job.older_than
        if age is None:
            if family.keep_result_forever and job.state == "completed":
                continue
            age = family.values.keep_failed if job.state == "failed" else family.values.keep_result
        removed[name] = await control.clean(name, job.state, older_than=age, spare_kept=True)
    return CleanedJobs(removed={name: count for name, count in removed.items() if count})


def _families(settings: Any) -> dict[str, Family]:
    """Load all families: how long each keeps its jobs stands in its class."""
    names = installed_families(settings.families)
    return {each.name: each for each in load_families(settings.families, names, settings.overrides())}


async def _clean(service: MaintenanceService, job: Cleanup) -> CleanedUp:
    if job.target_type not in FILES:
        place = service.settings.tables.get(job.target_type)
        if place is None or service.database is None:
            variable = f"ARQD_MAINTENANCE__TABLES__{job.target_type.upper()}"
            return CleanedUp(dry_run=job.dry_run, skipped=f"{variable} names no table")
        count = await remove_rows(service.database, place, job.age, dry_run=job.dry_run)
        return CleanedUp(deleted_count=count, dry_run=job.dry_run)
    roots = service.settings.roots(job.target_type)
    if not roots:
        variable = "TEMP_ROOTS" if job.target_type == "temp_files" else "LOG_ROOTS"
        if job.path is not None:
            raise NotAllowed(f"no folder is allowed: ARQD_MAINTENANCE__{variable}")
        return CleanedUp(dry_run=job.dry_run, skipped=f"ARQD_MAINTENANCE__{variable} names no folder")
    count = size = 0
    failed = []
    for root in _chosen(roots, job.path):
        sweep = Sweep(root, time.time() - job.age, job.pattern, dry_run=job.dry_run)
        try:
            removed = await _sweep(sweep, root, job.path)
        except OSError as error:
            failed.append(f"{root}: {error.strerror}")
            continue
        count, size = count + removed.count, size + removed.size
    if failed:
        raise FoldersFailed(f"{', '.join(failed)}; removed in the others: {count}")
    return CleanedUp(deleted_count=count, freed_bytes=size, dry_run=job.dry_run)


def _chosen(roots: tuple[Path, ...], path: str | None) -> list[Path]:
    """Give the folders a path may be in: the one it names as it is written, or all for a relative one."""
    if path is None or not Path(path).is_absolute():
        return list(roots)
    found = [root for root in roots if Path(path).is_relative_to(root) or Path(path).is_relative_to(root.resolve())]
    if not found:
        raise NotAllowed(f"{path} is not below {', '.join(map(str, roots))}")
    return found[:1]


async def _sweep(sweep: Sweep, root: Path, path: str | None) -> Removed:
    below = path
    if path is not None and Path(path).is_absolute() and Path(path).is_relative_to(root):
        below = str(Path(path).relative_to(root))
    try:
        return await asyncio.to_thread(sweep.run, below)
    except OutsideError as error:
        raise NotAllowed(str(error)) from None
    finally:
        # The thread goes on when its job is cancelled.
        sweep.stop()
