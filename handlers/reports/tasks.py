"""``generate_report``: figures of a period beside those of the one before, as files.

1. Ask the metrics, at 0 %.
2. Put their figures together, at 30 %.
3. Write the files from them, the PDF in the process pool, at 60 %.
4. Store them, give links, hand over the mails, at 90 %.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from daemon.context import JobContext
from daemon.errors import PermanentError
from handlers.integrations.object_store.store import ObjectStore, own_name
from handlers.integrations.ready_mail import mail_link
from handlers.reports.figures import Report, gather
from handlers.reports.files import CONTENT_TYPES, WRITERS, Look
from handlers.reports.metrics import wanted
from handlers.reports.payloads import Format, GeneratedReport, GenerateReport
from handlers.reports.periods import period_of
from handlers.reports.settings import ReportsSettings
from handlers.reports.texts import days, title

if TYPE_CHECKING:
    from handlers.integrations.database import Database


class FormatMissing(PermanentError):
    """The worker lacks the library that makes PDFs."""


class NotBegun(PermanentError):
    """The period lies in the future."""


@dataclass(frozen=True, slots=True)
class ReportService:
    """What the family opens at start and finds in its context as ``reports``.

    Attributes:
        families: whose statistics are told.
        database: None where there is none.
    """

    settings: ReportsSettings
    store: ObjectStore
    families: Sequence[str]
    database: Database | None = None


async def generate_report(ctx: JobContext, job: GenerateReport) -> GeneratedReport:
    """Make a report; see the head of this module.

    A job that runs twice makes the files again under the same names, and sends no mail twice.

    Raises:
        UnknownMetric, WrongFigures, NotBegun, FormatMissing: permanent.
        Whatever a metric's function raises: tried again by the family's policy.
    """
    service: ReportService = ctx["reports"]
    metrics = wanted(job.metrics)
    period = period_of(job.kind, job.period, ctx.enqueue_time)
    if period.since >= datetime.now(UTC):
        raise NotBegun(f"the period {period} has not begun")
    await ctx.progress(0)
    report = await gather(ctx, job.kind, period, datetime.now(UTC).replace(microsecond=0), metrics)
    await ctx.progress(30)
    lang = job.lang or service.settings.lang
    look = Look(lang, service.settings.font, service.settings.font_dirs)
    await ctx.progress(60)
    files = {kind: await _written(ctx, kind, report, look) for kind in job.formats}
    await ctx.progress(90)
    urls = {kind: await _stored(ctx, service, report, kind, content) for kind, content in files.items()}
    lifetime = service.store.link_lifetime
    to = job.mail_to if job.mail_to is not None else service.settings.mail_to if job.kind != "custom" else ()
    mailed = await mail_link(
        ctx,
        to,
        lang,
        name=title(report, lang),
        url=next(iter(urls.values())),
        lifetime=lifetime,
        period=days(period, lang),
    )
    await ctx.progress(100)
    return GeneratedReport(
        report_urls=urls,
        period=str(period),
        empty=report.is_empty,
        expires_at=None if lifetime is None else datetime.now(UTC) + timedelta(seconds=lifetime),
        mailed=mailed,
    )


async def _written(ctx: JobContext, kind: Format, report: Report, look: Look) -> bytes:
    if kind != "pdf":
        return await asyncio.to_thread(WRITERS[kind], report, look)
    try:
        return await ctx.run_in_process(WRITERS[kind], report, look)
    except ModuleNotFoundError as error:
        raise FormatMissing(f"{kind} needs {error.name} at the worker: install arqd[reports]") from None


async def _stored(ctx: JobContext, service: ReportService, report: Report, kind: Format, content: bytes) -> str:
    key = f"reports/{report.kind}/{report.period.first}/{own_name(ctx.job_id)}.{kind}"
    await service.store.put(key, content, content_type=CONTENT_TYPES[kind], owner=ctx.job_id)
    return await service.store.link(key)
