"""What the reports family takes and gives. A producer needs only this module (pydantic, nothing else)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from daemon.payload import Payload, PayloadModel
from handlers.integrations.recipients import Language, Recipients
from handlers.reports.periods import Kind, period_of

__all__ = ["Format", "GenerateReport", "GeneratedReport"]

Format = Literal["pdf", "csv", "json"]


def _each_once(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


class GeneratedReport(PayloadModel):
    """A report that was made.

    Attributes:
        report_urls: a link for each format, good until ``expires_at`` (None: they do not end).
        period: its days, ``2026-03-02/2026-03-08``.
        empty: there was nothing to report on; the report says so.
        mailed: whether mails with the link were handed to the email family.
    """

    report_urls: dict[Format, str]
    period: str
    empty: bool
    expires_at: datetime | None = None
    mailed: bool = False


class GenerateReport(Payload, family="reports", function="generate_report", priority=7, returns=GeneratedReport):
    """Make a report.

    Attributes:
        kind: ``daily``, ``weekly`` (from Monday to Sunday) or ``custom``. Days are those of UTC.
        period: ``2026-03-01``, ``2026-W10``, ``2026-03`` or ``2026-03-01/2026-03-10``; default the last whole day or
            week before the job was enqueued.
        formats: which files are made, from the same figures.
        metrics: which figures, by name, in this order; default all that are registered.
        lang: ``en`` or ``fr``.
        mail_to: who gets a mail with the link; default, of daily and weekly ones, ``ARQD_REPORTS__MAIL_TO``.
    """

    kind: Kind
    period: str | None = Field(None, max_length=40)
    formats: Annotated[tuple[Format, ...], AfterValidator(_each_once), Field(min_length=1)] = ("pdf",)
    metrics: Annotated[tuple[str, ...], AfterValidator(_each_once), Field(min_length=1, max_length=100)] | None = None
    lang: Language | None = None
    mail_to: Recipients | None = None

    @model_validator(mode="after")
    def _of_a_period(self) -> Self:
        period_of(self.kind, self.period, datetime.now(UTC))
        return self
